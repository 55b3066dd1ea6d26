"""The questions: every bad answer gets one clear line and leaves nothing behind, every good one gives a project."""

import keyword
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import LEVELS, RELEASE, ROOT, Render, answers_of, package_of, reads, render, sources

# Prints the import names of what the levels' dependency groups name, without what those need in turn: that changes.
MODULES = """
import importlib.metadata, re, tomllib
project, runtime = (tomllib.load(open(f"{folder}pyproject.toml", "rb")) for folder in ("", "runtime/"))
wanted = [*project["project"]["dependencies"], *sum(project["dependency-groups"].values(), [])]
wanted += [*runtime["project"]["dependencies"], *sum(runtime["project"]["optional-dependencies"].values(), [])]
plain = {re.match(r"[\\w.-]+", name)[0].lower().replace("_", "-") for name in wanted if isinstance(name, str)}
for module, sources in importlib.metadata.packages_distributions().items():
    if plain & {source.lower().replace("_", "-") for source in sources}:
        print(module)
"""

BAD = [
    *[("package_name", name, "already has a module of that name") for name in ["class", "match", "os", "cgi", "test"]],
    *[("package_name", name, "already has a module of that name") for name in ["numpy", "src", "yes", "null", "con"]],
    *[
        ("package_name", name, "use lower-case letters")
        for name in ["a-b", "1a", "Abc", "ümlaut", "", "a b", "a\n", "x.y"]
    ],
    *[("package_name", name, "use lower-case letters") for name in ["_a", "a_", "日本", "../up", "a\nb"]],
    ("package_name", "a" * 61, "has 61 characters"),
    ("project_name", "", "is empty"),
    ("project_name", "  ", "is empty"),
    ("project_name", "late ", "leave out the blank"),
    ("project_name", "x" * 81, "has 81 characters"),
    *[
        ("project_name", name, "leave them out")
        for name in ["a\nb", "a\tb", "a\\b", "{{ 7 * 7 }}", "{% raw %}", "a\u2028b"]
    ],
    *[("level", level, f"{level} is not in") for level in [-1, max(LEVELS) + 1, 5]],
    ("level", "high", "'high'"),
    ("problem", "clustering", "'clustering' is not in ['classification', 'regression']"),
    ("problem", "", "'' is not in"),
    ("ci", "jenkins", "'jenkins' is not in ['github', 'none']"),
    ("runtime", "pypi", "'pypi' is not in ['project', 'package']"),
]
# Of a released runtime: what is not given stands as in PACKAGE.
PACKAGE = {"runtime": "package", "runtime_source": "https://example.org/simple/", "runtime_version": "1.0.0"}
BAD += [
    *[
        ("runtime_source", source, "give the address of an index")
        for source in ["", "pypi", "/srv/index", "ftp://example.org/", "https://a b/", 'https://a"b/', "https://a\nb/"]
    ],
    *[
        ("runtime_source", f"{scheme}://{user}@example.org/simple/", "runtime_source holds a password")
        for scheme, user in [
            ("https", "ada:secret"),
            ("http", ":secret"),
            ("git+https", "a-token"),
            ("git+ssh", "git:secret"),
        ]
    ],
    *[("runtime_version", version, "give one version") for version in ["", ">=1", "1.0, 2.0", "*", '1"', "1.0\n"]],
]

GOOD = {
    'Jürgen\'s "Modell" & Co': "juergen_s_modell_co",
    "3 ways to be late": "project_3_ways_to_be_late",
    "🚀 Launch": "launch",
    "日本": "project",
    "Import": "project_import",
    "null": "project_null",
    "2013-01-01": "project_2013_01_01",
    "Flight: delays #1": "flight_delays_1",
    "%(x)s $HOME `id` <b> [link](x) *a* !tag @me": "x_s_home_id_b_link_x_a_tag_me",
    "'''\"\"\"": "project",
    "- x": "x",
    "x" * 80: "x" * 50,
}


