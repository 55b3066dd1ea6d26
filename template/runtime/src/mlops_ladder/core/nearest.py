"""What there is in place of something that is not there: those whose name is nearest first."""

from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path

from .errors import ProjectError

N_NAMED = 5


def nearest(name: str, there: Iterable[str], nothing: str = "none") -> str:
    """Return the names in THERE, or numbers, nearest to NAME first, as text; NOTHING when it is empty."""

    def distance(other: str) -> float:
        if name.isdigit() and other.isdigit():
            return abs(int(name) - int(other))
        return 1 - SequenceMatcher(None, name.lower(), other.lower()).ratio()

    names = sorted(there, key=distance)
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more or nothing


def check_file(file: Path, kind: str = "file", advice: str = "", error: type[ProjectError] = ProjectError) -> None:
    """Raise ERROR when there is no FILE, a KIND of file: it names those beside it, and gives ADVICE on how to get one."""
    if file.is_dir():
        raise error(f"{file} is a folder, must be a file")
    if file.exists():
        return
    beside = [other.name for other in file.parent.glob(f"*{file.suffix}") if other.is_file() and other.name[0] != "."]
    there = f"; there are: {nearest(file.name, beside)}" if beside else ""
    raise error(f"no {kind} {file}{there}{advice and ': '}{advice}")
