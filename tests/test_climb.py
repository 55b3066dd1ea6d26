"""Climbing with the real `copier update`: what the user wrote survives, what is the template's equals a fresh render.

`tests/edits` is laid over a project: files that a user may have added.
"""

import contextlib
import difflib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    GROWS,
    LEVELS,
    RELEASE,
    ROOT,
    Render,
    answers_of,
    commit,
    files_in,
    git,
    once,
    reads,
    render,
    user_owned,
)
from copier._cli import CopierApp

CLIMB = "copier update --vcs-ref=:current: --skip-answered --data level={level}"
UPDATE = "copier update --skip-answered"
PAIRS = [(low, high) for low in LEVELS for high in LEVELS if low < high and (high == low + 1 or high == LEVELS[-1])]
EVERY_CLIMB = [(*pair, "classification", "github") for pair in PAIRS]
EVERY_CLIMB += [(low, low + 1, "regression", "none") for low in LEVELS[:-1]]
MARKER = re.compile(r"^(<{7}|>{7}|={7}$)", re.MULTILINE)
NEXT_RELEASE = "v1.1.0"

# each step, and from the lowest level to the highest; the other leaps are `nox -s thorough`'s
over_pairs = pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param(low, high, marks=[pytest.mark.thorough] if LEVELS[0] < low < high - 1 else [])
        for low, high in PAIRS
    ],
    ids=str,
)


def run(folder: Path, command: str, exit_code: int = 0) -> None:
    """Run a copier command in FOLDER by way of its command line; raises what that would end with."""
    with contextlib.chdir(folder):
        _, code = CopierApp.run([*command.split(), "--quiet"], exit=False)
    assert code == exit_code, f"{command!r} ended with {code}"


def climb(folder: Path, level: int) -> Path:
    run(folder, CLIMB.format(level=level))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def is_text(name: str) -> bool:
    return not name.endswith(".parquet")


def conflicts(folder: Path) -> set[str]:
    """Return the files in which, or beside which, a conflict is marked."""
    found = files_in(folder)
    return {name for name in found if name.endswith((".rej", ".orig")) or (is_text(name) and marked(folder / name))}


def marked(path: Path) -> bool:
    return bool(MARKER.search(reads(path)))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def substitute(path: Path, old: str, new: str) -> None:
    assert reads(path).count(old) == 1, f"{path.name} holds {old!r} {reads(path).count(old)} times"
    write(path, reads(path).replace(old, new))


def lost_lines(before: str, after: str) -> list[str]:
    """Return the lines of BEFORE that are not in AFTER, in their order."""
    return [line[2:] for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line.startswith("- ")]


# Nothing edited


@pytest.mark.parametrize(("low", "high", "problem", "ci"), EVERY_CLIMB, ids=str)
def test_climb_equals_a_fresh_render(
    low: int, high: int, problem: str, ci: str, project: Render, rendered: Render
) -> None:
    folder = climb(project(low, problem, ci), high)
    assert contents(folder) == contents(rendered(high, problem, ci))


def test_climbing_step_by_step_equals_a_fresh_render(project: Render, rendered: Render) -> None:
    folder = project(LEVELS[0])
    for level in LEVELS[1:]:
        commit(climb(folder, level))
    assert contents(folder) == contents(rendered(LEVELS[-1]))


@pytest.mark.parametrize("level", LEVELS)
def test_update_to_the_same_level_leaves_git_clean(level: int, project: Render) -> None:
    folder = climb(project(level), level)
    run(folder, UPDATE)
    assert git(folder, "status", "--porcelain") == ""


def test_project_in_a_subfolder_of_a_repository_climbs(rendered: Render, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rendered(LEVELS[0]), tmp_path / "models/delays"))
    commit(tmp_path)
    climb(folder, LEVELS[-1])
    assert contents(folder) == contents(rendered(LEVELS[-1]))


def test_project_of_a_template_without_a_release_climbs(snapshot: Path, rendered: Render, tmp_path: Path) -> None:
    template = Path(shutil.copytree(snapshot, tmp_path / "template"))
    git(template, "tag", "--delete", RELEASE)
    folder = render(template, tmp_path / "project", level=LEVELS[0])
    commit(folder)
    climb(folder, LEVELS[-1])
    answers = {".copier-answers.yml": b""}
    assert contents(folder) | answers == contents(rendered(LEVELS[-1])) | answers


