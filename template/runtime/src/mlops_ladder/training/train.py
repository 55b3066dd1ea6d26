"""Train: from gathered rows to a tracked run and a registered model version; only what is stale is done again.

python -m {package} train
python -m {package} train --set family=forest --set parameters.max_depth=12
python -m {package} train --data raw@1a2b3c4d      # another version, or another data set
python -m {package} train --sample 0.1             # for a pull request: tracked as an experiment, not registered

Stages are those of dvc.yaml: ingest, validate, split, train, evaluate, register. Bad data stops it with exit 3.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import yaml

from ..core import files, settings
from ..core.errors import ProjectError, Unmet, UsageError
from ..core.project import Project
from . import dvc_pipeline, pipeline
from .comparison import markdown
from .datasets import find
from .stages import STAGES

PURPOSES = ("training", "experiment", "retraining")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="NAME[@VERSION]", help="data set, or one version of it (default: conf)")
    parser.add_argument("--sample", type=float, metavar="SHARE", help="train on this share of the rows, 0 to 1")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="over a key of conf/training.yml"
    )
    parser.add_argument(
        "--until", default="register", metavar="STAGE", help="stop after this stage (default: register)"
    )
    parser.add_argument("--stage", help="run this stage alone, with the settings of the last run; for `dvc repro`")
    parser.add_argument(
        "--report", type=Path, action="append", default=[], metavar="FILE", help="add the comparison to it, as Markdown"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    for name in (options.until, options.stage or options.until):
        if name not in pipeline.STAGES:
            raise UsageError(f"no stage {name!r}; there are: {', '.join(pipeline.STAGES)}")
    if options.stage:
        return STAGES[options.stage](project)
    chosen = resolve(project, options)
    with dvc_pipeline.locked(project) as repo:
        ran = run_stages(project, repo, chosen, options.until)
    if options.until != "register":
        return print(f"stages up to {options.until} are up to date; new: {', '.join(ran) or 'none'}")
    result = summary(project, chosen, ran)
    for file in options.report:
        with file.open("a", encoding="utf-8") as out:
            out.write(markdown(project, result))
    print(json.dumps(result) if options.json else sentence(result))


def run_stages(project: Project, repo: Any, chosen: pipeline.Training, until: str) -> list[str]:
    """Make CHOSEN the settings of the run at hand and bring the stages up to UNTIL up to date; return those that ran."""
    project.path(pipeline.SETTINGS).parent.mkdir(parents=True, exist_ok=True)
    project.path(pipeline.SETTINGS).write_text(yaml.safe_dump(chosen.model_dump(), sort_keys=False), encoding="utf-8")
    return dvc_pipeline.bring_up_to_date(project, repo, chosen, until)


def resolve(project: Project, options: argparse.Namespace) -> pipeline.Training:
    """Return conf/training.yml with the options over it; raises ProjectError when a run could not be told apart later."""
    changes: dict[str, Any] = {}
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: must be KEY=VALUE, such as seed=7 or parameters.max_iter=50")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {text}: {value} is not YAML") from None
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        changes.setdefault("tracking_uri", uri)
    changes |= {key: value for key in ("data", "sample") if (value := getattr(options, key)) is not None}
    chosen = settings.read(project, "training", pipeline.Training, changes)
    if settings.PASSWORD.search(chosen.tracking_uri):  # it would be kept with the run and, in dvc.lock, in git
        raise ProjectError(
            "tracking_uri or MLFLOW_TRACKING_URI holds a password: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or write ${NAME} and set NAME in the environment"
        )
    if chosen.sample < 1:
        chosen = chosen.model_copy(update={"tags": {**chosen.tags, "purpose": "experiment"}})
    if (purpose := chosen.tags.get("purpose")) not in PURPOSES:
        raise ProjectError(f"tags.purpose is {purpose!r}, must be one of {', '.join(PURPOSES)}")
    if absent := [name for name in chosen.required_tags if not chosen.tags.get(name)]:
        raise ProjectError(
            f"a run needs the tag {', '.join(absent)}: train --set tags.{absent[0]}=..., or conf/training.yml"
        )
    name, _, version = chosen.data.partition("@")
    if version and len(version) < 32:
        chosen = chosen.model_copy(update={"data": f"{name}@{find(project, chosen.data)['version']}"})
    if not project.path("uv.lock").is_file():
        raise Unmet("no uv.lock: a run names its environment. Run `uv lock` and commit the file")
    return chosen


def summary(project: Project, chosen: pipeline.Training, ran: list[str]) -> dict[str, Any]:
    """Return what came of it, for machines: the stages that ran, rows, split, metrics, run and version."""
    cut = files.read_json(project.path(pipeline.SPLIT))
    return {
        "ran": ran,
        "data": f"{chosen.data.partition('@')[0]}@{pipeline.data_version(project)}",
        "rows": cut["rows"],
        "split": cut.get("sentence", ""),
        **files.read_json(project.path(pipeline.EVALUATION) / "metrics.json"),
        **files.read_json(project.path(pipeline.REGISTERED)),
    }


def sentence(result: dict[str, Any]) -> str:
    """Return the same in one line for people."""
    rows, name = result["rows"], result["primary"]
    beside = [f"baseline {result['metrics']['baseline'][name]:.3f}"]
    if champion := result["champion"]:
        value = f"{champion['metrics'][name]:.3f}" if "metrics" in champion else f"not measured: {champion['error']}"
        beside.append(f"champion {value}{' on rows it was trained on' * champion.get('saw_rows', False)}")
    title = " ".join(word.upper() if len(word) <= 4 else word for word in name.split("_"))
    version = f"{result['model']} version {result['version']}"
    unfit = result["dirty"] and result["version"]
    kept = {True: f"registered {version}", False: f"tracked as run {result['run_id'][:8]}, not registered"}
    return (
        f"trained on {rows['train']:,} rows, {title} {result['metrics']['test'][name]:.3f} on {rows['test']:,} held out "
        f"({', '.join(beside)}; {result['split']}), {kept[result['version'] is not None]}"
        + ("" if "register" in result["ran"] else " before: nothing changed since")
        + ("; made with uncommitted changes: commit them and train again to promote it" if unfit else "")
    )
