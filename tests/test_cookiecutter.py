"""cookiecutter makes the same projects as copier, because its hook runs copier."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LEVELS, RELEASE, ROOT, Render, commit, git, once, reads, render

Cut = Callable[..., subprocess.CompletedProcess[str]]


def scaffold(level: int) -> str:
    """Return the folder of a level's scaffold, relative to the repository."""
    (folder,) = ROOT.glob(f"levels/{level}-*")
    return folder.relative_to(ROOT).as_posix()


def contents(folder: Path) -> dict[str, bytes]:
    """Return what every file in FOLDER holds, but for git's own and the line that says where the template is."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".git" not in file.relative_to(folder).parts)
    return {
        file.relative_to(folder).as_posix(): b"".join(
            line for line in file.read_bytes().splitlines(keepends=True) if not line.startswith(b"_src_path: ")
        )
        for file in files
    }


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    """Return a function that runs `cookiecutter --no-input WORDS` in the folder `cut`, as a person would there."""
    (tmp_path / "cut").mkdir()
    config = tmp_path / "cookiecutter.yml"
    config.write_text(f"cookiecutters_dir: {tmp_path / 'clones'}\nreplay_dir: {tmp_path / 'replay'}\n")

    def run(
        *words: str | Path, python: Path | str = sys.executable, cwd: Path = tmp_path / "cut", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"COOKIECUTTER_CONFIG": str(config), "PWD": str(cwd)} | variables
        command = [python, "-m", "cookiecutter", "--no-input", *words]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
        )

    return run


@pytest.fixture(scope="session")
def published(shared: Path, snapshot: Path) -> str:
    """Return the `file://` address of a bare repository with the template."""

    def make(folder: Path) -> None:
        git(shared, "clone", "-q", "--bare", str(snapshot), str(folder))

    return once(shared / "mlops-ladder.git", make).as_uri()


@pytest.fixture(scope="session")
def without_copier(shared: Path) -> Path:
    """Return the programs' folder of an environment with cookiecutter, uvx and pipx, and without copier."""

    def make(folder: Path) -> None:
        for command in (["uv", "venv", "-q", "--python", sys.executable, folder], ["uv", "pip", "install", "-q"]):
            packages = ["--python", folder, "cookiecutter>=2.6,<3", "uv", "pipx"] if "install" in command else []
            subprocess.run([*command, *packages], check=True)

    return once(shared / "without-copier", make) / ("Scripts" if os.name == "nt" else "bin")


def path_with(folder: Path, *programs: Path) -> str:
    """Return a PATH on which there are git and PROGRAMS, nothing else."""
    folder.mkdir()
    for program in (Path(shutil.which("git") or "git"), *programs):
        (folder / program.name).symlink_to(program)
    return str(folder)


def test_the_scaffolds_are_what_copier_yml_says() -> None:
    command = [sys.executable, ROOT / "tools/build_scaffolds.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stale_scaffold_is_noticed(snapshot: Path, tmp_path: Path) -> None:
    shutil.copytree(snapshot, tmp_path / "template", ignore=shutil.ignore_patterns(".git", "sample"))
    questions = tmp_path / "template/copier.yml"
    questions.write_text(reads(questions).replace("Flight delays", "Train delays"), encoding="utf-8")
    command = [sys.executable, tmp_path / "template/tools/build_scaffolds.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{scaffold(0)}/cookiecutter.json" in done.stderr


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("problem", "ci"), [("classification", "github"), ("regression", "none")])
def test_both_engines_make_the_same_project(
    level: int, problem: str, ci: str, snapshot: Path, rendered: Render, cut: Cut, tmp_path: Path
) -> None:
    done = cut(snapshot / scaffold(level), f"problem={problem}", f"ci={ci}")
    assert done.returncode == 0, done.stderr
    assert "uv run python -m flight_delays" in done.stderr  # the next commands are shown
    assert contents(tmp_path / "cut/flight-delays") == contents(rendered(level, problem, ci))


def test_both_engines_take_a_released_runtime(snapshot: Path, cut: Cut, tmp_path: Path) -> None:
    answers = {"runtime": "package", "runtime_source": "https://example.org/simple", "runtime_version": "1.0.0"}
    done = cut(snapshot / scaffold(1), *(f"{name}={value}" for name, value in answers.items()))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cut/flight-delays/runtime").exists()
    assert contents(tmp_path / "cut/flight-delays") == contents(
        render(snapshot, tmp_path / "copied", level=1, **answers)
    )


def test_the_menu_at_the_root_begins_with_level_0(snapshot: Path, rendered: Render, cut: Cut, tmp_path: Path) -> None:
    done = cut(snapshot)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "cut/flight-delays") == contents(rendered(LEVELS[0]))


def test_a_relative_path_is_found_from_any_output_folder(snapshot: Path, cut: Cut, tmp_path: Path) -> None:
    done = cut(scaffold(0), "--output-dir", tmp_path / "elsewhere", cwd=snapshot)
    assert done.returncode == 0, done.stderr
    assert f"_src_path: {snapshot}\n" in reads(tmp_path / "elsewhere/flight-delays/.copier-answers.yml")


