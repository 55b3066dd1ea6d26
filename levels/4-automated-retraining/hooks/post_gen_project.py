"""Let copier make the project, so that `copier update` climbs from here. Generated: edit tools/post_gen_project.py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHOSEN = json.loads(r"""{{ cookiecutter | tojson }}""")
NO_COPIER = """\
error: the project is made by copier, which is not here. Install it with one of
    uv tool install copier
    pipx install copier
    pip install copier
and run cookiecutter again; nothing was left behind."""


def find_copier() -> list[str]:
    """Return the words that run copier here."""
    if importlib.util.find_spec("copier"):
        return [sys.executable, "-m", "copier"]
    for words in (["copier"], ["uvx", "copier"], ["pipx", "run", "copier"]):
        if program := shutil.which(words[0]):
            return [program, *words[1:]]
    sys.exit(NO_COPIER)


def find_template() -> str:
    """Return where the template comes from: the address it was cloned from, or the path of a repository of one's own."""
    started_in = (CHOSEN["_output_dir"], os.environ.get("PWD", ""))  # a path may be relative to either
    folders = [Path(folder, CHOSEN["_repo_dir"]) for folder in started_in]
    top = git(next((folder for folder in folders if folder.is_dir()), folders[0]), "rev-parse", "--show-toplevel")
    if not top:
        sys.exit(
            f"error: {CHOSEN['_repo_dir']} is not in a git repository, which `copier update` needs: give cookiecutter one"
        )
    origin = git(Path(top), "config", "--get", "remote.origin.url")
    published = git(Path(top), "branch", "--remotes", "--contains", "HEAD")
    if not origin or not published or (Path(origin).is_absolute() and not Path(origin).exists()):
        return top
    return origin if origin.endswith(".git") or Path(origin).is_absolute() else f"git+{origin}"


def git(folder: Path, *words: str) -> str:
    """Return what git prints, without the last line break; empty when it fails or there is no git."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    command = [*find_copier(), "copy", "--defaults", "--data", f"level={CHOSEN['_level']}"]
    for name, answer in CHOSEN.items():
        if not name.startswith("_") and (answer or name not in CHOSEN["_derived"]):
            command += ["--data", f"{name}={answer}"]
    if CHOSEN["_checkout"]:
        command += ["--vcs-ref", CHOSEN["_checkout"]]
    if Path(".copier-answers.yml").exists():  # only where cookiecutter was told to overwrite
        command.append("--overwrite")
    Path(".gitkeep").unlink()
    command += [find_template(), os.getcwd()]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    said = done.stderr.strip()
    if done.returncode and "Traceback " in said:  # copier's way to refuse an answer: the last line says why
        said = "error: " + said.splitlines()[-1].rpartition("Error: ")[2]
    print(said, file=sys.stderr)
    sys.exit(done.returncode)


main()
