"""Try families and parameters of SEARCH_SPACE in model.py, then train the best by the same pipeline as ever.

python -m {package} tune --trials 30
python -m {package} tune --trials 30 --family boosting --family forest

A trial is measured on later rows than it learns from, in three steps of time; one that falls behind is stopped early.
Killed, it goes on where it was: --trials is the number in all. Where it computes stands in conf/compute.yml.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from ..core import progress
from ..core.errors import ProjectError, UsageError
from ..core.project import Project
from ..data import split
from ..data.problem import problem_of
from . import compute, dvc_pipeline, pipeline, stages, tracking, train

STUDIES = Path("models/tuning.db")  # trials so far; delete it to forget them
FOLDS = 3  # steps of time; a trial is judged after each


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=30, help="in all, with those of a killed search (default: 30)")
    parser.add_argument("--family", action="append", help="only this family of SEARCH_SPACE; may be repeated")
    parser.add_argument("--data", metavar="NAME[@VERSION]", help="data set, or one version of it (default: conf)")
    parser.add_argument("--sample", type=float, metavar="SHARE", help="search on this share of the rows, 0 to 1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over conf/training.yml")
    parser.add_argument("--no-train", action="store_true", help="only search, do not train the best")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.trials < 1:
        raise UsageError(f"--trials is {options.trials}, must be 1 or more")


def run(project: Project, options: argparse.Namespace) -> None:
    families = options.family or list(project.model.SEARCH_SPACE)
    if unknown := [family for family in families if family not in project.model.SEARCH_SPACE]:
        raise UsageError(f"--family is {unknown[0]!r}, must be one of {', '.join(project.model.SEARCH_SPACE)}")
    conf, chosen = compute.read(project), train.resolve(project, options)
    with dvc_pipeline.locked(project) as repo:
        train.run_stages(project, repo, chosen, "split")
        found = search(project, conf, chosen, families, options.trials)
    print(json.dumps(found) if options.json else sentence(project, found), flush=True)
    if not options.no_train:
        best = [f"family={found['family']}", f"parameters={json.dumps(found['parameters'])}"]
        words = vars(options) | {"set": [*options.set, *best], "until": "register", "stage": None, "report": []}
        train.run(project, argparse.Namespace(**words))


def search(
    project: Project, conf: compute.Compute, chosen: pipeline.Training, families: list[str], n_trials: int
) -> dict[str, Any]:
    """Run trials until there are N_TRIALS; return the best beside what a trivial and a simple model reach."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    splits = stages.read_splits(project)
    rows = pd.concat([splits["train"], splits["validation"]])  # the test rows stay unseen
    inputs, target = project.features.build(rows[project.features.COLUMNS]), rows[project.data.TARGET]
    for fold in range(FOLDS):
        known, _ = steps(len(rows), fold)
        if absent := problem_of(project).absent(target.iloc[known]):
            raise ProjectError(
                f"the first {len(target.iloc[known]):,} rows, from which step {fold + 1} of {FOLDS} learns, have none whose "
                f"{project.data.TARGET} is {', '.join(map(str, absent))}: {stages.mend(project, 'train', split.of(project))}"
            )
    project.path(STUDIES).parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{project.path(STUDIES)}",
        study_name=name(project, chosen, families),
        direction="maximize" if project.model.HIGHER_IS_BETTER[project.model.PRIMARY] else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        load_if_exists=True,
    )
    for cut_off in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # by a kill: the same is asked for again
        study.tell(cut_off.number, state=optuna.trial.TrialState.FAIL)
    n_known = len(tried(study))
    with compute.workers(conf, inputs, target) as where, progress.Steps("tune", n_trials - n_known) as tries:
        progress.say(f"{n_trials} trials of {', '.join(families)} on {len(rows):,} rows, {where}")
        parent = record(project, chosen, study)
        while (n_before := len(tried(study))) < n_trials:
            try_some(project, study, min(conf.together, n_trials - n_before), families, chosen.seed, inputs, target)
            record(project, chosen, study)
            for number, trial in enumerate(tried(study)[n_before:], n_before + 1):
                progress.say(f"trial {number} of {n_trials}: {describe(project, trial)}")
            tries.done(len(tried(study)) - n_known)
        simple = fold_values(project, [(project.model.SIMPLE, {})] * FOLDS, range(FOLDS), chosen.seed, inputs, target)
    if wrong := [value for value in simple if isinstance(value, str)]:
        raise ProjectError(
            f"{project.model.SIMPLE}, the SIMPLE model of model.py to compare with, does not work: {wrong[0]}"
        )
    done = tried(study)
    states = [trial.state.name for trial in done]
    if "COMPLETE" not in states:
        raise ProjectError(f"none of {len(done)} trials worked, the last: {describe(project, done[-1])}; mend model.py")
    family, parameters = split_names(study.best_trial.params)
    return {
        "run_id": parent,
        "primary": project.model.PRIMARY,
        "trials": len(done),
        "stopped_early": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "family": family,
        "parameters": parameters,
        "value": study.best_value,
        "simple": {"family": project.model.SIMPLE, "value": fmean(map(float, simple))},
        "baseline": fmean(trivial(project, target, fold) for fold in range(FOLDS)),
    }


