"""The files of a project, level by level, with purpose and owner: the data of the page that compares two levels."""

import functools
import json
import re
from fnmatch import fnmatch
from typing import Any, NamedTuple

import jinja2
from docs_sources import EXAMPLE, TEMPLATE, added, existing

SKIPPED = ("__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache", ".venv")
ROW = re.compile(r"^\| `([^`]+)` \| (yours|template|shared) \| (\S.*?) \|$", re.MULTILINE)


class File(NamedTuple):
    """A file of a generated project: its path, the level that brings it, whose it is and what it is for."""

    path: str
    level: int
    owner: str
    purpose: str


def page(level: dict[str, Any]) -> str:
    """Return the page of a level as it stands in a project called flights."""
    source = next((TEMPLATE / "docs/levels").glob(f"{level['number']}-*.md.jinja"))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source.read_text(encoding="utf-8")).render(EXAMPLE, level=level["number"])


@functools.cache
def files() -> list[File]:
    """Return the files of a project of the highest level, by path; raises LookupError where no page explains one."""
    found = []
    for path in paths():
        number = max(level["number"] for level in existing() if any(within(path, at) for at in added(level)))
        row = next((row for row in explained(number) if within(path, row[0])), None)
        if row is None:
            raise LookupError(f"the page of level {number} does not explain {path}")
        found.append(File(path, number, row[1], row[2]))
    return found


@functools.cache
def explained(number: int) -> list[tuple[str, str, str]]:
    """Return the rows of a level's page about files: pattern, owner, purpose."""
    return ROW.findall(page(existing()[number]))


def paths() -> list[str]:
    """Return the paths that template/ has in a project called flights."""
    names = [
        file.relative_to(TEMPLATE).as_posix()
        for file in TEMPLATE.rglob("*")
        if file.is_file() and not any(part in SKIPPED or part.endswith(".egg-info") for part in file.parts)
    ]
    place = {"{{ _copier_conf.answers_file }}": ".copier-answers.yml", "{{ package_name }}": EXAMPLE["package_name"]}
    plain = [functools.reduce(lambda name, pair: name.replace(*pair), place.items(), name) for name in names]
    return sorted(name.removesuffix(".jinja") for name in plain)


def within(path: str, pattern: str) -> bool:
    """Return whether PATTERN names PATH or a folder of it; `*` stands within one name."""
    names, parts = path.split("/"), pattern.rstrip("/").split("/")
    return len(parts) <= len(names) and all(fnmatch(name, part) for name, part in zip(names, parts, strict=False))


def data() -> str:
    """Return the files as JSON in a script element: `{"levels": [names], "files": [[path, level, owner, purpose], ...]}`."""
    names = [f"{level['number']} {level['name']}" for level in existing()]
    text = json.dumps({"levels": names, "files": files()}, ensure_ascii=False, separators=(",", ":"))
    return f'<script type="application/json" id="explorer-data">{text.replace("<", chr(92) + "u003c")}</script>\n'


def level_names() -> str:
    """Return the names of the levels as JSON for an attribute in single quotes."""
    return json.dumps([f"{level['number']} ({level['name']})" for level in existing()]).replace("'", "&#39;")
