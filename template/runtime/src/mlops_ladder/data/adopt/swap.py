"""New files in the place of old ones, all or none: what was there is kept until the last one is moved."""

import json
import os
import shutil
from pathlib import Path

STAGE = Path(".adopting")


def start(folder: Path) -> Path:
    """Return an empty place for the new files, in the project FOLDER; undoes first what an earlier run was stopped in."""
    stage = folder / STAGE
    undo(folder)
    shutil.rmtree(stage, ignore_errors=True)
    (stage / "new").mkdir(parents=True)
    (stage / ".gitignore").write_text("*\n", encoding="utf-8")
    return stage / "new"


def undo(folder: Path) -> None:
    """Put back what was moved away, if a move was begun and not ended."""
    stage = folder / STAGE
    journal = stage / "journal.json"
    if not journal.is_file():
        return
    moves = json.loads(journal.read_text(encoding="utf-8"))
    for path in moves["new"] + moves["gone"]:
        old = stage / "old" / path
        if old.is_file():
            os.replace(old, folder / path)
        elif path in moves["new"] and not (stage / "new" / path).exists():
            (folder / path).unlink(missing_ok=True)  # it came with this run
    journal.unlink()


def finish(folder: Path, gone: list[Path]) -> None:
    """Move what `start` gave a place for into FOLDER and the files GONE out of it; on any stop all is as it was."""
    stage = folder / STAGE
    new = sorted(path.relative_to(stage / "new") for path in (stage / "new").rglob("*") if path.is_file())
    others = [path.relative_to(folder) for path in gone if path.relative_to(folder) not in new]
    part = stage / "journal.part"
    moves = {"new": [path.as_posix() for path in new], "gone": [path.as_posix() for path in others]}
    part.write_text(json.dumps(moves), encoding="utf-8")
    os.replace(part, stage / "journal.json")
    try:
        for path in [*new, *others]:
            if (folder / path).is_file():
                (stage / "old" / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / path, stage / "old" / path)
            if (stage / "new" / path).is_file():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / "new" / path, folder / path)
        (stage / "journal.json").unlink()
    except BaseException:
        undo(folder)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)