def try_some(
    project: Project, study: Any, n: int, families: list[str], seed: int, inputs: pd.DataFrame, target: pd.Series
) -> None:
    """Try N sets of parameters at the same time; after each step of time stop those that fall behind."""
    import optuna

    # a sampler made anew from the number of trials: a search that was killed goes on as if it had not been
    n_before = len(tried(study))
    study.sampler = optuna.samplers.TPESampler(seed=seed + n_before, constant_liar=True)
    for family in families[n_before : n_before + n]:  # a family's first trial has its own defaults
        study.enqueue_trial({"family": family}, user_attrs={"defaults": True}, skip_if_exists=True)
    trials = [study.ask() for _ in range(n)]
    asked = {trial.number: suggest(project, trial, families) for trial in trials}
    values: dict[int, list[float]] = {trial.number: [] for trial in trials}
    ended: dict[int, tuple[Any, str]] = {}  # by trial: its state, and why in words
    states = optuna.trial.TrialState
    for fold in range(FOLDS):
        going = [trial for trial in trials if trial.number not in ended]
        told = fold_values(project, [asked[trial.number] for trial in going], [fold] * len(going), seed, inputs, target)
        for trial, value in zip(going, told, strict=True):
            if isinstance(value, str):
                ended[trial.number] = states.FAIL, f"failed: {value}"
                continue
            values[trial.number].append(value)
            trial.report(fmean(values[trial.number]), fold)
            if fold + 1 < FOLDS and trial.should_prune():
                ended[trial.number] = states.PRUNED, "stopped early"
    for trial in trials:
        trial.set_user_attr("folds", values[trial.number])
        trial.set_user_attr("outcome", ended.get(trial.number, (None, "done"))[1])
    for trial in trials:
        if trial.number in ended:
            study.tell(trial, state=ended[trial.number][0])
        else:
            study.tell(trial, fmean(values[trial.number]))


