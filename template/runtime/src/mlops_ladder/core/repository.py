"""What git says of the project."""

import subprocess
from collections.abc import Collection

import yaml

from .errors import ProjectError, Unmet
from .project import Project
from .settings import CONF


def git(project: Project, *words: str) -> str:
    """Return what git says, or "" when it cannot."""
    return subprocess.run(
        ["git", *words], cwd=project.folder, capture_output=True, text=True, check=False
    ).stdout.strip()


def committed(project: Project, file: str) -> str | None:
    """Return the text of FILE, a path in the project, as the last commit holds it; None when it holds none."""
    done = subprocess.run(["git", "show", f"HEAD:./{file}"], cwd=project.folder, capture_output=True, check=False)
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def require_committed(project: Project, name: str, keys: Collection[str] = ()) -> None:
    """Raise Unmet when conf/NAME.yml, or only KEYS of it, says something else than the last commit does.

    Who may do what is decided by what others could review, not by an edit of who runs the command.
    """
    file = f"{CONF.as_posix()}/{name}.yml"
    text = committed(project, file)
    if text is None:
        raise Unmet(f"{file} stands in no commit, and it decides who may do this: commit it and run this again")
    try:
        before, now = (
            dict(yaml.safe_load(one) or {}) for one in (text, project.path(file).read_text(encoding="utf-8"))
        )
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ProjectError(f"{file}, here or in the last commit: {' '.join(str(error).split())}") from error
    if changed := [key for key in keys or sorted({*before, *now}) if before.get(key) != now.get(key)]:
        raise Unmet(
            f"{file}: {', '.join(changed)} is not what the last commit says, and it decides who may do this: "
            "commit the change, or take it back"
        )


def dirty(project: Project) -> bool:
    """Whether there is anything that no commit holds; dvc.lock, which a run itself writes, aside."""
    return bool(git(project, "status", "--porcelain", "--", ".", ":!dvc.lock"))
