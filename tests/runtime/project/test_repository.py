"""The repository itself: hooks that refuse what must not come in, CI that does what a person can do. The template's file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlops_ladder.core import commands
from projects import FLIGHTS, ROOT

PROJECT = ROOT
WORKFLOWS = sorted(PROJECT.glob(".github/workflows/*.yml"))  # none with the answer `ci: none`
NOT_COPIED = (".git", ".venv", ".*_cache", "__pycache__", "raw", "models", "dist", "feed", "site")


def call(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    identity = {f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix, **more}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with this project's settings and its hooks installed."""
    for file in (".pre-commit-config.yaml", ".gitattributes", ".gitignore", "pyproject.toml", ".copier-answers.yml"):
        shutil.copy(PROJECT / file, tmp_path)
    for words in (
        ["git", "init", "--quiet", "--initial-branch=main"],
        [sys.executable, "-m", "pre_commit", "install", "--hook-type=pre-commit"],
        ["git", "add", "--all"],
    ):
        done = call(tmp_path, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path


@pytest.mark.practice("source-control")
def test_a_clean_commit_passes_the_hooks(clone: Path) -> None:
    done = call(clone, "git", "commit", "--message=Start")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.practice("source-control")
@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("unused.py", "import os\n\nprint(undefined)\n", "F821"),
        ("conflict.yml", "a: 1\n<<<<<<< before updating\nb: 1\n", "conflict"),
        ("deploy.txt", "-----BEGIN RSA PRIVATE " + "KEY-----\n", "Private key found"),
        ("large.bin", "x" * 1_100_000, "exceeds 1000 KB"),
    ],
)
def test_a_bad_commit_is_refused_by_the_hooks(clone: Path, name: str, text: str, complaint: str) -> None:
    (clone / name).write_text(text, encoding="utf-8")
    call(clone, "git", "add", name)
    done = call(clone, "git", "commit", "--message=Spoil it")
    assert done.returncode == 1
    assert complaint in done.stdout + done.stderr
    assert call(clone, "git", "log").returncode == 128  # there is no commit yet


@pytest.mark.practice("source-control")
def test_data_models_and_environments_stay_out_of_git(clone: Path) -> None:
    for name in ("data/raw/a.parquet", "models/model.skops", ".venv/x", "dist/x.whl"):
        assert call(clone, "git", "check-ignore", "--quiet", name).returncode == 0, name
    assert call(clone, "git", "check-ignore", "--quiet", "data/sample/a.parquet").returncode == 1


@pytest.mark.practice("ci-pipeline")
def test_each_change_is_checked_by_sessions_that_a_person_can_run(tmp_path: Path) -> None:
    """They run here, in a copy, but for `tests`, which is what runs now."""
    sessions = {name for line in lines_on_each_change() for name in sessions_of(line)}
    assert {"lint", "types", "tests"} <= sessions

    shutil.copytree(PROJECT, tmp_path / "copy", ignore=shutil.ignore_patterns(*NOT_COPIED))
    assert call(tmp_path / "copy", "git", "init", "--quiet").returncode == 0
    done = call(tmp_path / "copy", sys.executable, "-m", "nox", "--session", *sorted(sessions - {"tests"}))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.practice("standard-ml-platform")
def test_workflows_and_hooks_call_only_sessions_and_commands_that_exist() -> None:
    listed = call(PROJECT, sys.executable, "-m", "nox", "--list").stdout
    there = set(re.findall(r"^[*-] (\S+)", listed, re.MULTILINE))
    for line in lines_on_each_change() + [line for file in WORKFLOWS for line in lines_of(file)]:
        assert sessions_of(line) <= there, line
        if sessions_of(line) == {"run"}:
            assert line.partition(" -- ")[2].split()[0] in commands.known(FLIGHTS), line


@pytest.mark.practice("standard-ml-platform")
def test_a_command_that_nox_runs_keeps_its_exit_code() -> None:
    done = call(PROJECT, sys.executable, "-m", "nox", "-s", "run", "--", "no-such-command")
    assert done.returncode == 2  # a usage error, as without nox
    assert "no command 'no-such-command'" in done.stderr


@pytest.mark.practice("project-template")
def test_the_project_knows_the_template_that_it_came_from() -> None:
    answers = yaml.safe_load((PROJECT / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers["_src_path"]
    assert {"level", "package_name", "problem", "ci"} <= set(answers)  # with these `copier update` asks nothing


def lines_on_each_change() -> list[str]:
    """Return what runs on each change: in the workflow ci, or, with the answer `ci: none`, in the hooks alone."""
    answers = yaml.safe_load((PROJECT / ".copier-answers.yml").read_text(encoding="utf-8"))
    if answers["ci"] == "github":
        return lines_of(PROJECT / ".github/workflows/ci.yml")
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    return ["uv run nox -s lint", *(hook["entry"] for hook in hooks if "pre-push" in hook.get("stages", []))]


def lines_of(workflow: Path) -> list[str]:
    """Return the command lines of a workflow, one for each entry of a job's matrix."""
    found = set()
    for job in yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {"": [""]})
        for line in "\n".join(step.get("run", "") for step in job.get("steps", [])).splitlines():
            found |= {line.replace("${{ matrix." + key + " }}", str(one)) for key in matrix for one in matrix[key]}
    return sorted(found - {""})


def sessions_of(line: str) -> set[str]:
    """Return the sessions in a line like `uv run nox -s lint types -- options`, none of another line."""
    words = line.partition(" -- ")[0].split()
    return set(words[4:]) if words[:4] == ["uv", "run", "nox", "-s"] else set()