def test_update_ends_with_the_next_commands(project: Render, capfd: pytest.CaptureFixture[str]) -> None:
    folder = project(LEVELS[0])
    with contextlib.chdir(folder):
        CopierApp.run(CLIMB.format(level=LEVELS[-1]).split(), exit=False)
    said = capfd.readouterr().err.partition(f"is at level {LEVELS[-1]}. Next:")[2]
    assert re.findall(
        r"^  (git diff --check|uv lock|git add|uv run python -m flight_delays maturity)", said, re.MULTILINE
    ) == [
        "git diff --check",
        "uv lock",
        "git add",
        "uv run python -m flight_delays maturity",
    ]
    (page,) = re.findall(r"docs/levels/\S+", said)
    assert (folder / page).is_file()


def test_the_documented_command_is_the_tested_one(rendered: Render) -> None:
    for level in LEVELS[:-1]:
        (page,) = (rendered(level) / "docs/levels").glob(f"{level}-*.md")
        assert f"uvx {CLIMB.format(level=level + 1)}\n" in reads(page)
    assert f"uvx {CLIMB.format(level=1)}\n" in reads(rendered(0) / "README.md")


# Edited all over


def rewrite_yours(folder: Path) -> None:
    """Replace every file that is the user's, to the last line."""
    for name in user_owned(folder):
        write(folder / name, f"{name}\nis mine now.\n\nNot a line of it is the template's.\n")


def add_files(folder: Path) -> None:
    """Add a module, a command, a test, a workflow, a configuration file, a page and a notebook."""
    shutil.copytree(ROOT / "tests/edits", folder, dirs_exist_ok=True)


def edit_pyproject(folder: Path) -> None:
    """Add own dependencies, an own dependency group and an own tool table; change what stands there."""
    path = folder / "pyproject.toml"
    substitute(path, 'version = "0.1.0"\n', 'version = "0.7.3"\n')
    substitute(path, '    "pandas>=3,<4",\n', '    "holidays>=0.60",\n    "pandas>=3,<4",\n')
    substitute(path, '    "skops>=0.13,<1",\n', '    "skops>=0.13,<1",\n    "xgboost>=2",\n')
    substitute(path, "\ndev = []\n", '\nplots = ["seaborn>=0.13"]\ndev = [\n    "ipdb>=0.13",\n]\n')
    substitute(path, "[tool.ruff]\nline-length = 120\n", "[tool.ruff]\nline-length = 100\n")
    write(path, reads(path) + '\n[tool.holidays]\ncountry = "US"\n')


def edit_the_templates(folder: Path) -> None:
    """Add a line to every file that is the template's; delete one of them and rename another."""
    for name in files_in(folder) - user_owned(folder) - GROWS:
        if is_text(name):
            write(folder / name, reads(folder / name) + "# a line of mine\n")
    git(folder, "rm", "-qf", "docs/levels/0-no-mlops.md")
    git(folder, "mv", "tests/test_notebook.py", "tests/test_experiment.py")


REPLACED_IN_PYPROJECT = ['version = "0.1.0"', "dev = []", "line-length = 120"]
EDITS: list[Callable[[Path], None]] = [edit_the_templates, rewrite_yours, add_files, edit_pyproject]


@pytest.fixture
def climbed(shared: Path, rendered: Render) -> Callable[[int, int], tuple[Path, Path]]:
    """Return a function that gives the edited project of a pair before and after its climb; read them only."""

    def get(low: int, high: int) -> tuple[Path, Path]:
        def make(folder: Path) -> None:
            before = Path(shutil.copytree(rendered(low), folder / "before"))
            commit(before)
            for edit in EDITS:
                edit(before)
            commit(before)
            climb(Path(shutil.copytree(before, folder / "after")), high)

        folder = once(shared / f"climbed-{low}-{high}", make)
        return folder / "before", folder / "after"

    return get


@over_pairs
def test_not_a_line_of_an_edited_project_is_lost(low: int, high: int, climbed: Render) -> None:
    before, after = map(contents, climbed(low, high))
    changed = {name for name in before if name not in GROWS and before[name] != after.get(name)}
    assert not changed
    pages = before["pyproject.toml"].decode(), after["pyproject.toml"].decode()
    assert lost_lines(*pages) == []


@over_pairs
def test_an_edited_project_gets_the_new_level_whole(low: int, high: int, climbed: Render, rendered: Render) -> None:
    before, after = map(contents, climbed(low, high))
    fresh = contents(rendered(high))
    new = set(fresh) - files_in(rendered(low))
    assert set(after) - set(before) == new
    assert not {name for name in new if after[name] != fresh[name]}
    assert answers_of(climbed(low, high)[1])["level"] == high