@pytest.mark.parametrize("state", ["published", "with a commit of one's own", "whose origin is gone"])
def test_a_clone_stands_for_its_origin_as_long_as_that_has_the_same(
    state: str, snapshot: Path, cut: Cut, tmp_path: Path
) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(snapshot), str(origin))
    git(tmp_path, "clone", "-q", str(origin), str(clone))
    if "commit" in state:
        commit(clone)
    elif "gone" in state:
        shutil.rmtree(origin)
    done = cut(clone / scaffold(0))
    assert done.returncode == 0, done.stderr
    source = origin if state == "published" else clone
    assert f"_src_path: {source}\n" in reads(tmp_path / "cut/flight-delays/.copier-answers.yml")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["latest", RELEASE])
def test_a_project_cut_from_an_address_climbs(
    version: str, published: str, rendered: Render, cut: Cut, tmp_path: Path
) -> None:
    checkout = [] if version == "latest" else ["--checkout", version]
    done = cut(published, "--directory", scaffold(LEVELS[0]), *checkout)
    assert done.returncode == 0, done.stderr
    project = tmp_path / "cut/flight-delays"
    assert f"_src_path: {published}\n" in reads(project / ".copier-answers.yml")  # not the clone in the cache
    features = project / "src/flight_delays/features.py"
    features.write_text(reads(features) + "\n\ndef mine() -> None: ...\n", encoding="utf-8")
    commit(project, "Start")

    update = [sys.executable, "-m", "copier", "update", "--vcs-ref=:current:", "--skip-answered", "--defaults"]
    climbed = subprocess.run(
        [*update, "--data", f"level={LEVELS[-1]}"], cwd=project, capture_output=True, text=True, check=False
    )
    assert climbed.returncode == 0, climbed.stderr
    assert "def mine" in reads(features)
    mine = features.relative_to(project).as_posix()
    got, fresh = contents(project), contents(rendered(LEVELS[-1]))
    assert {name: text for name, text in got.items() if name != mine} == {
        name: text for name, text in fresh.items() if name != mine
    }


@pytest.mark.parametrize(
    ("name", "folder", "package"),
    [
        ('Müllers "Züge" & Anna\'s <Bahn>', "muellers-zuege-anna-s-bahn", "muellers_zuege_anna_s_bahn"),
        ("2013 – fünf: $HOME `date` %PATH%; --data level=9", None, None),
    ],
)
def test_a_name_arrives_as_it_was_typed(
    name: str, folder: str | None, package: str | None, snapshot: Path, rendered: Render, cut: Cut, tmp_path: Path
) -> None:
    done = cut(snapshot / scaffold(0), f"project_name={name}")
    assert done.returncode == 0, done.stderr
    (project,) = (tmp_path / "cut").iterdir()
    assert reads(project / "README.md").startswith(f"# {name}\n")
    assert folder in (None, project.name)
    assert package is None or (project / "src" / package).is_dir()


def test_a_bad_package_name_is_refused_with_copiers_line(snapshot: Path, cut: Cut, tmp_path: Path) -> None:
    answer = "package_name=1st/../x"
    command = [sys.executable, "-m", "copier", "copy", "--defaults", "--data", answer, snapshot, tmp_path / "copied"]
    copied = subprocess.run(command, capture_output=True, text=True, check=False)
    done = cut(snapshot / scaffold(0), answer)
    assert done.returncode != 0
    line = 'package_name is "1st/../x": use lower-case letters, digits and underscores, a letter first'
    assert line in copied.stderr and line in done.stderr
    assert not list((tmp_path / "cut").iterdir())


def test_an_empty_project_name_is_refused(snapshot: Path, cut: Cut, tmp_path: Path) -> None:
    done = cut(snapshot / scaffold(0), "project_name= ")
    assert done.returncode != 0
    assert "project_name is empty" in done.stderr
    assert not list((tmp_path / "cut").iterdir())


def test_a_folder_that_is_no_git_repository_is_refused(snapshot: Path, cut: Cut, tmp_path: Path) -> None:
    shutil.copytree(snapshot, tmp_path / "unpacked", ignore=shutil.ignore_patterns(".git"))
    done = cut(tmp_path / "unpacked" / scaffold(0), GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode != 0
    assert "is not in a git repository, which `copier update` needs" in done.stderr
    assert not list((tmp_path / "cut").iterdir())


def test_without_copier_anywhere_it_says_what_to_install_and_leaves_nothing(
    snapshot: Path, without_copier: Path, cut: Cut, tmp_path: Path
) -> None:
    python = without_copier / Path(sys.executable).name
    done = cut(snapshot / scaffold(0), python=python, PATH=path_with(tmp_path / "bin"))
    assert done.returncode != 0
    assert "uv tool install copier" in done.stderr
    assert not list((tmp_path / "cut").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the PATH of this test is made of links")
@pytest.mark.parametrize("runner", ["copier", "uvx", "pipx"])
def test_copier_is_found_outside_of_cookiecutters_environment(
    runner: str, snapshot: Path, rendered: Render, without_copier: Path, cut: Cut, tmp_path: Path
) -> None:
    folder = Path(sys.executable).parent if runner == "copier" else without_copier
    path = path_with(tmp_path / "bin", folder / runner) + os.pathsep + os.defpath
    python = without_copier / Path(sys.executable).name
    done = cut(
        snapshot / scaffold(0), python=python, PATH=path, PIPX_HOME=str(tmp_path / "pipx"), UV_PYTHON=sys.executable
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "cut/flight-delays") == contents(rendered(0))
