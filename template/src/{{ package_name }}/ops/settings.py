"""Read conf/*.yml strictly: a key that does not exist, or a value of the wrong type, is an error that names it."""

from pathlib import Path
from typing import TypeVar

import pydantic
import yaml

from . import ProjectError

CONF = Path("conf")


class Settings(pydantic.BaseModel, extra="forbid", frozen=True):
    """The shape of one configuration file; the values and the reason of each stand in the file."""


S = TypeVar("S", bound=Settings)


def read(name: str, shape: type[S]) -> S:
    """Return conf/NAME.yml as SHAPE; raises ProjectError with file, key and what was expected."""
    file = CONF / f"{name}.yml"
    if not file.is_file():
        raise ProjectError(f"no {file} here: run this in the project's own folder")
    try:
        return shape.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise ProjectError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ProjectError(f"{file}: {key}: {first['msg'].lower()} (given: {first['input']!r})") from error
