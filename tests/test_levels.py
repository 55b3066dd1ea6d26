"""levels/*/ is the truth: which files and which practices a level adds, what proves them, and what is not there yet."""

import csv
import functools
import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import (
    CIS,
    GROWS,
    LEVELS,
    PROBLEMS,
    ROOT,
    Render,
    faults,
    files_in,
    package_of,
    planted,
    reads,
    settings,
    tracked,
    user_owned,
)
from pathspec import GitIgnoreSpec

FOLDERS = {int(folder.name[0]): folder for folder in sorted(ROOT.glob("levels/[0-9]-*"))}
CLIMBS = [(level, problem, ci) for level in LEVELS[1:] for problem in PROBLEMS for ci in CIS]


@functools.cache
def manifest(level: int) -> list[str]:
    """Return the patterns of levels/N-*/files.yml, which must be one `if` around a plain list."""
    (text,) = yaml.safe_load(reads(FOLDERS[level] / "files.yml"))["_exclude"]
    first, *patterns, last = text.splitlines()
    assert (first, last) == (f"{{% if level < {level} %}}", "{% endif %}")
    assert all(re.fullmatch(r"/[^\s{}]*[^\s{}/]", pattern) for pattern in patterns), patterns
    return patterns


def owner(name: str) -> int:
    """Return the one level that a file belongs to: the one whose line names it, or names the nearest folder above it."""
    lines = [(pattern.count("/"), level) for level in LEVELS for pattern in manifest(level) if names(pattern, name)]
    assert lines, f"{name} stands in no levels/*/files.yml"
    nearest = {level for depth, level in lines if depth == max(lines)[0]}
    assert len(nearest) == 1, f"{name} stands in the files.yml of the levels {sorted(nearest)}"
    return nearest.pop()


def names(pattern: str, name: str) -> bool:
    return GitIgnoreSpec.from_lines([pattern]).match_file(name)


def listed(level: int, every: set[str]) -> set[str]:
    return {name for name in every if owner(name) == level}


def practices(level: int) -> list[dict[str, Any]]:
    return yaml.safe_load(reads(FOLDERS[level] / "practices.yml"))


def every_practice() -> list[Any]:
    return [pytest.param(level, item, id=item["id"]) for level in LEVELS for item in practices(level)]


def test_levels_are_the_choices_of_the_question() -> None:
    choices = settings()["level"]["choices"]
    assert list(choices.values()) == LEVELS == list(range(len(LEVELS)))
    assert all(choice.startswith(f"{level} ") for choice, level in choices.items())


@pytest.mark.parametrize("ci", CIS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("level", LEVELS)
def test_level_adds_exactly_its_manifest(level: int, problem: str, ci: str, rendered: Render) -> None:
    below = files_in(rendered(level - 1, problem, ci)) if level else set()
    every = files_in(rendered(LEVELS[-1], problem, ci))
    assert files_in(rendered(level, problem, ci)) - below == listed(level, every)
    for pattern in manifest(level):
        if ci == "github" or not pattern.startswith("/.github"):
            assert any(names(pattern, name) for name in every), f"{pattern} is no file of the project"


@pytest.mark.parametrize("level", LEVELS)
def test_no_folder_is_there_before_its_first_file(level: int, rendered: Render) -> None:
    """`maturity` takes a folder for evidence, and git would not keep an empty one."""
    folder = rendered(level)
    empty = [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())
    ]
    assert not empty, "name each in the files.yml of the level that first puts a file there"


@pytest.mark.parametrize(("level", "problem", "ci"), CLIMBS)
def test_level_takes_nothing_away_and_changes_nothing_else(level: int, problem: str, ci: str, rendered: Render) -> None:
    below, here = rendered(level - 1, problem, ci), rendered(level, problem, ci)
    assert files_in(below) <= files_in(here)
    changed = {name for name in files_in(below) if (below / name).read_bytes() != (here / name).read_bytes()}
    assert changed == GROWS


@pytest.mark.parametrize(("level", "problem", "ci"), CLIMBS)
def test_pyproject_grows_by_the_groups_of_the_level_between_two_stable_lines(
    level: int, problem: str, ci: str, rendered: Render
) -> None:
    below, here = (reads(rendered(n, problem, ci) / "pyproject.toml").splitlines() for n in (level - 1, level))
    at = next(number for number, (old, new) in enumerate(zip(below, here, strict=False)) if old != new)
    added = here[at : at + len(here) - len(below)]
    assert below == here[:at] + here[at + len(added) :], "more than one place changed"
    assert here.index(next(line for line in below if line.startswith("# levels: added by `copier update`"))) < at
    assert at + len(added) == here.index("# levels: end; groups of your own go below")
    assert all(name.startswith(f"level-{level}") for name in tomllib.loads("\n".join(added)))
    entry = r' +("[^"]+"|\{include-group = "level-\d"\}),|level-\d(-[a-z]+)? = \[|\]'
    assert all(re.fullmatch(entry, line) for line in added), "one entry a line"


