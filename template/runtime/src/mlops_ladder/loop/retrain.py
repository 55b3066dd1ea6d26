"""Train the model in use anew on the newest labelled rows, judge it by every gate and hand it to an experiment.

python -m {package} retrain --if-triggered      # by a schedule or an alert; conf/retraining.yml decides whether
python -m {package} retrain --reason "fares changed on Monday, agreed with operations"
python -m {package} retrain --drop --reason "the labels of last week were wrong"
python -m {package} retrain --history

One at a time. Killed, it goes on where it was the next time, and comes to the same one version. Nothing to do is exit 0; what
a gate refuses, or what did not help so often that people are asked, is exit 3; what an error stopped, once or for good, is exit 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import clock, files, progress, repository, settings
from ..core.errors import Busy, ProjectError, Refused, Unmet, UsageError
from ..core.project import Project
from ..data import data_sets, feature_tables, split, store
from ..data.problem import problem_of
from ..release import approve, deploy, environments, gate, judgement, on_register
from ..training import dvc_pipeline, pipeline, tracking, train
from . import audit, experiment, forgotten, prediction_log, triggers
from .triggers import Held, Mark, Policy, Situation, Trigger

DATASET = "retraining"  # the data set that `make` makes
ASIDE = "stable"  # folder in it: rows that no retraining learns from
STOPPED = {"refused": Refused, "gave up": Refused, "failed": ProjectError}  # outcomes that are no success
Attempt = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--if-triggered", action="store_true", help="only when conf/retraining.yml says so")
    parser.add_argument("--reason", help="train anew now, and why; it is kept")
    parser.add_argument("--drop", action="store_true", help="with --reason: give up the one that is not finished")
    parser.add_argument(
        "--history", action="store_true", help="print what was retrained when, why, and what came of it"
    )
    parser.add_argument(
        "--alert", action="append", default=[], metavar="NAME", help="it fired in Prometheus: a trigger"
    )
    parser.add_argument("--as-of", type=clock.moment, metavar="TIME", help="what counts as now; for a replay")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.history:
        return
    by_hand = bool(options.reason and options.reason.strip())
    if options.if_triggered == by_hand or (options.drop and not by_hand):
        raise UsageError("say either --if-triggered or --reason WHY: somebody will ask why")
    environment = triggers.read(project).environment
    if not tracking.champion(project, environments.settings_of(project, environment)):
        raise ProjectError(unused(environment))


def unused(environment: str) -> str:
    return f"nothing is in use in {environment}: deploy a first version"


def run(project: Project, options: argparse.Namespace) -> None:
    if options.history:
        past = triggers.past(triggers.database(project))
        lines = "\n".join(map(sentence, past)) or "nothing was retrained yet"
        return print(json.dumps(past) if options.json else lines)
    policy = triggers.read(project)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(store.read(project).home / ".retraining.lock"))
            engine = triggers.database(project)
            held = stack.enter_context(triggers.alone(engine))
        except Busy:
            if not options.if_triggered:
                raise
            return print_outcome(options, {"outcome": "busy"}, "another process is retraining: nothing to do")
        told, line = decide(project, engine, policy, options, held)
    print_outcome(options, told, line)
    if told["outcome"] in STOPPED:
        raise STOPPED[told["outcome"]](line)


def print_outcome(options: argparse.Namespace, told: dict[str, Any], line: str) -> None:
    if options.json:
        print(json.dumps(told))
    elif told["outcome"] not in STOPPED:
        print(line)


def decide(
    project: Project, engine: Any, policy: Policy, options: argparse.Namespace, held: Held
) -> tuple[dict[str, Any], str]:
    """Go on with the retraining that is not finished, or begin one if there is cause; return what came of it."""
    now = look(project, engine, policy, options)
    unfinished = next((one for one in now.past if one["outcome"] is None), None)
    if options.drop:
        if not unfinished:
            raise ProjectError("no retraining is under way")
        return finish(project, engine, policy, unfinished, "refused", f"dropped by hand: {options.reason}")
    if unfinished:
        if unfinished["tries"] >= policy.tries and not waits(unfinished):
            why = f"stopped by an error {unfinished['tries']} times"
            return finish(project, engine, policy, unfinished, "failed", why)
        triggers.note(engine, unfinished, tries=unfinished["tries"] + (not waits(unfinished)))
        return carry_on(project, engine, policy, unfinished, now, held)
    causes = [Trigger("by_hand", options.reason, audit.who(project), policy.runbook)]
    if options.if_triggered:
        verdict = triggers.decide(project, policy, now)
        for warning in verdict.warned:
            progress.say(f"warning: {warning.name}: {warning.why}; owner {warning.owner}, {warning.runbook}")
        if not verdict.fired:
            return {
                "outcome": "nothing",
                "warned": [one.name for one in verdict.warned],
            }, f"no trigger fired, {len(verdict.warned)} warnings: version {now.version} stays as it is"
        if verdict.blocked:
            return decline(project, engine, policy, now, verdict)
        causes = verdict.fired
    elif now.on_trial:
        raise ProjectError(f"version {now.on_trial} is on trial: `experiment stop` ends that first")
    elif now.new_rows < policy.least_rows and not now.forgotten:
        raise Refused(f"{now.new_rows:,} labelled rows are new, {policy.least_rows:,} or more teach something")
    attempt = triggers.begin(
        engine,
        began=f"{now.now:%Y-%m-%dT%H:%M:%S}",
        until=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}",
        triggers=json.dumps([one.name for one in causes]),
        why="; ".join(f"{one.name}: {one.why}" for one in causes),
        before=now.version,
    )
    subject = f"retraining {attempt['id']} of version {now.version}"
    audit.record(project, "retrain", subject, attempt["why"], triggers=[vars(one) for one in causes])
    return carry_on(project, engine, policy, attempt, now, held)


def decline(
    project: Project, engine: Any, policy: Policy, now: Situation, verdict: triggers.Verdict
) -> tuple[dict[str, Any], str]:
    """Record that there is cause to train anew and why it is not done; ask people, once, when it did not help before."""
    names = [one.name for one in verdict.fired]
    line = f"not retrained although {', '.join(names)} fired: {verdict.blocked}"
    told = {"outcome": "blocked", "triggers": names, "why": verdict.blocked}
    if verdict.gave_up and Mark.PEOPLE_WERE_ASKED not in now.past[-1]["marks"]:
        lines = [f"- {one.name}: {one.why}; owner {one.owner}, {one.runbook}" for one in verdict.fired]
        lines += ["", "What was tried:", "", *(f"- {sentence(one)}" for one in now.past[-policy.give_up_after :])]
        file = triggers.ask_people(project, policy, f"Retraining does not help version {now.version}", lines)
        triggers.mark(engine, now.past[-1], Mark.PEOPLE_WERE_ASKED)
        triggers.note(engine, now.past[-1], result=f"{now.past[-1]['result']}; people were asked: {file}")
        told, line = told | {"outcome": "gave up", "issue": str(file)}, f"{line}; {file} asks {policy.owner}"
    audit.record(project, "decline", f"retraining of version {now.version}", line, triggers=names)
    return told, line


def look(project: Project, engine: Any, policy: Policy, options: argparse.Namespace) -> Situation:
    """Return all that the policy is held against; settle what became of versions that were handed to an experiment."""
    chosen, client = environments.open_store(project, policy.environment)
    there, on_trial = environments.find_copy(client, chosen.model), tried(project, policy)
    if there is None:
        raise ProjectError(unused(policy.environment))
    version = there.tags["origin_version"]
    past = triggers.past(engine)
    for one in past:
        if one["outcome"] == "on trial" and on_trial != one["version"]:
            won = one["version"] == version
            why = (
                "it is in use"
                if won
                else f"its experiment ended, version {version} stays in use{ending(project, policy, one)}"
            )
            finish(project, engine, policy, one, "promoted" if won else "aborted", why)
    chosen, dev = environments.open_store(project, "dev")
    made_by = dev.get_run(tracking.find_version(dev, chosen.model, version).run_id)
    trained = datetime.fromtimestamp(made_by.info.start_time / 1000, UTC).replace(tzinfo=None)
    learned_until = clock.moment(made_by.data.params["trained_before"])
    learned = [one["until"] for one in past if one["data"]]
    since = clock.moment(learned[-1]) if learned else trained
    count, newest = triggers.labels(engine, since, split.time_column(project))
    known = store.read_manifest(store.read(project)).values()
    gathered = sum(n for one in known for at, n in store.rows_added(one).items() if clock.moment(at) > since)
    alerts = [
        Trigger(f"alert: {name}", "it fires in Prometheus", policy.owner, policy.runbook) for name in options.alert
    ]
    now = options.as_of or datetime.now(UTC).replace(tzinfo=None)
    reports, newest = triggers.read_reports(project, policy, version, trained), newest or learned_until
    return Situation(
        now,
        version,
        trained,
        learned_until,
        newest,
        count + gathered,
        reports,
        past,
        on_trial,
        alerts,
        forgotten_rows(project, policy, version),
    )


def forgotten_rows(project: Project, policy: Policy, version: str) -> list[Trigger]:
    """Return the cause to train anew that VERSION learned from rows which were forgotten since, if it did."""
    n_rows = sum(one.versions[version] for one in forgotten.unlearned(forgotten.opened(project), version))
    why = f"version {version} learned from {n_rows:,} rows that were forgotten since"
    return [Trigger("forgotten", why, policy.owner, policy.runbook)] if n_rows else []


def tried(project: Project, policy: Policy) -> str | None:
    """Return the version that an experiment is judging, whoever began it."""
    chosen, client = environments.open_store(project, policy.environment)
    trial = tracking.aliases(client, chosen.model).get("challenger")
    return client.get_model_version(chosen.model, trial).tags.get("origin_version") if trial else None


def ending(project: Project, policy: Policy, attempt: Attempt) -> str:
    """Return why the experiment with the version of ATTEMPT ended, to put behind a sentence."""

    told = [
        one["why"] for one in experiment.status(project, policy.environment) if one["challenger"] == attempt["version"]
    ]
    return f": {told[0]}" if told else ""


def carry_on(
    project: Project, engine: Any, policy: Policy, attempt: Attempt, now: Situation, held: Held
) -> tuple[dict[str, Any], str]:
    """Bring a retraining to its end, from wherever it is; each step is done once, whoever is killed in between.

    Where it is no longer the only one that is under way (HELD), it ends at once: another may be at it already.
    """
    started = sum(os.times()[:4])
    try:
        version = attempt["version"] or train_version(project, engine, policy, attempt, held)
        pass_gates(project, version, policy)  # also one that waited: it may have been judged again
        if not signed_off(project, policy, version, attempt):
            why = f"version {version} passed its gates and waits: `approve {version} --reason WHY`, then this goes on"
            if not waits(attempt):
                triggers.note(engine, attempt, result=attempt["result"])
                triggers.ask_people(project, policy, f"Version {version} waits for sign-off", [attempt["result"]])
                triggers.mark(engine, attempt, Mark.AWAITS_SIGN_OFF)
            return {"outcome": "waiting", "id": attempt["id"], "version": version}, why
        if (other := tried(project, policy)) not in (None, version):
            triggers.note(engine, attempt, tries=attempt["tries"] - 1)  # to wait is no failed try
            why = f"version {version} passed its gates and waits: version {other} is on trial first"
            return {"outcome": "waiting", "id": attempt["id"], "version": version}, why
        outcome, why = release(project, policy, version, attempt, now, held)
    except Unmet:
        triggers.note(engine, attempt, tries=attempt["tries"] - 1)  # nothing was tried
        raise
    except Refused as error:
        held()
        return finish(project, engine, policy, attempt, "refused", str(error))
    finally:
        triggers.note(engine, attempt, seconds=attempt["seconds"] + sum(os.times()[:4]) - started)
    return finish(project, engine, policy, attempt, outcome, why)


def train_version(project: Project, engine: Any, policy: Policy, attempt: Attempt, held: Held) -> str:
    """Return the version trained on the newest labelled rows. Once made, the data set is this retraining's for good."""

    if repository.dirty(project):
        raise Unmet("there are uncommitted changes: what is trained with them cannot be released; commit them")
    tags = {"tags.purpose": "retraining", "tags.reason": attempt["why"][:200], "tags.retraining": str(attempt["id"])}
    changes = [f"{key}={json.dumps(value)}" for key, value in {**policy.training, **tags}.items()]

    def settings_of(name: str) -> pipeline.Training:
        return train.resolve(project, argparse.Namespace(set=changes, data=name, sample=None))

    with dvc_pipeline.locked(project) as repo:
        if not attempt["data"]:
            train.run_stages(project, repo, settings_of(DATASET), "ingest")
            triggers.note(engine, attempt, data=pipeline.data_version(project))
        chosen = settings_of(f"{DATASET}@{attempt['data']}")
        old, client = tracking.open_store(project)
        used = client.get_run(tracking.find_version(client, old.model, attempt["before"]).run_id).data.tags["data"]
        if used.partition("@")[2] == attempt["data"]:
            raise Refused(f"version {attempt['before']} was trained on these very rows: there is nothing to learn")
        result = train.summary(project, chosen, train.run_stages(project, repo, chosen, "register"))
    held()
    triggers.note(engine, attempt, version=result["version"], result=train.sentence(result))
    return result["version"]


