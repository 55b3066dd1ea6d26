"""Read conf/*.yml strictly: a key that does not exist, or a value of the wrong type, is an error that names it."""

import os
import re
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pydantic
import yaml

from .errors import ProjectError
from .project import Project

CONF = Path("conf")


class Settings(pydantic.BaseModel, extra="forbid", frozen=True):
    """The shape of one configuration file; the values and the reason of each stand in the file."""


S = TypeVar("S", bound=Settings)


def read(project: Project, name: str, shape: type[S], changes: dict[str, Any] | None = None) -> S:
    """Return conf/NAME.yml, or the file NAME if it ends so, as SHAPE, CHANGES ({"parameters.max_iter": 50}) over it.

    Raises ProjectError with file, key and what was expected.
    """
    file = project.path(name) if name.endswith(".yml") else project.path(CONF) / f"{name}.yml"
    if not file.is_file():
        raise ProjectError(f"no {file} here: run this in the project's own folder")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            place = values
            for parent in parents:
                if not isinstance(place.get(parent), dict):
                    place[parent] = {}
                place = place[parent]
            place[last] = value
        return shape.model_validate(values)
    except yaml.YAMLError as error:
        raise ProjectError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key, message = ".".join(map(str, first["loc"])), first["msg"][0].lower() + first["msg"][1:]
        raise ProjectError(f"{file}: {key}: {message} (given: {first['input']!r})") from error


def anchored(project: Project, url: str) -> str:
    """Return URL with the file of an SQLite database taken from the project's folder; any other URL as it is."""
    scheme, marked, file = url.partition(":///")
    return f"{scheme}:///{project.path(file)}" if marked and scheme.startswith("sqlite") and file else url


PASSWORD = re.compile(r"://[^/@:]*:(?!\$\{)[^/@]+@")  # in a URL, in plain sight
NAMED = re.compile(r"\$\{(\w+)\}")  # a secret's place in a URL: its value stands in the environment, never in a file


def expand(text: str) -> str:
    """Return TEXT with each ${NAME} replaced from the environment, percent-encoded when it is a part of a URL."""
    absent = [name for name in NAMED.findall(text) if name not in os.environ]
    if absent:
        raise ProjectError(f"{text} needs the environment variable {', '.join(absent)}: set it and run this again")
    in_url = "://" in text
    return NAMED.sub(lambda found: quote(os.environ[found[1]], safe="") if in_url else os.environ[found[1]], text)


def hide(message: str, text: str) -> str:
    """Return MESSAGE without the values of TEXT's ${NAME}: for what a library says about a URL it was given."""
    for name in NAMED.findall(text):
        value = os.environ.get(name, "")
        passwords = re.findall(r"://[^/@:]*:([^/@]+)@", value)  # when the whole URL is one variable
        for secret in filter(None, (value, quote(value, safe=""), *passwords)):
            message = message.replace(secret, f"${{{name}}}")
    return message
