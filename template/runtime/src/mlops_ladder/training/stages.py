"""The stages, in the order of dvc.yaml, which says what each reads and writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..core import files
from ..core.errors import ProjectError, Refused
from ..core.files import files_in, mirror, read_json, write_json
from ..core.progress import say
from ..core.project import Project
from ..data import data_sets, ingest, split, store, validate, versions
from ..data.data_sets import profile
from ..data.problem import problem_of
from . import evaluation, recording, tracking
from .pipeline import FITTED, REGISTERED, SNAPSHOT, SPLIT, read_settings


def ingest_stage(project: Project) -> None:
    """Gather what is new, make the data set if it is made of that, copy it into data/snapshot; or bring back NAME@VERSION."""

    name, _, version = read_settings(project).data.partition("@")
    if version:
        return versions.restore(project, version, project.path(SNAPSHOT))
    conf = store.read(project)
    folder, make = conf.home / name, data_sets.maker(project, name)
    if folder == conf.raw or make:
        with files.locked(conf.home / ".lock"):
            ingest.gather(project, conf)
            if make:
                make(project, conf)
    if not folder.is_dir():
        raise ProjectError(f"no data set {name}: there is no folder {folder}")
    mirror({file.relative_to(folder): file for file in files_in(folder)}, project.path(SNAPSHOT))


def validate_stage(project: Project) -> None:
    """Stop when the rows break SCHEMA or conf/validation.yml."""

    name, folder = read_settings(project).data, project.path(SNAPSHOT)
    asked = data_sets.of_callers(folder)
    validate.stop_bad(project, validate.read(project, folder, name), source=name, repeats=asked)


def validate_stage_beside(project: Project) -> None:
    """Validate in a process of its own: Great Expectations takes as long to import as what the later stages need.

    Where that is imported already, there is nothing to do meanwhile, and half of what validation needs is there.
    """
    if {"great_expectations", "mlflow"} & sys.modules.keys():
        return validate_stage(project)
    command = project.command("train", "--stage", "validate")
    with subprocess.Popen(
        command, cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as checking:
        tracking.library()
        _, said = checking.communicate()
    if checking.returncode:
        raise (Refused if checking.returncode == Refused.exit_code else ProjectError)(
            said.removeprefix("error: ").strip()
        )


def split_stage(project: Project) -> None:
    """Write how the rows are cut into train, validation and test, and the data's profile."""

    chosen, rows = read_settings(project), read_rows(project)
    part = sample(project, rows, chosen.sample)
    if part.empty:
        raise ProjectError(f"sample: {chosen.sample:g} of {len(rows):,} rows is none: raise it in conf/training.yml")
    how = split.of(project, chosen.split_seed).at(part, chosen.validation, chosen.test)
    parts = how.cut(part)
    for name, some in parts.items():
        if absent := problem_of(project).absent(some[project.data.TARGET]):
            listed = ", ".join(map(str, absent))
            raise ProjectError(
                f"the {name} split has {len(some):,} of {len(part):,} rows and none whose {project.data.TARGET} is "
                f"{listed}: {mend(project, name, how)}"
            )
        if some.empty:
            raise ProjectError(f"the {name} split has 0 of {len(part):,} rows: {mend(project, name, how)}")
    counts = {name: len(some) for name, some in parts.items()}
    if left_out := len(part) - sum(counts.values()):
        say(f"{left_out:,} rows of groups that reach over a cut are left out: the group stays in the earlier part")
    facts = {"sample": chosen.sample, **how.facts, "sentence": how.sentence(counts), "rows": counts}
    write_json(project.path(SPLIT), {**facts, "profile": profile(project, rows)})


def mend(project: Project, name: str, how: split.Split) -> str:
    """Return what to do about split NAME, made as HOW says, which lacks rows or a class."""
    keys = "validation and test" if name == "train" else name
    seed = "" if how.by_time else ", or change split_seed,"
    listed = f", or take it out of values of {project.data.TARGET} in SCHEMA (data.py)"
    more = listed if problem_of(project).classes else ""
    return f"{'lower' if name == 'train' else 'raise'} {keys}{seed} in conf/training.yml, or gather more data{more}"


def train_stage(project: Project) -> None:
    """Fit the estimator on the training rows."""

    tracking.connect(
        project, read_settings(project).tracking_uri
    )  # when it cannot be reached, better said before a long fit
    chosen, rows = read_settings(project), read_splits(project)["train"]
    inputs = project.features.build(rows[project.features.COLUMNS])
    say(f"fitting {chosen.family} on {len(rows):,} rows")
    start = time.perf_counter()
    try:
        fitted = project.model.make(chosen.family, chosen.seed, **chosen.parameters)
        fitted.fit(inputs, rows[project.data.TARGET])
    except (TypeError, ValueError) as error:
        raise ProjectError(f"{chosen.family} with {chosen.parameters or 'its defaults'}: {error}") from error
    project.path(FITTED).mkdir(parents=True, exist_ok=True)
    project.model.save(fitted, project.path(FITTED) / "model.skops")
    seconds = time.perf_counter() - start
    given = fitted.get_params() if hasattr(fitted, "get_params") else chosen.parameters
    plain = {key: value for key, value in given.items() if isinstance(value, str | int | float | None)}
    write_json(project.path(FITTED) / "fit.json", {"seconds": seconds, "parameters": plain})


def evaluate_stage(project: Project) -> None:
    """Measure the fitted model on each split, beside the baseline and the champion, and draw what it does."""

    evaluation.write(project, project.model.load(project.path(FITTED) / "model.skops"), read_splits(project))


def register_stage(project: Project) -> None:
    """Track the run and, unless it is an experiment, register its model as the challenger."""

    write_json(project.path(REGISTERED), recording.record(project, read_settings(project)))


STAGES: dict[str, Callable[[Project], None]] = {
    "ingest": ingest_stage,
    "validate": validate_stage,
    "split": split_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "register": register_stage,
}


def read_rows(project: Project) -> pd.DataFrame:
    """Return the rows of the snapshot; read once as long as it stays the same."""
    folder = project.path(SNAPSHOT)
    marks = ((file.name, file.stat().st_mtime_ns) for file in files_in(folder))
    return project.once(("snapshot", *marks), lambda: data_sets.read(project, folder))


def read_splits(project: Project) -> dict[str, pd.DataFrame]:
    """Return the rows of train, validation and test, as the `split` stage cut them."""
    return cut(project, read_rows(project), read_json(project.path(SPLIT)))


def sample(project: Project, rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Return about SHARE of ROWS, the same ones each time: a row's key decides, whatever rows come later."""
    if share == 1:
        return rows
    keys = rows[project.data.KEY].astype(str).to_numpy(dtype=object)
    return rows[pd.util.hash_array(keys) < np.uint64(share * 2**64)]


def cut(project: Project, rows: pd.DataFrame, facts: dict[str, Any], source: Any = None) -> dict[str, pd.DataFrame]:
    """Return the rows of train, validation and test out of a data version's ROWS, as the FACTS of split.json say."""
    how = split.read(project, facts, source)
    return how.cut(sample(project, how.ordered(rows), facts["sample"]))