def copier(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run copier as a person types it, with nothing to answer from."""
    command = [sys.executable, "-m", "copier", *map(str, words)]
    environ = os.environ | {"PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize(("question", "answer", "line"), BAD, ids=lambda value: repr(value)[:30])
def test_bad_answer_gets_one_clear_line_and_leaves_nothing(
    question: str, answer: object, line: str, snapshot: Path, tmp_path: Path
) -> None:
    others = PACKAGE if question.startswith("runtime_") else {}
    with pytest.raises(ValueError, match=re.escape(line)) as refused:
        render(snapshot, tmp_path / "project", **{**others, question: answer})
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "source",
    [
        *["https://example.org/simple/", "http://127.0.0.1:8080", "file:///srv/index"],
        *["git+https://example.org/runtime.git", "git+ssh://git@example.org/runtime.git"],
    ],
)
def test_a_released_runtime_is_named_and_its_folder_is_absent(source: str, snapshot: Path, tmp_path: Path) -> None:
    folder = render(snapshot, tmp_path / "project", **{**PACKAGE, "runtime_source": source})
    assert answers_of(folder) | {**PACKAGE, "runtime_source": source} == answers_of(folder)
    uv = tomllib.loads(reads(folder / "pyproject.toml"))["tool"]["uv"]
    assert source.removeprefix("git+") in str(uv) and "1.0.0" in reads(folder / "pyproject.toml")
    assert "workspace" not in uv and not (folder / "runtime").exists()


def test_bad_answer_on_the_command_line_ends_with_the_reason(snapshot: Path, tmp_path: Path) -> None:
    done = copier("copy", "--defaults", "-d", "package_name=class", snapshot, "project", folder=tmp_path)
    assert done.returncode != 0
    assert (
        "package_name is class: Python or a library already has a module of that name" in done.stderr.splitlines()[-1]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("project_name", GOOD)
def test_odd_name_gives_a_project_that_works(
    project_name: str, snapshot: Path, environment: Render, tmp_path: Path
) -> None:
    folder = render(snapshot, tmp_path / "project", project_name=project_name, level=max(LEVELS))
    assert package_of(folder) == GOOD[project_name]
    assert answers_of(folder)["project_name"] == project_name
    assert tomllib.loads(reads(folder / "pyproject.toml"))["project"]["description"] == project_name
    assert reads(folder / "README.md").splitlines()[0] == f"# {project_name}"
    for file in [*folder.rglob("*.yml"), *folder.rglob("*.yaml")]:
        list(yaml.safe_load_all(reads(file)))
    for file in folder.rglob("*.py"):
        compile(reads(file), str(file), "exec")
    command = [environment(max(LEVELS)), "-m", package_of(folder), "--help"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": sources(folder)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_package_may_hide_a_module_of_python_or_of_a_dependency(environment: Render, rendered: Render) -> None:
    question = yaml.safe_load(reads(ROOT / "levels/reserved_names.yml"))["reserved_names"]
    python = environment(max(LEVELS))
    done = subprocess.run(
        [python, "-c", MODULES], cwd=rendered(max(LEVELS)), capture_output=True, text=True, check=True
    )
    names = {*sys.stdlib_module_names, *keyword.kwlist, *keyword.softkwlist, *done.stdout.split()}
    missing = {name for name in names if re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name)}
    missing -= set(question["default"].split())
    assert not missing, f"add to levels/reserved_names.yml: {', '.join(sorted(missing))}"


def test_a_refusal_ends_as_the_readme_shows(snapshot: Path, tmp_path: Path) -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert copier("copy", "--defaults", "--data", "level=1", snapshot, "project", folder=tmp_path).returncode == 0
    for level in (0, 7):
        words = ("copy", "--overwrite", "--defaults", "--data", f"level={level}", snapshot, "project")
        refused = copier(*words, folder=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.rstrip().splitlines()[-1] in shown


def test_defaults_ask_nothing_and_need_no_trust(snapshot: Path, tmp_path: Path) -> None:
    done = copier("copy", "--defaults", snapshot, "project", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert answers_of(tmp_path / "project") == {
        "_commit": RELEASE,
        "_src_path": str(snapshot),
        "project_name": "Flight delays",
        "package_name": "flight_delays",
        "level": 0,
        "problem": "classification",
        "ci": "github",
        "runtime": "project",
    }
    after = done.stderr.partition("Next:")[2]
    assert "cd project" in after
    steps = ["uv lock", "git init --initial-branch main && git add --all && git commit"]
    assert [line for line in steps if line not in after] == []
    assert "docs/levels/0-no-mlops.md" in after and (tmp_path / "project/docs/levels/0-no-mlops.md").is_file()
    assert "uv run python -m flight_delays" in after