@over_pairs
def test_an_edited_project_climbs_without_a_conflict(low: int, high: int, climbed: Render) -> None:
    _, after = climbed(low, high)
    assert conflicts(after) == set()
    states = {line[:2] for line in git(after, "status", "--porcelain").splitlines()}
    assert states <= {" M", "??"}


@over_pairs
def test_a_deleted_and_a_renamed_file_stay_so(low: int, high: int, climbed: Render) -> None:
    _, after = climbed(low, high)
    assert not (after / "docs/levels/0-no-mlops.md").exists()
    assert not (after / "tests/test_notebook.py").exists()
    assert reads(after / "tests/test_experiment.py").endswith("# a line of mine\n")


@over_pairs
def test_pyproject_holds_both_the_users_entries_and_the_levels(
    low: int, high: int, climbed: Render, rendered: Render
) -> None:
    mine = tomllib.loads(reads(climbed(low, high)[1] / "pyproject.toml"))
    fresh = tomllib.loads(reads(rendered(high) / "pyproject.toml"))
    assert mine["project"]["version"] == "0.7.3"
    assert mine["project"]["dependencies"] == ["holidays>=0.60", *fresh["project"]["dependencies"], "xgboost>=2"]
    groups = fresh["dependency-groups"] | {"plots": ["seaborn>=0.13"], "dev": ["ipdb>=0.13"]}
    assert mine["dependency-groups"] == groups
    assert mine["tool"]["holidays"] == {"country": "US"}
    assert mine["tool"]["ruff"]["line-length"] == 100


# Both changed the same


@over_pairs
def test_a_file_that_a_later_level_brings_too_keeps_both_versions_marked(
    low: int, high: int, project: Render, rendered: Render
) -> None:
    folder, fresh = project(low), rendered(high)
    new = {name for name in files_in(fresh) - files_in(folder) if reads(fresh / name)}
    yours = new & user_owned(fresh)
    for name in new:
        write(folder / name, f"my own {name}\nwas here first\n")
    commit(folder)
    climb(folder, high)
    for name in yours:
        assert reads(folder / name) == f"my own {name}\nwas here first\n"
    assert conflicts(folder) == new - yours
    for name in new - yours:
        text = f"<<<<<<< before updating\nmy own {name}\nwas here first\n=======\n{reads(fresh / name)}>>>>>>>"
        assert reads(folder / name).startswith(text)
    check = subprocess.run(["git", "diff", "--check"], cwd=folder, capture_output=True, text=True, check=False).stdout
    assert set(re.findall(r"^(.+):\d+: leftover conflict marker$", check, re.MULTILINE)) == new - yours


@over_pairs
def test_the_same_file_already_there_is_no_conflict(low: int, high: int, project: Render, rendered: Render) -> None:
    folder, fresh = project(low), rendered(high)
    for name in files_in(fresh) - files_in(folder):
        write(folder / name, reads(fresh / name))
    commit(folder)
    climb(folder, high)
    assert contents(folder) == contents(fresh)


# A newer version of the template


@pytest.fixture(scope="module")
def releases(shared: Path, snapshot: Path) -> Path:
    """Return a template with two releases; the second changes a line in every file that is not Python, and adds one."""

    def make(folder: Path) -> None:
        shutil.copytree(snapshot, folder)
        for path in (folder / "template").rglob("*"):
            if path.is_file() and is_text(path.name) and path.stem != "{{ _copier_conf.answers_file }}":
                write(path, "# from the second release\n" + reads(path))
        substitute(folder / f"template/{SCORE}", OLD_LINE, NEW_LINE)
        substitute(folder / "levels/0-no-mlops/files.yml", "    /README.md\n", "    /README.md\n    /NEWS.md\n")
        write(folder / "template/NEWS.md", "news\n")
        commit(folder, "Second release")
        git(folder, "tag", NEXT_RELEASE)

    return once(shared / "releases", make)


SCORE = "runtime/src/mlops_ladder/serving/score.py"
OLD_LINE = '    parser.add_argument("file", type=Path, help="rows to score, .csv or .parquet")\n'
NEW_LINE = '    parser.add_argument("file", type=Path, help="the rows to score")\n'
MY_LINE = '    parser.add_argument("file", type=Path, help="my rows")\n'


