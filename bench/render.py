"""How long copying and climbing take, as ratios to an empty copier template and to ccds, in one run.

    nox -s bench                       # or, in an environment with copier: python bench/render.py [--rounds 9]

ccds is cookiecutter-data-science from PyPI in an environment of its own. Its template lies on GitHub; where that cannot
be reached, ccds renders a template with one file, which is the least time that it can take, and the table says so.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [int(folder.name[0]) for folder in sorted(ROOT.glob("levels/[0-9]-*"))]
AIM = 1.3  # times the empty template
EMPTY, EMPTY_UPDATE = "copy, empty template", "update, empty template"
PLAIN = f"copy, a template of level {LEVELS[-1]}'s files without any Jinja"
COPIER = [sys.executable, "-m", "copier"]
CLIMB = ["update", "-q", "--defaults", "--skip-answered", "--vcs-ref=:current:", "--data"]


def run(folder: Path, *words: str | Path) -> str:
    environ = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, words))} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
        )
    return done.stdout


def release(folder: Path) -> Path:
    """Commit everything in FOLDER as version 1 and return it."""
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "-q", "-m", "Release")
    run(folder, "git", "tag", "v1.0.0")
    run(folder, "git", "gc", "-q")  # packed, as a clone from a server is
    return folder


def this_template(folder: Path) -> Path:
    """Return a release of this working tree, uncommitted edits included."""
    for name in run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return release(folder)


def least_template(folder: Path, project: Path | None = None) -> Path:
    """Return a copier template that asks one question and writes its answers, and PROJECT's files as they are."""
    if project:
        shutil.copytree(project, folder / "template", ignore=shutil.ignore_patterns(".git", ".copier-answers.yml"))
    (folder / "template").mkdir(parents=True, exist_ok=True)
    question = {"level": {"type": "int", "default": 0}}
    (folder / "copier.yml").write_text(yaml.safe_dump({"_subdirectory": "template", **question}))
    answers = folder / "template/{{ _copier_conf.answers_file }}.jinja"
    answers.write_text("{{ _copier_answers | to_nice_yaml -}}\n")
    return release(folder)


def ccds(folder: Path) -> tuple[str, Path, list[str]]:
    """Return what ccds will render as words for people, its program and the arguments that name the template."""
    run(folder, "uv", "venv", "-q", "--python", sys.executable, "ccds")
    run(folder, "uv", "pip", "install", "-q", "--python", "ccds", "cookiecutter-data-science>=2.3,<3")
    program = next((folder / "ccds").glob("*/ccds*"))
    config = folder / "ccds.yml"  # so that it writes nothing to the home folder
    config.write_text(f"cookiecutters_dir: {folder / 'ccds-clones'}\nreplay_dir: {folder / 'ccds-replay'}\n")
    words = ["--no-input", "--config-file", str(config)]
    try:
        run(folder, "git", "clone", "-q", "https://github.com/drivendataorg/cookiecutter-data-science", "ccds-template")
        return "ccds", program, [*words, str(folder / "ccds-template")]
    except RuntimeError:
        least = folder / "ccds-least"
        (least / "{{ cookiecutter.repo_name }}").mkdir(parents=True)
        for question in ("ccds.json", "cookiecutter.json"):  # it looks for one and reads the other
            (least / question).write_text('{"repo_name": "project"}')
        (least / "{{ cookiecutter.repo_name }}/README.md").write_text("# {{ cookiecutter.repo_name }}\n")
        return "ccds, one file (its own template was out of reach)", program, [*words, str(least)]


def measure(cases: dict[str, Callable[[Path], list[str | Path]]], rounds: int, scratch: Path) -> dict[str, float]:
    """Return each case's median seconds; the cases take turns, so that a busy spell hits all of them alike.

    A case gets a new empty folder, prepares it untimed and returns the command that is timed in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-1, rounds):  # the first turn warms caches and does not count
        for name, prepare in cases.items():
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                command = prepare(Path(folder))
                start = time.perf_counter()
                run(Path(folder), *command)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - start)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns that count (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        print_table(*measure_all(scratch, options.rounds))
    return 0


def measure_all(scratch: Path, rounds: int) -> tuple[dict[str, float], str]:
    """Return the median seconds of every case, and the name of the one that is ccds."""
    templates = {"template": this_template(scratch / "template"), "empty": least_template(scratch / "empty")}
    for name, template in templates.items():
        run(scratch, *COPIER, "copy", "-q", "--defaults", str(template), f"{name}-0")
        release(scratch / f"{name}-0")
    top = f"level={LEVELS[-1]}"
    run(scratch, *COPIER, "copy", "-q", "--defaults", "--data", top, str(templates["template"]), "project")
    templates["plain"] = least_template(scratch / "plain", scratch / "project")
    named, program, words = ccds(scratch)

    def copy(name: str, level: int) -> Callable[[Path], list[str | Path]]:
        data = f"level={level}"
        return lambda folder: [*COPIER, "copy", "-q", "--defaults", "--data", data, templates[name], "project"]

    def climb(name: str, level: int) -> Callable[[Path], list[str | Path]]:
        def prepare(folder: Path) -> list[str | Path]:
            shutil.copytree(scratch / f"{name}-0", folder, dirs_exist_ok=True)
            return [*COPIER, *CLIMB, f"level={level}"]

        return prepare

    cases = {
        EMPTY: copy("empty", 0),
        PLAIN: copy("plain", 0),
        named: lambda folder: [program, *words],
        **{f"copy, level {level}": copy("template", level) for level in LEVELS},
        EMPTY_UPDATE: climb("empty", 1),
        **{f"update 0 to {level}": climb("template", level) for level in LEVELS[1:]},
    }
    return measure(cases, rounds, scratch), named


def print_table(seconds: dict[str, float], named: str) -> None:
    print(f"{'median wall time':<54} {'s':>6} {'× empty':>8} {'× ccds':>8}")
    for name, value in seconds.items():
        empty = seconds[EMPTY_UPDATE if name.startswith("update") else EMPTY]
        print(f"{name:<54} {value:6.2f} {value / empty:8.2f} {value / seconds[named]:8.2f}")
    copies = max(value for name, value in seconds.items() if name.startswith("copy, level"))
    print(f"copying takes at most {copies / seconds[EMPTY]:.2f} × the empty template (aim: {AIM} or less)")
    top = seconds[f"copy, level {LEVELS[-1]}"]
    print(f"level {LEVELS[-1]} takes {top / seconds[PLAIN]:.2f} × what copier needs for as many files without Jinja")


if __name__ == "__main__":
    sys.exit(main())
