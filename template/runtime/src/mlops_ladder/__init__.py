"""What runs a project: in layers, core, data, training, serving, release, loop; levels/ says what each level adds."""

from .core.project import Project

__all__ = ["Project"]