@pytest.mark.parametrize("level", LEVELS)
def test_no_file_is_empty(level: int, rendered: Render) -> None:
    """At an update git takes an empty file that is new on both sides for one that was renamed, and copier for a conflict."""
    folder = rendered(level)
    assert [name for name in sorted(files_in(folder)) if not (folder / name).stat().st_size] == []


def test_every_template_file_belongs_to_one_level(rendered: Render) -> None:
    every = files_in(rendered(LEVELS[-1]))
    assert {owner(name) for name in every} == set(LEVELS)
    source = {name for name in tracked(ROOT) if name.startswith("template/") and (ROOT / name).exists()}
    assert len(source) == len(every), "a file of template/ is never rendered"


@pytest.mark.parametrize("level", LEVELS)
def test_page_of_the_level_explains_every_file_and_whose_it_is(level: int, rendered: Render) -> None:
    folder = rendered(level)
    every = files_in(folder)
    page = reads(folder / f"docs/levels/{FOLDERS[level].name}.md")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (yours|template|shared) \| \S.*\|$", page, re.MULTILINE))
    explained: dict[str, str] = {}
    for pattern, whose in rows.items():
        found = {name for name in every if names(f"/{pattern}", name)}
        assert found, f"{pattern} of the page is no file of level {level}"
        explained |= dict.fromkeys(found, whose)
    assert set(explained) == listed(level, every)
    wrong = {name for name, whose in explained.items() if (whose == "yours") != (name in user_owned(folder))}
    assert not wrong, "the page and _skip_if_exists in copier.yml differ"


@pytest.mark.parametrize("level", LEVELS)
def test_practices_are_those_of_the_catalogue(level: int) -> None:
    with (ROOT / "tests/catalogue.csv").open(newline="") as file:
        wanted = {row["id"]: row for row in csv.DictReader(file) if row["level"] == str(level)}
    found = {practice["id"]: practice for practice in practices(level)}
    assert len(found) == len(practices(level)), "an id stands twice"
    assert set(found) == set(wanted)
    for name, practice in found.items():
        assert practice["kind"] == wanted[name]["kind"], name
        assert str(practice.get("ends_at", "")) == wanted[name]["ends_at"], name


@pytest.mark.parametrize(("level", "practice"), every_practice())
def test_evidence_exists(level: int, practice: dict[str, Any], rendered: Render) -> None:
    folder = rendered(level)
    assert set(practice) <= {"id", "title", "kind", "ends_at", "tests", "pages", "absent"}
    assert any(practice.get(kind) for kind in ("tests", "pages", "absent")), "nothing proves it"
    for name in practice.get("tests", []):
        markers = re.findall(r"@pytest\.mark\.practice\(([^)]*)\)", reads(folder / name))
        assert any(f'"{practice["id"]}"' in ids for ids in markers), f"no test in {name} is marked with it"
    for page in practice.get("pages", []):
        name, _, heading = page.partition("#")
        assert re.search(rf"^#+ {re.escape(heading)}$", reads(folder / name), re.MULTILINE), page


@pytest.mark.parametrize(("level", "practice"), every_practice())
def test_what_a_level_lacks_is_not_there(level: int, practice: dict[str, Any], rendered: Render) -> None:
    """Holds from the level of the characteristic to the one that ends it."""
    for at in LEVELS[level : practice.get("ends_at")]:
        for pattern in practice.get("absent", []):
            assert not list(rendered(at).glob(pattern)), f"{pattern} at level {at}"


def test_every_marker_names_a_practice(rendered: Render) -> None:
    """A marker may name a practice of a level not built yet; a misspelt one is evidence of nothing."""
    with (ROOT / "tests/catalogue.csv").open(newline="") as file:
        catalogue = {row["id"] for row in csv.DictReader(file)}
    for path in rendered(LEVELS[-1]).rglob("tests/**/test_*.py"):
        for ids in re.findall(r"@pytest\.mark\.practice\(([^)]*)\)", reads(path)):
            assert set(re.findall(r'"([^"]+)"', ids)) <= catalogue, path.name


