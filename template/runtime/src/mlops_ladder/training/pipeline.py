"""The pipeline of dvc.yaml, run in one process: what a run is made of, where its files lie, which stages are stale."""

from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from ..core import settings
from ..core.errors import ProjectError
from ..core.files import read_json
from ..core.project import Project

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
    split_seed: int = pydantic.Field(0, ge=0, le=9999)  # of the hash by which rows without a time are split
    family: str
    parameters: dict[str, Any]
    seed: pydantic.NonNegativeInt
    model: str = pydantic.Field(pattern=r"^[\w.-]+$")
    tracking_uri: str
    tags: dict[str, Annotated[str, pydantic.Field(coerce_numbers_to_str=True)]]
    required_tags: list[str]


def lost_store(project: Project, chosen: Training) -> bool:
    """Whether the runs and the registry of an SQLite store are gone, as in a fresh clone after `dvc pull`."""
    scheme, _, file = chosen.tracking_uri.partition(":///")
    return scheme == "sqlite" and not project.path(file).is_file()


def read_settings(project: Project) -> Training:
    """Return the settings of the run at hand."""
    if not project.path(SETTINGS).is_file():
        raise ProjectError(f"no {SETTINGS} yet: `train` writes it, run that first")
    return Training.model_validate(yaml.safe_load(project.path(SETTINGS).read_text(encoding="utf-8")))


def data_version(project: Project) -> str:
    """Return the version of the snapshot that the last `ingest` stage took: the hash of its files' names and bytes."""
    [out] = yaml.safe_load(project.path("dvc.lock").read_text(encoding="utf-8"))["stages"]["ingest"]["outs"]
    return out["md5"].removesuffix(".dir")


def measured_champion(project: Project) -> str | None:
    """Return the version of the champion that the candidate at hand was compared with."""
    champion = read_json(project.path(EVALUATION) / "metrics.json")["champion"]
    return champion and champion["version"]
