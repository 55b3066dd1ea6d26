"""Make, list and remove the keys that callers of the service send; a new one is shown once, its hash is kept.

python -m {package} keys add shop --scope predict
python -m {package} keys list
python -m {package} keys remove shop
curl -H "Authorization: Bearer KEY" ...

As soon as there is a key, the service asks for one, within a second and without a restart. A server elsewhere gets the
lines of data/keys, which are hashes, in the environment variable SERVICE_KEYS.
"""

import argparse
import hashlib
import os
import re
import secrets
from pathlib import Path

from ..core import files
from ..core.errors import ProjectError, UsageError
from ..core.project import Project

FILE = Path("data/keys")  # kept out of git, as all of data/
MADE = FILE.with_suffix(".made")  # there was a key once: without one the service is closed from then on, not open
WAIT_S = 30  # for others that change the keys; each takes milliseconds
SCOPES = ("predict", "admin")  # predict: ask for predictions; admin: that, the metrics and whatever else there is


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["add", "list", "remove"])
    parser.add_argument("name", nargs="?", help="whose key it is: it is counted and limited under this name")
    parser.add_argument("--scope", choices=SCOPES, default="predict", help="(default: %(default)s)")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.action == "list":
        for name, scope in read(project).values():
            print(f"{name} {scope}")
        return
    if not re.fullmatch(r"[\w.-]+", options.name or ""):
        raise UsageError(f"name is {options.name}, must be letters, digits, '.', '-' and '_': whose key is it?")
    with files.locked(project.path(FILE).with_name(f".{project.path(FILE).name}.lock"), WAIT_S):
        print(change(project, options))


def change(project: Project, options: argparse.Namespace) -> str:
    """Add or remove a key; return the new one, or what was done."""
    keys, elsewhere = kept(project), [name for name, _ in given().values()]
    names = {name: digest for digest, (name, _) in keys.items()}
    if options.action == "remove":
        if options.name in elsewhere:
            raise ProjectError(f"{options.name} has a key in SERVICE_KEYS: take it out there")
        if options.name not in names:
            raise ProjectError(f"no key of {options.name}; there are: {', '.join(names) or 'none'}")
        del keys[names[options.name]]
        write(project, keys)
        line = f"removed the key of {options.name}"
        if not read(project):
            line += f"\nit was the last, so nobody is answered: add one, or delete {FILE} and {MADE} to open it to all"
        return line
    if options.name in [*names, *elsewhere]:
        raise ProjectError(
            f"{options.name} has a key: remove it first, or give the new one another name for the change"
        )
    key = secrets.token_urlsafe(32)
    write(project, keys | {hashed(key): (options.name, options.scope)})
    return key


def hashed(key: str) -> str:
    """Return what is kept of KEY; a fast hash is enough for 256 random bits, which nobody tries out."""
    return hashlib.sha256(key.encode()).hexdigest()


def read(project: Project) -> dict[str, tuple[str, str]]:
    """Return {hash: (name, scope)} of the keys in data/keys and in SERVICE_KEYS."""
    return kept(project) | given()


def kept(project: Project) -> dict[str, tuple[str, str]]:
    try:
        return parse(project.path(FILE).read_text(encoding="utf-8"), str(project.path(FILE)))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ProjectError(f"{FILE} cannot be read ({error.strerror}): mend it, or bring it back") from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"{FILE} is no text: bring it back, or delete it and add each key again") from error


def given() -> dict[str, tuple[str, str]]:
    return parse(os.environ.get("SERVICE_KEYS", ""), "SERVICE_KEYS")


def parse(text: str, place: str) -> dict[str, tuple[str, str]]:
    keys = {}
    for n, line in enumerate(text.splitlines(), 1):
        if line.strip():
            name, scope, digest, *more = line.split() + ["", "", ""]
            if scope not in SCOPES or not re.fullmatch(r"[0-9a-f]{64}", digest) or any(more):
                raise ProjectError(f"{place}, line {n}, is not `NAME SCOPE SHA256`: take it out and add that key again")
            keys[digest] = (name, scope)
    return keys


def asked(project: Project) -> bool:
    """Whether there are keys or ever were: the last one removed, or their file gone, opens nothing."""
    return project.path(FILE).exists() or project.path(MADE).exists() or "SERVICE_KEYS" in os.environ


def stamp(project: Project) -> tuple[int, int, int] | None:
    """Return what changes whenever data/keys does; None: there is none."""
    try:
        facts = project.path(FILE).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def write(project: Project, keys: dict[str, tuple[str, str]]) -> None:
    project.path(FILE).parent.mkdir(parents=True, exist_ok=True)
    project.path(MADE).touch()
    new = project.path(FILE).with_name(f".{project.path(FILE).name}.new")
    new.touch(mode=0o600)
    new.write_text("".join(f"{name} {scope} {digest}\n" for digest, (name, scope) in keys.items()), encoding="utf-8")
    new.replace(project.path(FILE))  # at once: a service that reads it meanwhile sees all keys
