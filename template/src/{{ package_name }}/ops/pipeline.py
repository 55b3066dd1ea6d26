"""The pipeline of dvc.yaml, run in one process: what a run is made of, where its files lie, which stages are stale."""

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from . import ProjectError, Unmet, settings

STAGES = ("ingest", "validate", "split", "train", "evaluate", "register")
SETTINGS = Path("data/pipeline/settings.yml")  # what `train` resolved conf/training.yml and its options to
SNAPSHOT = Path("data/snapshot")  # the rows of this run: a copy, so that the store may grow meanwhile
SPLIT = Path("data/pipeline/split.json")
FITTED = Path("models/candidate/fitted")  # model.skops, fit.json
EVALUATION = Path("models/candidate/evaluation")  # metrics.json, HANDOFF.md, plots
REGISTERED = Path("models/candidate/registered.json")


class Training(settings.Settings, frozen=True):
    """conf/training.yml."""

    data: str = pydantic.Field(pattern=r"^\w[\w.-]*(@[0-9a-f]{6,32})?$")
    sample: float = pydantic.Field(gt=0, le=1)
    validation: float = pydantic.Field(gt=0, lt=0.5)
    test: float = pydantic.Field(gt=0, lt=0.5)
    family: str
    parameters: dict[str, Any]
    seed: pydantic.NonNegativeInt
    model: str = pydantic.Field(pattern=r"^[\w.-]+$")
    tracking_uri: str
    tags: dict[str, Annotated[str, pydantic.Field(coerce_numbers_to_str=True)]]
    required_tags: list[str]

    @property
    def lost_store(self) -> bool:
        """Whether the runs and the registry of an SQLite store are gone, as in a fresh clone after `dvc pull`."""
        scheme, _, file = self.tracking_uri.partition(":///")
        return scheme == "sqlite" and not Path(file).is_file()


def read_settings() -> Training:
    """Return the settings of the run at hand."""
    if not SETTINGS.is_file():
        raise ProjectError(f"no {SETTINGS} yet: `train` writes it, run that first")
    return Training.model_validate(yaml.safe_load(SETTINGS.read_text(encoding="utf-8")))


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def mirror(sources: dict[Path, Path], folder: Path) -> None:
    """Make FOLDER hold copies of SOURCES ({path in FOLDER: file}) and nothing else; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files(folder):
        if file.relative_to(folder) not in sources:
            file.unlink()
    for inside, source in sources.items():
        file, new = folder / inside, source.stat()
        if not file.is_file() or (file.stat().st_size, file.stat().st_mtime_ns) != (new.st_size, new.st_mtime_ns):
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, file)


def data_version() -> str:
    """Return the version of the snapshot that the last `ingest` stage took: the hash of its files' names and bytes."""
    [out] = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]["ingest"]["outs"]
    return out["md5"].removesuffix(".dir")


def measured_champion() -> str | None:
    """Return the version of the champion that the candidate at hand was compared with."""
    champion = read_json(EVALUATION / "metrics.json")["champion"]
    return champion and champion["version"]


def git(*words: str) -> str:
    """Return what git says, or "" when it cannot."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()


def dirty() -> bool:
    """Whether there is anything that no commit holds; dvc.lock, which a run itself writes, aside."""
    return bool(git("status", "--porcelain", "--", ".", ":!dvc.lock"))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked() -> Iterator[Any]:
    """Give DVC's view of this project while no other process works on it; raises Unmet when one does."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.logger import setup
    from dvc.repo import Repo, lock_repo

    if not git("rev-parse", "HEAD"):
        raise Unmet("a run names the commit it was trained from: `git init`, then commit everything")
    setup(logging.ERROR)
    try:
        with Repo() as repo, lock_repo(repo):
            drop_if_torn(Path(repo.tmp_dir or ".dvc/tmp", "rwlock"))
            yield repo
    except NotDvcRepoError as error:
        raise ProjectError(f"{error}: run this in the project's own folder") from error
    except LockError as error:
        holder = Path(".dvc/tmp/lock").read_text(encoding="utf-8").strip()
        raise Unmet(f"process {holder} works on the pipeline here: wait until it ends, run this again") from error
    except (DvcException, sqlite3.Error) as error:
        raise ProjectError(f"DVC: {error}") from error


def drop_if_torn(file: Path) -> None:
    """Delete DVC's note of who uses which file where a killed process left half of it: DVC itself would refuse from then on."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        file.unlink(missing_ok=True)


def bring_up_to_date(repo: Any, chosen: Training, until: str = "register") -> list[str]:
    """Run each stage up to UNTIL that is stale, as `dvc repro` would but in this process; return the names of those that ran."""
    from dvc.exceptions import ReproductionError
    from dvc.stage.cache import RunCacheNotFoundError

    from . import stages, tracking, validate

    here = {**stages.STAGES, "validate": stages.validate_beside}
    outdated: dict[str, Callable[[], bool]] = {  # by what DVC does not know of
        "validate": validate.outdated,
        "evaluate": lambda: tracking.champion(chosen) != measured_champion(),
        "register": lambda: chosen.lost_store or (read_json(REGISTERED)["dirty"] and not dirty()),
    }

    def reproduce(stage: Any, upstream: Any, **_: Any) -> Any:
        changed, again = stage.changed(upstream=upstream), outdated.get(stage.name, bool)
        if not changed and not again():
            return None
        try:
            if changed:
                repo.stage_cache.restore(stage)  # made before of the same inputs: its outputs come from DVC's cache
            if not changed or again():
                raise RunCacheNotFoundError(stage)
        except (RunCacheNotFoundError, TypeError):  # TypeError: DVC was killed just when it made the entry
            stage.remove_outs()
            start = time.perf_counter()
            here[stage.name]()
            ran.append(stage.name)
            say(f"{stage.name}: {time.perf_counter() - start:.1f} s")
        stage.save()
        stage.commit()
        stage.dump(update_pipeline=False)
        return stage

    ran: list[str] = []
    try:
        with contextlib.redirect_stdout(sys.stderr):
            repo.reproduce(until, repro_fn=reproduce)
    except ReproductionError as error:
        cause = error.__cause__ or error
        if type(cause).__module__.partition(".")[0] in (
            "dvc",
            "dvc_data",
            "dvc_objects",
            "mlflow",
            "sqlalchemy",
            "sqlite3",
        ):
            raise ProjectError(f"{cause}; what was finished before is kept, mend this and run it again") from error
        raise cause from None
    return [name for name in ran if name != "ingest"]
