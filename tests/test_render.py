"""Every rendered project, as it lies on disk: nothing left of the template, everything parses, everything is clean."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import nbformat
import pytest
import yaml
from conftest import CIS, LEVELS, PROBLEMS, ROOT, Render, files_in, package_of, reads, sources, tracked

BINARY = {".parquet", ".png", ".ico"}
LEFTOVER = re.compile(
    r"\{\{-?\s*(project_name|package_name|level|problem|ci|runtime\w*|_copier\w*|cookiecutter)\b|\{%|\{#"
)
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|\b\d{12}\.dkr\.ecr\.|arn:aws:iam::\d|[a-z0-9]+\.azurecr\.io|\bgh[pousr]_\w{20}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|AccountKey=|subscriptions/[0-9a-f]{8}-|xox[abp]-\w{10}"
)
RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
# Prints the list of commands and, after a form feed each, what each answers to --help; one process, for the imports.
HELP = """
from mlops_ladder.core import commands
from {package}.__main__ import PROJECT, main
main(["--help"])
for name in commands.known(PROJECT):
    print(end="\\f")
    try:
        main([name, "--help"])
    except SystemExit as done:
        assert done.code == 0
"""


@pytest.fixture(params=[(level, problem, ci) for level in LEVELS for problem in PROBLEMS for ci in CIS], ids=str)
def folder(request: pytest.FixtureRequest, rendered: Render) -> Path:
    return rendered(*request.param)


@pytest.fixture(params=[(level, problem) for level in LEVELS for problem in PROBLEMS], ids=str)
def github_folder(request: pytest.FixtureRequest, rendered: Render) -> Path:
    """A render with the package's files, which are the same without CI."""
    return rendered(*request.param)


def files(folder: Path, *endings: str) -> Iterator[Path]:
    """Yield all files of the render, or those whose name ends so."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (not endings or path.name.endswith(endings)):
            yield path


def text_files(folder: Path) -> Iterator[Path]:
    return (path for path in files(folder) if path.suffix not in BINARY)


def test_nothing_is_left_of_jinja(folder: Path) -> None:
    found = {}
    for path in text_files(folder):
        assert "{" not in str(path.relative_to(folder)), path
        assert path.suffix not in (".jinja", ".rej", ".orig"), path
        if match := LEFTOVER.search(reads(path)):
            found[str(path.relative_to(folder))] = match[0]
    assert not found


def test_text_ends_with_one_line_break_and_has_no_trailing_blanks(folder: Path) -> None:
    wrong = []
    for path in text_files(folder):
        text = reads(path)
        wrong += [f"{path.relative_to(folder)}: carriage return"] * ("\r" in text)
        wrong += [f"{path.relative_to(folder)}: end of file"] * bool(text and not re.search(r"\S\n\Z", text))
        for number, line in enumerate(text.splitlines(), 1):
            wrong += [f"{path.relative_to(folder)}:{number}: trailing blank"] * (line != line.rstrip())
    assert not wrong


def test_every_file_parses(folder: Path) -> None:
    for path in files(folder, ".yml", ".yaml"):
        list(yaml.safe_load_all(reads(path)))
    for path in files(folder, ".toml"):
        tomllib.loads(reads(path))
    for path in files(folder, ".json"):
        json.loads(reads(path))
    for path in files(folder, ".py"):
        ast.parse(reads(path), str(path), feature_version=(3, 11))
    for path in files(folder, ".ipynb"):
        notebook = nbformat.reads(reads(path), as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells), f"{path.name} is committed with outputs"


def test_names_work_on_windows(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in files(folder)]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert len(name) < 120, name
        for part in PurePosixPath(name).parts:
            assert not re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', part), name
            assert part.partition(".")[0].lower() not in RESERVED_ON_WINDOWS, name


def test_no_cloud_account_and_no_secret(folder: Path) -> None:
    found = [f"{path.relative_to(folder)}: {m[0]}" for path in text_files(folder) if (m := SECRETS.search(reads(path)))]
    assert not found


def test_git_keeps_every_file(project: Render) -> None:
    """None is ignored by the project's own .gitignore."""
    folder = project(max(LEVELS))
    assert tracked(folder) == files_in(folder)


def test_ruff_finds_nothing_and_would_format_nothing(folder: Path) -> None:
    check_with_ruff(folder)


def test_template_is_clean_where_it_lies() -> None:
    check_with_ruff(ROOT)


def check_with_ruff(folder: Path) -> None:
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        command = [sys.executable, "-m", "ruff", *words, "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing(github_folder: Path, environment: Render, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = environment(max(LEVELS))  # the tool comes with level 1, the code of level 0 is held to it all the same
    cache = tmp_path_factory.getbasetemp() / "mypy"  # one a worker: the libraries are the same for all
    command = [python, "-m", "mypy", f"--cache-dir={cache}"]
    environ = os.environ | {"MYPYPATH": sources(github_folder)}
    done = subprocess.run(command, cwd=github_folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("level", LEVELS)
def test_every_command_helps_with_the_line_that_lists_it_and_how_to_type_it(
    level: int, rendered: Render, environment: Render
) -> None:
    folder = rendered(level)
    script = HELP.format(package=package_of(folder))
    environ = os.environ | {"PYTHONPATH": sources(folder), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [environment(level), "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed, *pages = done.stdout.split("\f")
    commands = dict(re.findall(r"^  ([a-z][a-z-]+)\s+(\S.*)$", listed, re.MULTILINE))
    assert {"score", "maturity"} <= set(commands)
    assert len(pages) == len(commands)
    for (name, line), page in zip(commands.items(), pages, strict=True):
        assert line in page
        assert f"python -m {package_of(folder)} {name}" in page.partition("options:")[0].split("\n", 2)[2]


def test_jinja_in_the_template_is_rare() -> None:
    """A tag stands on a line of its own, one deep; a file without one is not called .jinja; no condition in a name."""
    for name in sorted(tracked(ROOT)):
        if not name.startswith("template/") or Path(name).suffix in BINARY or not (ROOT / name).is_file():
            continue
        assert "{%" not in name
        lines = reads(ROOT / name).splitlines()
        tags = [line for line in lines if re.search(r"\{%", line)]
        if not name.endswith(".jinja"):
            continue
        assert tags or any("{{" in line for line in lines), f"{name} needs no rendering: drop .jinja"
        depth = 0
        for line in tags:
            assert re.fullmatch(r"\s*\{%-? .* -?%\}", line) and line.count("{%") == 1, f"{name}: {line}"
            depth += bool(re.search(r"\{%-? (if|for|raw)\b", line)) - bool(re.search(r"\{%-? end", line))
            assert depth in (0, 1), f"{name}: {line}"