# What first comes at level N: files, libraries, and commands that a workflow may run by itself.
COMES_AT = {
    1: (
        [".github", ".pre-commit-config.yaml", "noxfile.py", "conf", "runtime/**/ingest.py", "runtime/**/serve.py"],
        ["fastapi", "uvicorn", "nox", "pre-commit", "prometheus-client"],
        [],
    ),
    2: (
        ["dvc.yaml", ".dvc", "conf/training.yml", "runtime/**/train.py", "runtime/**/runs.py", "runtime/**/promote.py"],
        ["mlflow", "dvc", "optuna", "great-expectations", "dask", "distributed"],
        ["train", "tune", "reproduce"],
    ),
    3: (
        ["Containerfile", "deploy", "runtime/**/gate.py", "runtime/**/deploy.py", "runtime/**/rollback.py"],
        ["onnxruntime", "fairlearn"],
        ["promote", "gate", "deploy", "approve", "rollback"],
    ),
    4: (
        ["conf/monitoring.yml", "runtime/**/monitor.py", "runtime/**/retrain.py", "runtime/**/feedback.py"],
        ["polars"],
        ["monitor", "retrain", "experiment", "simulate"],
    ),
}


@pytest.mark.parametrize(("level", "above"), [(low, high) for low in LEVELS for high in COMES_AT if low < high])
def test_level_has_nothing_of_a_higher_one(level: int, above: int, rendered: Render) -> None:
    folder = rendered(level)
    patterns, libraries, commands = COMES_AT[above]
    assert not [str(path) for pattern in patterns for path in folder.glob(pattern)]
    modules = "|".join(library.replace("-", "_") for library in libraries)
    for path in folder.rglob("*.py"):
        assert not re.search(rf"^\s*(import|from) ({modules})\b", reads(path), re.MULTILINE), path
    assert not set(libraries) & wanted(folder)
    for path in folder.glob(".github/workflows/*.yml"):
        workflow = yaml.safe_load(reads(path))
        if set(workflow[True]) - {"workflow_dispatch"}:  # YAML reads the key `on` as True; a person may do it by hand
            called = re.findall(rf"python -m {package_of(folder)} ([a-z-]+)", reads(path))
            assert not set(called) & set(commands), path.name


@pytest.mark.parametrize("level", COMES_AT)
def test_what_comes_at_a_level_is_there_from_it_on(level: int, rendered: Render) -> None:
    """Else a name that changed would be missing everywhere, and below the level nobody would notice what came early."""
    patterns, libraries, _ = COMES_AT[level]
    for at in LEVELS[level:]:
        assert not [pattern for pattern in patterns if not list(rendered(at).glob(pattern))]
        assert set(libraries) - wanted(rendered(at)) <= {"dask"}  # comes with distributed


def wanted(folder: Path) -> set[str]:
    """Return the names of the libraries that the project asks for, those of the runtime's extras that it takes included."""
    project, runtime = (tomllib.loads(reads(folder / name)) for name in ("pyproject.toml", "runtime/pyproject.toml"))
    named = [*project["project"]["dependencies"], *itertools.chain(*project["dependency-groups"].values())]
    named = [name for name in named if isinstance(name, str)]
    extras = {extra for name in named for extra in re.findall(r"^mlops-ladder\[(.*)\]", name)}
    taken = [runtime["project"]["optional-dependencies"][extra] for names in extras for extra in names.split(",")]
    named += itertools.chain(runtime["project"]["dependencies"], *taken)
    return {re.split(r"[^\w.-]", name)[0] for name in named}


def test_no_level_has_more_files_than_a_person_inherits(rendered: Render) -> None:
    """Those of the project itself; and, with the runtime, those that lie there to be read."""
    for level, most, most_to_read in zip(LEVELS, (16, 46, 62, 92, 112), (50, 91, 130, 203, 258), strict=True):
        there = [name for name in files_in(rendered(level)) if not name.startswith("data/sample/")]
        inherited = [name for name in there if not name.startswith("runtime/")]
        assert len(inherited) <= most, f"level {level} has {len(inherited)} files"
        assert len(there) <= most_to_read, f"level {level} has {len(there)} files with the runtime"


@pytest.mark.parametrize("level", LEVELS)
def test_each_fault_can_be_planted_and_its_tests_are_there(level: int, rendered: Render) -> None:
    """In seconds; tests/test_generated.py plants each and runs the tests."""
    for fault in faults(level):
        folder = rendered(LEVELS[-1], fault.get("problem", "classification"))
        planted(folder, fault)
        for file, _, test in (name.partition("::") for name in fault["tests"]):
            place = ROOT / file if file.startswith("tests/runtime/") else folder / file
            assert not test or f"def {test.partition('[')[0]}(" in reads(place), f"{fault['name']}: no {test}"
