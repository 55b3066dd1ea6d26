"""Who somebody is: git's word for who works here, and when two such words name the same person."""

import unicodedata
from collections.abc import Iterable

from .project import Project
from .repository import git

EVERYBODY = "anyone"  # in conf/roles.yml
UNKNOWN = "unknown"  # who did what was done where git names nobody


def current(project: Project) -> str:
    """Return who git says works here, "" when it names nobody. It is a claim: anybody may set user.email."""
    return git(project, "config", "user.email")


def identity(person: str | None) -> str:
    """Return the text by which PERSON is compared: NFKC, without case, spaces and characters that show nothing."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", person or "").casefold())
    return "".join(sign for sign in text if not sign.isspace() and unicodedata.category(sign)[0] != "C")


def same(person: str | None, other: str | None) -> bool:
    """Whether both name one person; nobody is the same as nobody."""
    return bool(identity(person)) and identity(person) == identity(other)


def known(person: str | None) -> bool:
    """Whether PERSON names somebody at all."""
    return identity(person) not in ("", UNKNOWN)


def among(person: str, people: Iterable[str]) -> bool:
    """Whether PEOPLE, as conf/roles.yml lists them, hold PERSON or everybody."""
    return identity(person) in {identity(one) for one in people} or EVERYBODY in people