def pass_gates(project: Project, version: str, policy: Policy) -> None:
    """Have VERSION judged by every gate, if it was not; raises Refused unless each of them let it pass."""

    chosen, client = tracking.open_store(project)
    limits = settings.read(project, "release", judgement.Release)
    with gate.claimed(project, version):
        if not on_register.is_gated(tracking.find_version(client, chosen.model, version)):
            gate.judge_version(project, client, chosen, version, limits)
    tags = tracking.find_version(client, chosen.model, version).tags
    passed = {name for name, kind in json.loads(tags["gates"]).items() if kind in environments.JUDGED}
    if missed := [
        name for name in dict.fromkeys([*limits.gates, *judgement.gate_names(project), ASIDE]) if name not in passed
    ]:
        raise Refused(
            f"version {version} is refused by {', '.join(missed)}; models/gates/{version}/gates.html says why"
        )
    if tags["validation_status"] not in environments.JUDGED:
        raise Refused(f"the gates of version {version} say {tags['validation_status']}")


def signed_off(project: Project, policy: Policy, version: str, attempt: Attempt) -> bool:
    """Return whether VERSION is approved: by a person, or by the policy where it may and sees no risk."""

    env = policy.environment
    chosen, client = environments.open_store(project, "dev")
    made = tracking.find_version(client, chosen.model, version)
    if approve.objection(project, env, made.tags, client.get_run(made.run_id)) is None:
        return True
    if policy.sign_off == "none" and not environments.read(project, env).approval:
        return True
    risks = found_risks(project, policy, version) if policy.sign_off == "on_risk" else []
    if policy.sign_off == "required" or risks:
        attempt["result"] = f"{attempt['result'] or ''}; {'; '.join(risks) or 'conf/retraining.yml asks for a person'}"
        return False
    reason = f"conf/retraining.yml, sign_off {policy.sign_off}: {attempt['why']}"
    approve.approve(project, env, version, reason, policy.approver, approve.Kind.POLICY)
    return True


