"""What git says of the project."""

import subprocess

from .project import Project


def git(project: Project, *words: str) -> str:
    """Return what git says, or "" when it cannot."""
    return subprocess.run(
        ["git", *words], cwd=project.folder, capture_output=True, text=True, check=False
    ).stdout.strip()


def dirty(project: Project) -> bool:
    """Whether there is anything that no commit holds; dvc.lock, which a run itself writes, aside."""
    return bool(git(project, "status", "--porcelain", "--", ".", ":!dvc.lock"))
