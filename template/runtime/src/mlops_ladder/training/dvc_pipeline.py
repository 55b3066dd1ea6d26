"""The stages of dvc.yaml brought up to date in one process: the one module that knows how DVC runs them."""

import contextlib
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import ProjectError, Unmet
from ..core.files import read_json
from ..core.progress import Steps, say
from ..core.project import Project
from ..core.repository import dirty, git
from ..data import validate
from . import pipeline, stages, tracking
from .pipeline import REGISTERED, Training, measured_champion


@contextlib.contextmanager
def locked(project: Project) -> Iterator[Any]:
    """Give DVC's view of this project while no other process works on it; raises Unmet when one does."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.logger import setup
    from dvc.repo import Repo, lock_repo

    if not git(project, "rev-parse", "HEAD"):
        raise Unmet("a run names the commit it was trained from: `git init`, then commit everything")
    setup(logging.ERROR)
    try:
        with Repo(str(project.folder)) as repo, lock_repo(repo):
            drop_if_torn(Path(repo.tmp_dir or project.path(".dvc/tmp"), "rwlock"))
            yield repo
    except NotDvcRepoError as error:
        raise ProjectError(f"{error}: run this in the project's own folder") from error
    except LockError as error:
        holder = project.path(".dvc/tmp/lock").read_text(encoding="utf-8").strip()
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


def bring_up_to_date(project: Project, repo: Any, chosen: Training, until: str = "register") -> list[str]:
    """Run each stage up to UNTIL that is stale, as `dvc repro` would but in this process; return the names of those that ran."""
    from dvc.exceptions import ReproductionError
    from dvc.stage.cache import RunCacheNotFoundError

    here = {**stages.STAGES, "validate": stages.validate_stage_beside}
    outdated: dict[str, Callable[[], bool]] = {  # by what DVC does not know of
        "validate": lambda: validate.outdated(project),
        "evaluate": lambda: tracking.champion(project, chosen) != measured_champion(project),
        "register": lambda: (
            pipeline.lost_store(project, chosen)
            or (read_json(project.path(REGISTERED))["dirty"] and not dirty(project))
        ),
    }

    steps, seen = Steps("train", len(here)), list[str]()

    def reproduce(stage: Any, upstream: Any, **_: Any) -> Any:
        seen.append(stage.name)
        steps.done(len(seen) - 1, stage.name)
        changed, again = stage.changed(upstream=upstream), outdated.get(stage.name, bool)
        if not changed and not again():
            return None
        try:
            if changed:  # made before of the same inputs: its outputs come from DVC's cache
                with contextlib.chdir(repo.root_dir):  # which looks for dvc.yaml in the current folder
                    repo.stage_cache.restore(stage)
            if not changed or again():
                raise RunCacheNotFoundError(stage)
        except (RunCacheNotFoundError, TypeError):  # TypeError: DVC was killed just when it made the entry
            stage.remove_outs()
            start = time.perf_counter()
            here[stage.name](project)
            ran.append(stage.name)
            say(f"{stage.name}: {time.perf_counter() - start:.1f} s")
        with contextlib.chdir(repo.root_dir):
            stage.save()
            stage.commit()
            stage.dump(update_pipeline=False)
        return stage

    ran: list[str] = []
    try:
        with contextlib.redirect_stdout(sys.stderr), steps:
            repo.reproduce(f"{project.path('dvc.yaml')}:{until}", repro_fn=reproduce)
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