def found_risks(project: Project, policy: Policy, version: str) -> list[str]:
    """Return what a person should look at before VERSION is used, a sentence each."""

    chosen, client = tracking.open_store(project)
    candidate = judgement.Candidate(project, client, chosen.model, version)
    champion = candidate.champion
    if champion is None:
        return ["there is no version in use to compare with"]
    risks = []
    problem = problem_of(project)
    before_it = problem.means(champion.predicted)
    for name, ours in problem.means(candidate.predicted).items():
        if abs(ours - (theirs := before_it[name])) > policy.risk.mean_shift:
            risks.append(f"its {name} is {ours:.3f}, that of version {champion.version} {theirs:.3f}")
    before = client.get_run(tracking.find_version(client, chosen.model, champion.version).run_id)
    rows, rows_before = (one.data.metrics["train_rows"] for one in (candidate.run, before))
    if rows < policy.risk.fewer_rows * rows_before:
        risks.append(f"it learned from {rows:,.0f} rows, version {champion.version} from {rows_before:,.0f}")
    return risks


def release(
    project: Project, policy: Policy, version: str, attempt: Attempt, now: Situation, held: Held
) -> tuple[str, str]:
    """Bring VERSION through the environments before the policy's, then on trial or into use; return outcome and why."""

    if now.version == version:
        return "promoted", "it is in use"
    reason = f"retraining {attempt['id']}: {attempt['why']}"[:400]
    earlier, env = list[str](), environments.read(project, policy.environment)
    while env.after:
        earlier.insert(0, env.after)
        env = environments.read(project, env.after)
    for name in earlier:
        held()
        deploy.deploy(project, name, version, reason)
    held()
    told = attempt["result"] or ""
    if policy.release == "direct":
        deploy.deploy(project, policy.environment, version, reason)
        return "promoted", f"{told}; in use in {policy.environment}"

    tried = [(one["challenger"], one["reason"]) for one in experiment.status(project, policy.environment)]
    if now.on_trial != version and (version, reason) not in tried:  # one that was stopped is not begun again
        experiment.start(project, version, policy.release, policy.environment, reason)
    return "on trial", f"{told}; {policy.release} begun in {policy.environment}"