def suggest(project: Project, trial: Any, families: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the family and the parameters that the sampler asks for."""
    family = trial.suggest_categorical("family", families)
    for key, choice in project.model.SEARCH_SPACE[family].items() if "defaults" not in trial.user_attrs else ():
        label = f"{family}.{key}"
        if isinstance(choice, list):
            trial.suggest_categorical(label, choice)
        elif all(isinstance(end, int) for end in choice[:2]):
            trial.suggest_int(label, *choice[:2], log="log" in choice)
        else:
            trial.suggest_float(label, *choice[:2], log="log" in choice)
    return split_names(trial.params)


def split_names(params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the family and its parameters of {"family": "linear", "linear.C": 0.1}."""
    family = params["family"]
    return family, {key.removeprefix(f"{family}."): value for key, value in params.items() if key != "family"}


def fold_values(
    project: Project,
    asked: list[tuple[str, dict[str, Any]]],
    folds: Any,
    seed: int,
    inputs: pd.DataFrame,
    target: pd.Series,
) -> list[float | str]:
    """Return what `attempt` does of each, computed where conf/compute.yml says."""
    import joblib

    tasks = zip(asked, folds, strict=True)
    return joblib.Parallel()(joblib.delayed(attempt)(project, inputs, target, fold, *one, seed) for one, fold in tasks)


def attempt(
    project: Project,
    inputs: pd.DataFrame,
    target: pd.Series,
    fold: int,
    family: str,
    parameters: dict[str, Any],
    seed: int,
) -> float | str:
    """Return the primary metric on a step of time after learning from all rows before it, or what went wrong."""
    import threadpoolctl

    known, later = steps(len(inputs), fold)
    try:
        with threadpoolctl.threadpool_limits(1):  # the same sums in the same order, wherever it computes
            fitted = project.model.make(family, seed, **parameters).fit(inputs.iloc[known], target.iloc[known])
            predicted = project.model.predict(fitted, inputs.iloc[later])
        value = project.model.metrics(target.iloc[later], predicted)[project.model.PRIMARY]
    except Exception as error:  # noqa: BLE001 - one set of parameters that does not work must not end the search
        return f"{type(error).__name__}: {error}"
    return value if math.isfinite(value) else f"{project.model.PRIMARY} is {value}"


def steps(n_rows: int, fold: int) -> tuple[slice, slice]:
    step = n_rows // (FOLDS + 1)
    return slice(0, step * (fold + 1)), slice(step * (fold + 1), step * (fold + 2))


def trivial(project: Project, target: pd.Series, fold: int) -> float:
    """Return the primary metric of the baseline of model.py on the same step of time."""
    known, later = (target.iloc[part] for part in steps(len(target), fold))
    return project.model.metrics(later, project.model.baseline(known, len(later)))[project.model.PRIMARY]


def tried(study: Any) -> list[Any]:
    """Return the trials that count: done, stopped early or failed; not those that a kill cut off."""
    return [trial for trial in study.trials if trial.state.is_finished() and "outcome" in trial.user_attrs]


def name(project: Project, chosen: pipeline.Training, families: list[str]) -> str:
    """Return the name of the search: another one as soon as rows, split, space, seed or your code differ."""
    code = [(project.source / f"{name}.py").read_text(encoding="utf-8") for name in ("data", "features", "model")]
    parts = [
        pipeline.data_version(project),
        project.path(pipeline.SPLIT).read_text(encoding="utf-8"),
        families,
        chosen.seed,
        code,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def record(project: Project, chosen: pipeline.Training, study: Any) -> str:
    """Track each trial that is not yet as a run under the run of the search; return the id of that one."""
    client = tracking.connect(project, chosen.tracking_uri)
    place = tracking.experiment(project, client, "experiment")
    source = f"{chosen.data.partition('@')[0]}@{pipeline.data_version(project)}"
    tags = {**chosen.tags, "purpose": "experiment", "data": source, "search": study.study_name}
    runs = client.search_runs([place], f"tags.search = '{study.study_name}'")
    there = {one.data.tags["trial"]: one.info.run_id for one in runs if one.info.status != "RUNNING"}
    for half in (one.info.run_id for one in runs if one.info.status == "RUNNING"):
        client.set_terminated(half, "KILLED")
    if "all" not in there:
        whole = client.create_run(place, tags={**tags, "trial": "all"}, run_name=f"tune-{study.study_name[:6]}")
        client.set_terminated(whole.info.run_id)
        there["all"] = whole.info.run_id
    for trial in tried(study):
        if str(trial.number) in there:
            continue
        family, parameters = split_names(trial.params)
        mine = {"trial": str(trial.number), "family": family, "outcome": trial.user_attrs["outcome"]}
        mine |= {"mlflow.parentRunId": there["all"]}
        run_id = client.create_run(place, tags={**tags, **mine}, run_name=f"trial-{trial.number}").info.run_id
        for key, value in {"family": family, **parameters}.items():
            client.log_param(run_id, key, value)
        for step in range(len(folds := trial.user_attrs["folds"])):
            client.log_metric(run_id, project.model.PRIMARY, fmean(folds[: step + 1]), step=step)
        client.set_terminated(run_id, "FAILED" if trial.state.name == "FAIL" else "FINISHED")
    return there["all"]


def describe(project: Project, trial: Any) -> str:
    (family, parameters), folds = split_names(trial.params), trial.user_attrs["folds"]
    measured = f", {project.model.PRIMARY} {fmean(folds):.4f}" if folds else ""
    return f"{family} ({describe_parameters(parameters)}){measured}, {trial.user_attrs['outcome']}"


def describe_parameters(parameters: dict[str, Any]) -> str:
    plain = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in parameters.items()}
    return ", ".join(f"{key} {value}" for key, value in plain.items()) or "its defaults"


def sentence(project: Project, found: dict[str, Any]) -> str:
    simple, value = found["simple"], found["value"]
    gain = value - simple["value"] if project.model.HIGHER_IS_BETTER[found["primary"]] else simple["value"] - value
    line = (
        f"best of {found['trials']} trials ({found['stopped_early']} stopped early, {found['failed']} failed): "
        f"{found['family']} ({describe_parameters(found['parameters'])}), {found['primary']} {value:.4f} on later rows; "
        f"{simple['family']} {simple['value']:.4f}, baseline {found['baseline']:.4f}"
    )
    return line if gain > 0 else f"{line}. The simpler {simple['family']} model is as good: prefer it"
