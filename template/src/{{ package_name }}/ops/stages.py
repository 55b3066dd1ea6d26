"""The stages, in the order of dvc.yaml, which says what each reads and writes."""

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from .. import data
from . import ProjectError, Refused, pipeline, store
from .pipeline import (
    FITTED,
    REGISTERED,
    SNAPSHOT,
    SPLIT,
    files,
    mirror,
    read_json,
    read_settings,
    say,
    write_json,
)


def ingest() -> None:
    """Gather what is new, make the data set if it is made of that, copy it into data/snapshot; or bring back NAME@VERSION."""
    from . import datasets
    from . import ingest as gathering

    name, _, version = read_settings().data.partition("@")
    if version:
        return datasets.restore(version, SNAPSHOT)
    conf = store.read()
    folder, make = conf.home / name, datasets.maker(name)
    if folder == conf.raw or make:
        with store.locked(conf.home / ".lock"):
            gathering.gather(conf)
            if make:
                make(conf)
    if not folder.is_dir():
        raise ProjectError(f"no data set {name}: there is no folder {folder}")
    mirror({file.relative_to(folder): file for file in files(folder)}, SNAPSHOT)


def validate() -> None:
    """Stop when the rows break SCHEMA or conf/validation.yml."""
    from . import validate as command

    name = read_settings().data
    command.stop_bad(command.read(SNAPSHOT, name), source=name)


def validate_beside() -> None:
    """Validate in a process of its own: Great Expectations takes as long to import as what the later stages need.

    Where that is imported already, there is nothing to do meanwhile, and half of what validation needs is there.
    """
    if {"great_expectations", "mlflow"} & sys.modules.keys():
        return validate()
    command = [sys.executable, "-m", __name__.partition(".")[0], "train", "--stage", "validate"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as checking:
        from . import evaluation, tracking  # noqa: F401

        tracking.library()
        _, said = checking.communicate()
    if checking.returncode:
        raise (Refused if checking.returncode == Refused.exit_code else ProjectError)(
            said.removeprefix("error: ").strip()
        )


def split() -> None:
    """Write the two moments at which the rows are cut into train, validation and test, and the data's profile."""
    from .datasets import profile

    chosen, rows = read_settings(), read_rows()
    part = sample(rows, chosen.sample)
    moments = part[data.TIME].sort_values(ignore_index=True)
    cuts = [str(moments[int(len(part) * share)]) for share in (1 - chosen.validation - chosen.test, 1 - chosen.test)]
    parts = cut(part, cuts)
    for name, some in parts.items():
        if some.empty or (data.PROBLEM == "classification" and some[data.TARGET].nunique() < 2):
            raise ProjectError(
                f"the {name} split has {len(some)} rows and {some[data.TARGET].nunique()} classes: more data"
            )
    counts = {name: len(some) for name, some in parts.items()}
    write_json(SPLIT, {"sample": chosen.sample, "cuts": cuts, "rows": counts, "profile": profile(rows)})


def train() -> None:
    """Fit the estimator on the training rows."""
    from .. import features, model
    from . import tracking

    tracking.connect(read_settings().tracking_uri)  # when it cannot be reached, better said before a long fit
    chosen, rows = read_settings(), read_splits()["train"]
    inputs = features.build(rows[features.COLUMNS])
    say(f"fitting {chosen.family} on {len(rows):,} rows")
    start = time.perf_counter()
    try:
        fitted = model.make(chosen.family, chosen.seed, **chosen.parameters)
        fitted.fit(inputs, rows[data.TARGET])
    except (TypeError, ValueError) as error:
        raise ProjectError(f"{chosen.family} with {chosen.parameters or 'its defaults'}: {error}") from error
    FITTED.mkdir(parents=True, exist_ok=True)
    model.save(fitted, FITTED / "model.skops")
    seconds = time.perf_counter() - start
    given = fitted.get_params() if hasattr(fitted, "get_params") else chosen.parameters
    plain = {key: value for key, value in given.items() if isinstance(value, str | int | float | None)}
    write_json(FITTED / "fit.json", {"seconds": seconds, "parameters": plain})


def evaluate() -> None:
    """Measure the fitted model on each split, beside the baseline and the champion, and draw what it does."""
    from .. import model
    from . import evaluation

    evaluation.write(model.load(FITTED / "model.skops"), read_splits())


def register() -> None:
    """Track the run and, unless it is an experiment, register its model as the challenger."""
    from . import recording

    write_json(REGISTERED, recording.record(read_settings()))


STAGES: dict[str, Callable[[], None]] = {name: globals()[name] for name in pipeline.STAGES}


def read_rows() -> pd.DataFrame:
    """Return the rows of the snapshot, oldest first; read once a process."""
    return _read(SNAPSHOT.resolve(), tuple((file.name, file.stat().st_mtime_ns) for file in files(SNAPSHOT)))


@functools.lru_cache(maxsize=1)
def _read(folder: Path, _: tuple) -> pd.DataFrame:
    from . import datasets

    rows = datasets.read(folder)
    return rows.sort_values(data.TIME, kind="stable", ignore_index=True)


def read_splits() -> dict[str, pd.DataFrame]:
    """Return the rows of train, validation and test, as the `split` stage cut them."""
    chosen = read_json(SPLIT)
    return cut(sample(read_rows(), chosen["sample"]), chosen["cuts"])


def sample(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Return about SHARE of ROWS, the same ones each time: a row's key decides, whatever rows come later."""
    if share == 1:
        return rows
    keys = rows[data.KEY].astype(str).to_numpy(dtype=object)
    return rows[pd.util.hash_array(keys) < np.uint64(share * 2**64)]


def cut(rows: pd.DataFrame, cuts: list[str]) -> dict[str, pd.DataFrame]:
    """Return ROWS before the first moment of CUTS, those up to the second, and those from then on."""
    first, second = map(pd.Timestamp, cuts)
    moments = rows[data.TIME]
    return {
        "train": rows[moments < first],
        "validation": rows[(moments >= first) & (moments < second)],
        "test": rows[moments >= second],
    }