def finish(
    project: Project, engine: Any, policy: Policy, attempt: Attempt, outcome: str, why: str
) -> tuple[dict[str, Any], str]:
    """Record the end of a retraining; tell people when it came to nothing. Return it, for machines and as a line."""
    triggers.note(engine, attempt, outcome=outcome, result=why)
    audit.record(
        project, "retrained", f"retraining {attempt['id']}", why, outcome=outcome, version=attempt["version"] or "none"
    )
    line = sentence(attempt)
    if outcome in triggers.FAILED:
        issue = triggers.ask_people(project, policy, f"Retraining {attempt['id']} is {outcome}", [line])
        line = f"{line}; owner {policy.owner}, {policy.runbook}, {issue}"
    return {key: attempt[key] for key in ("id", "outcome", "version", "data", "why", "result")}, line


def waits(attempt: Attempt) -> bool:
    return Mark.AWAITS_SIGN_OFF in attempt["marks"]


def sentence(attempt: Attempt) -> str:
    """Return a retraining in one line for people."""
    version = f"version {attempt['version'] or 'none'}, {attempt['outcome'] or 'not finished'}"
    result = f"{'waits for sign-off: ' * (waits(attempt) and not attempt['outcome'])}{attempt['result'] or ''}"
    return f"{attempt['began']}  retraining {attempt['id']} ({attempt['why']}): {version}: {result}"