@pytest.fixture
def old_project(releases: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Return a function that gives a project of the first release, committed."""

    def get(level: int) -> Path:
        folder = render(releases, tmp_path / "old", vcs_ref=RELEASE, level=level)
        commit(folder)
        return folder

    return get


def fresh_contents(releases: Path, folder: Path, level: int) -> dict[str, bytes]:
    return contents(render(releases, folder, level=level))


@pytest.mark.parametrize("level", LEVELS)
def test_plain_update_brings_the_newer_version_and_keeps_the_level(
    level: int, old_project: Render, releases: Path, tmp_path: Path
) -> None:
    folder = old_project(level)
    yours = {name: text for name, text in contents(folder).items() if name in user_owned(folder)}
    run(folder, UPDATE)
    assert contents(folder) == fresh_contents(releases, tmp_path / "fresh", level) | yours
    assert answers_of(folder)["_commit"] == NEXT_RELEASE


@over_pairs
def test_climb_keeps_the_version(low: int, high: int, old_project: Render, rendered: Render) -> None:
    folder = climb(old_project(low), high)
    assert answers_of(folder) | {"_src_path": ""} == answers_of(rendered(high)) | {"_src_path": ""}
    assert not (folder / "NEWS.md").exists()


@over_pairs
def test_newer_version_and_level_at_once_in_an_edited_project(
    low: int, high: int, old_project: Render, releases: Path, tmp_path: Path
) -> None:
    folder = old_project(low)
    for edit in EDITS:
        edit(folder)
    commit(folder)
    before = contents(folder)
    run(folder, f"{UPDATE} --data level={high}")

    after, fresh = contents(folder), fresh_contents(releases, tmp_path / "fresh", high)
    assert conflicts(folder) == set()
    assert answers_of(folder)["_commit"] == NEXT_RELEASE
    assert lost_lines(before["pyproject.toml"].decode(), after["pyproject.toml"].decode()) == []
    assert lost_lines(fresh["pyproject.toml"].decode(), after["pyproject.toml"].decode()) == REPLACED_IN_PYPROJECT
    mine = user_owned(folder) | set(before) - set(fresh)  # rewritten, added or renamed
    assert not {name for name in mine & set(before) if after[name] != before[name]}
    for name in set(fresh) - mine - GROWS - {"docs/levels/0-no-mlops.md", "tests/test_notebook.py"}:
        my_line = b"# a line of mine\n" if name in before and is_text(name) else b""
        assert after[name] == fresh[name] + my_line, name


def test_conflict_stands_only_where_both_changed_the_same_line(
    old_project: Render, releases: Path, tmp_path: Path
) -> None:
    folder = old_project(0)
    substitute(folder / SCORE, OLD_LINE, MY_LINE)
    commit(folder)
    before = reads(folder / SCORE)
    run(folder, UPDATE)
    assert conflicts(folder) == {SCORE}
    text = reads(folder / SCORE)
    hunk = f"<<<<<<< before updating\n{MY_LINE}=======\n{NEW_LINE}>>>>>>> after updating\n"
    assert text == f"# from the second release\n{before.replace(MY_LINE, hunk)}"


# Refused


@over_pairs
@pytest.mark.parametrize("command", [CLIMB, UPDATE + " --data level={level}"], ids=["climb", "update"])
def test_going_down_is_refused_and_changes_nothing(command: str, low: int, high: int, project: Render) -> None:
    folder = project(high)
    with pytest.raises(ValueError, match=f"level is {low}, the project is at {high}: going down is refused"):
        run(folder, command.format(level=low))
    assert git(folder, "status", "--porcelain", "--ignored") == ""


@over_pairs
def test_copying_a_lower_level_over_a_project_is_refused(low: int, high: int, project: Render, snapshot: Path) -> None:
    folder = project(high)
    with pytest.raises(ValueError, match="going down is refused"):
        run(folder, f"copier copy --overwrite --defaults --data level={low} {snapshot} .")
    assert git(folder, "status", "--porcelain", "--ignored") == ""


def test_dirty_project_is_refused_and_changes_nothing(project: Render, capfd: pytest.CaptureFixture[str]) -> None:
    folder = project(LEVELS[0])
    write(folder / "README.md", "not committed yet\n")
    before = contents(folder)
    run(folder, CLIMB.format(level=LEVELS[-1]), exit_code=1)
    assert "dirty; cannot continue. Please commit or stash your local changes" in capfd.readouterr().err
    assert contents(folder) == before