def make(project: Project, conf: store.Store) -> None:
    """Make the data set of all that was gathered and all labelled rows of the log, less what is kept aside for good.

    Labels count that came before the retraining began which is under way, so that it finds the same rows when it goes on.
    """
    engine = triggers.database(project)
    unfinished = [one["until"] for one in triggers.past(engine) if one["outcome"] is None]
    until = clock.moment(unfinished[-1]) if unfinished else datetime.now(UTC).replace(tzinfo=None)
    # gathered first: that brings the feature tables up to date, which labelled rows are joined to
    raw, logged = gathered(project, conf), labelled(project, until)
    if raw is not None:
        rows = raw[[name for name in project.data.SCHEMA if name in raw]]
        logged = logged[
            ~logged[project.data.KEY].isin(rows[project.data.KEY])
        ]  # what was gathered is checked and complete
        kinds = {name: kind for name, kind in rows.dtypes.items() if name in logged}
        rows = pd.concat([rows, logged.astype(kinds)], ignore_index=True) if len(logged) else rows
    else:
        rows = logged
    rows = split.oldest_first(project, rows)
    aside = (pd.util.hash_array((f"{ASIDE}:" + rows[project.data.KEY].astype(str)).to_numpy(dtype=object)) % 10_000) < (
        triggers.read(project).stable.share * 10_000
    )

    folder, written = conf.home / DATASET, set[Path]()
    for place, part in ((data_sets.ROWS, rows[~aside]), (ASIDE, rows[aside])):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for month, some in part.groupby(split.months(project, part)):
            file = folder / place / f"{month}.parquet"
            files.replaced(file, some.to_parquet(index=False))
            written.add(file)
    for file in set(folder.rglob("*.parquet")) - written:
        file.unlink()
    facts = ("origin", "gathered", "sha256")
    known = {} if raw is None else store.read_manifest(conf)
    origins = {name: {fact: one[fact] for fact in facts} for name, one in known.items()}
    span = [*split.span(project, logged).values()] if len(logged) else []
    made_of = {"files": origins, "log": {"rows": len(logged), "span": span}}
    made_of |= {"tables": feature_tables.Offline.of(project, project.data.SCHEMA).version}
    files.replaced(folder / data_sets.MADE_OF, json.dumps(made_of, indent=1, sort_keys=True).encode())
    progress.say(f"{len(rows):,} rows, {len(logged):,} of them from the prediction log, {aside.sum():,} kept aside")


def gathered(project: Project, conf: store.Store) -> pd.DataFrame | None:
    """Return the rows that `ingest` gathered, None when there are none."""
    return store.read_rows(project, conf) if any(Path(conf.raw).glob("*.parquet")) else None


def labelled(project: Project, until: datetime) -> pd.DataFrame:
    """Return the rows of the log whose label came up to UNTIL, one a key, the last asked, as data.read would."""
    import polars as pl

    parts = []
    for chunk in prediction_log.open_log(project).frames(labelled=True):
        came = pl.col("labelled_at").dt.replace_time_zone(None)
        parts.append(chunk.filter((came <= until) & (pl.col("arm") != "shadow")))
    found = pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame()
    if found.is_empty():
        return pd.DataFrame(columns=[*project.data.SCHEMA])
    found = found.unique("key", keep="last", maintain_order=True)
    rows = feature_tables.Offline.of(project, project.data.SCHEMA).fill(
        prediction_log.as_raw(project, found), cells=True
    )
    rows, labels = rows[[name for name in project.data.SCHEMA if name in rows]], found["label"].to_pandas()
    rows[project.data.TARGET] = problem_of(project).targets(labels)
    lacking = rows[[name for name in rows if not project.data.SCHEMA[name].get("null")]].isna()
    if n_left_out := lacking.any(axis=1).sum():
        names = ", ".join(lacking.columns[lacking.any()])
        progress.say(f"{n_left_out:,} labelled rows of the prediction log are left out: they have no {names}")
    return rows[~lacking.any(axis=1)].reset_index(drop=True)
