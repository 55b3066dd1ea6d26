"""Try a new version on real callers: shadow, canary, ab or blue-green, judged on labels and stopped when it is worse.

python -m {package} experiment start 5 --mode canary --reason "retrained on June"
python -m {package} experiment status
python -m {package} experiment step                              # judge it and move on; the loop does it at each turn
python -m {package} experiment stop --reason "callers complain"  # everybody gets the champion again within a second

conf/experiment.yml says how. What starts must have passed all that `deploy` asks for, and winning ends in `deploy`.
Exit 3: it was stopped, or may not start. Killed at any moment, `step` goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from math import exp, log
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import pydantic

from ..core import files, settings
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project
from ..data.problem import problem_of
from ..release import deploy, environments, judgement, releasing
from ..training import tracking
from . import audit, prediction_log, references
from .prediction_log import FAILURES, naive

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "challenger"  # in an environment's registry: the version on trial
TAG = "experiment"  # of that version: the state of its experiment, which every service process reads along
GROUPS = 50  # of entities, that a standard error is taken from; fewer make it noisy, more take longer
FEWEST = 20  # groups, and rows an arm, below which nothing is said about quality
SPENT = 0.9  # of a step's requests, after which it is judged by them: a process that is killed takes its portion along
MOST = 1_000_000  # labelled rows that are read: more would not change the answer

OVER = ("aborted", "passed", "promoted")

Mode = Literal["shadow", "canary", "ab", "blue-green"]
Share = Annotated[float, pydantic.Field(gt=0, le=1)]


class Plan(settings.Settings, frozen=True):
    shares: list[Share] = pydantic.Field(min_length=1)
    requests: pydantic.PositiveInt | None
    labels: pydantic.NonNegativeInt


class Stop(settings.Settings, frozen=True):
    failures: pydantic.PositiveInt
    failure_rate: float = pydantic.Field(gt=0, lt=1)
    answer_s: pydantic.PositiveFloat
    slower: float = pydantic.Field(gt=1)
    slow_ms: pydantic.PositiveFloat
    window: pydantic.PositiveInt


class Rules(settings.Settings, frozen=True):
    metric: str
    margin: pydantic.NonNegativeFloat
    effect: pydantic.PositiveFloat
    alpha: float = pydantic.Field(gt=0, lt=0.5)
    max_days: pydantic.PositiveFloat
    stop: Stop


class Experiment(Rules, frozen=True):
    """conf/experiment.yml"""

    environment: str
    owner: str
    runbook: str
    modes: dict[Mode, Plan]

    @pydantic.field_validator("modes")
    @classmethod
    def ask_for_something(cls, modes: dict[Mode, Plan]) -> dict[Mode, Plan]:
        for mode, plan in modes.items():
            if not plan.labels and plan.requests is None:
                raise ValueError(f"{mode} asks for no requests and no labels, must ask for one or for both")
        return modes


class State(Rules, frozen=True):
    """All there is to know of one experiment: JSON in the tag of the version on trial."""

    id: str
    mode: Mode
    champion: str
    challenger: str
    by: str
    reason: str
    started: datetime
    released: int = 0  # number of the last release in the environment before it
    plan: Plan
    entity: str | None
    step: int = 0
    since: datetime  # when this step began
    result: Literal["promoting", "promoted", "passed", "aborted"] | None = None  # None: it goes on
    why: str = ""
    ended: datetime | None = None

    @property
    def share(self) -> float:
        return self.plan.shares[self.step]

    @property
    def exposure(self) -> str:
        """The key under which the requests are counted that the challenger may answer in this step."""
        return f"{self.id}.{self.step}"


@dataclass(frozen=True)
class Arm:
    """What the log holds of one version in one step; rows: labelled ones only, as (prediction, label, group)."""

    requests: int = 0
    failures: int = 0
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0))
    rows: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    paired: bool = False  # the rows are those of the other arm, one by one


@dataclass(frozen=True)
class Decision:
    result: str  # going | promoted | passed | aborted
    why: str
    step: int
    share: float


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["start", "status", "step", "stop"], help="what to do, see above")
    parser.add_argument("version", nargs="?", help="start: number of the version; `runs` lists them")
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="canary",
        help="who meets it, as conf/experiment.yml says (default: %(default)s)",
    )
    parser.add_argument("--env", help="environment (default: conf/experiment.yml)")
    parser.add_argument("--reason", help="start, stop: why, in a sentence; it is kept")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def check(project: Project, options: argparse.Namespace) -> None:
    if options.action in ("start", "stop") and not (options.reason or "").strip():
        raise UsageError(f"`experiment {options.action}` needs --reason: somebody will ask why")
    if bool(options.version) != (options.action == "start"):
        raise UsageError("`experiment start` needs a VERSION, the other actions take none")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.action == "status":
        told = status(project, options.env)
        lines = [sentence(one) for one in told]
        return print(json.dumps(told) if options.json else "\n".join(lines) or "there was no experiment yet")
    if options.action == "step":
        decision = step(project, options.env)
        print(json.dumps(asdict(decision)) if options.json else f"{decision.result}: {decision.why}")
        if decision.result == "aborted":
            whom = f"owner {read(project).owner}, {read(project).runbook}"
            raise Refused(f"the experiment is over, the champion answers everybody: {decision.why}; {whom}")
        return None
    if options.action == "start":
        state = start(project, options.version, options.mode, options.env, options.reason)
    else:
        state = stop(project, options.reason, options.env)
    print(state.model_dump_json() if options.json else sentence(state.model_dump(mode="json")))
    return None


def read(project: Project) -> Experiment:
    """Return conf/experiment.yml."""
    conf = settings.read(project, "experiment", Experiment)
    if conf.metric not in project.model.HIGHER_IS_BETTER:
        there = ", ".join(project.model.HIGHER_IS_BETTER)
        raise ProjectError(f"conf/experiment.yml: metric is {conf.metric}, must be one of model.py: {there}")
    return conf


def start(project: Project, version: str, mode: Mode, name: str | None = None, reason: str = "none given") -> State:
    """Put VERSION on trial in environment NAME and return the experiment; raises Refused when that may not be."""

    conf, log = read(project), prediction_log.open_log(project)
    name = name or conf.environment
    if mode not in conf.modes:
        raise ProjectError(f"conf/experiment.yml: modes has no {mode}, there are: {', '.join(conf.modes)}")
    by, plan = environments.require(project, name, "deploy"), conf.modes[mode]
    if mode != "shadow" and log.entity is None:
        raise ProjectError("conf/prediction_log.yml: entity names no column of SCHEMA: callers are split by its value")
    with alone(project, name):
        chosen, client = environments.open_store(project, name)
        if found := running(client, chosen.model):
            if found[1].result not in OVER:
                raise Refused(f"{sentence(found[1].model_dump(mode='json'))}: wait for its end, or `experiment stop`")
            end(project, client, *found, found[1].result, found[1].why)  # a service stopped it, and nobody looked since
        champion = environments.find_copy(client, chosen.model)
        if champion is None or champion.tags["origin_version"] == version:
            there = "nothing" if champion is None else f"version {version} itself"
            raise Refused(f"{there} is in use in {name}: there is nothing to compare version {version} with")
        there = admit(project, name, version, answers=mode != "shadow")
        state = State(
            **conf.model_dump(include=set(Rules.model_fields)),
            id=identify(chosen.model, name, mode, version, str(len(status(project, name)))),
            mode=mode,
            champion=champion.tags["origin_version"],
            challenger=version,
            by=by,
            reason=reason,
            started=now(),
            released=max(map(tracking.number, tracking.search(project, client, releases=True)), default=0),
            plan=plan,
            entity=log.entity,
            since=now(),
        )
        _, client = environments.open_store(project, name)
        allow(log, state)
        write(client, there, state)
        note(project, "experiment started", state, reason)  # what it raises stops it before anybody is answered
        client.set_registered_model_alias(chosen.model, ALIAS, there.version)  # last: from here on it runs
    return state


def identify(*words: str) -> str:
    """Return the name of an experiment, which its callers are drawn by: another in each, and the same in a replay."""
    return hashlib.blake2b(":".join(words).encode(), digest_size=4).hexdigest()


def admit(project: Project, name: str, version: str, answers: bool) -> Any:
    """Return the copy of VERSION in environment NAME, held to all that `deploy` holds it to.

    One that answers nobody needs no approval.
    """

    with releasing.working(project, name):
        chosen, origin = environments.open_store(project, "dev")
        made = tracking.find_version(origin, chosen.model, version)
        trained = origin.get_run(made.run_id)
        digest = releasing.digest_of(releasing.gather(origin, made))
        if missed := deploy.shortcomings(project, name, made, trained, digest, approval=answers):
            raise Refused("\n  ".join([f"version {version} may not be tried in {name}:", *missed]))
        _, client = environments.open_store(project, name)
        there = releasing.copy(project, name, client, origin, made)
        if wrong := releasing.try_service(project, name, there, client, deploy.held_out(project, origin, trained)):
            raise Refused("\n  ".join([f"version {version} fails its release tests in {name}:", *wrong]))
    return there


def step(project: Project, name: str | None = None, sign_off: Callable[[str, str], None] | None = None) -> Decision:
    """Judge the experiment in environment NAME and move it on; return what came of it.

    A version that won is deployed as any other is. SIGN_OFF is called before that with NAME and the version, for who
    approves without a person; what it raises, or what `deploy` refuses, leaves the experiment where it is.
    """

    name = name or read(project).environment
    with alone(project, name):
        chosen, client = environments.open_store(project, name)
        found = running(client, chosen.model)
        if not found:
            raise ProjectError(f"no experiment runs in {name}: `experiment start VERSION` begins one")
        there, state = found
        champion = environments.find_copy(client, chosen.model)
        in_use = champion.tags["origin_version"] if champion else "none"
        if state.result in OVER:  # ended by a service, or by a step that was killed
            return decision(end(project, client, there, state, state.result, state.why))
        if in_use not in (state.champion, state.challenger if state.result else None):
            why = f"version {in_use} is in use in {name} since, not what it ran against"
            return decision(end(project, client, there, state, "aborted", why))
        if state.result and taken_back(
            project, client, there.name, state
        ):  # after a step that was killed before it noted its end
            return decision(end(project, client, there, state, "aborted", "it won and was rolled back"))
        if not state.result:
            log = prediction_log.open_log(project)
            result, why = decide(project, state, *observe(project, log, state))
            if result in OVER:
                return decision(end(project, client, there, state, result, why))
            if not result:
                return decision(state.model_copy(update={"why": why}))
            further: dict[str, Any] = {"result": result}
            if result == "next":
                further = {"step": state.step + 1, "since": now()}
                allow(log, state.model_copy(update=further))
            state = amend(client, there, state, why=why, **further)
            note(project, f"experiment {result}", state, why)
        if state.result == "promoting":
            state = release(project, name, client, there, state, sign_off)
    return decision(state)


def decision(state: State) -> Decision:
    result = state.result if state.result in OVER else None
    return Decision(result or "going", state.why, state.step, state.share)


def release(
    project: Project,
    name: str,
    client: MlflowClient,
    there: Any,
    state: State,
    sign_off: Callable[[str, str], None] | None,
) -> State:
    """Deploy the version that won, as any other is; return the experiment, which goes on when that is refused."""

    try:
        if sign_off:
            sign_off(name, state.challenger)
        deploy.deploy(project, name, state.challenger, f"won {state.mode} {state.id}: {state.why}")
    except Refused as refused:
        why = f"it won and is not deployed yet: {refused}"
        late = now() > state.started + timedelta(days=state.max_days)
        return end(project, client, there, state, "aborted", why) if late else state.model_copy(update={"why": why})
    except ProjectError as error:
        if not taken_back(project, environments.open_store(project, name)[1], there.name, state):
            raise
        return end(project, client, there, state, "aborted", f"it won and was taken back: {error}")
    environments.open_store(project, name)
    state = end(project, client, there, state, "promoted", state.why)
    if state.result == "aborted":  # by a service, while it was being deployed
        with releasing.working(project, name):
            releasing.take_back(project, name, client, there.name, state.by, f"automatic: {state.why}")
    return state


def taken_back(project: Project, client: MlflowClient, name: str, state: State) -> bool:
    """Return whether the newest release in an environment is that the challenger was rolled back, since it was on trial."""

    last = next(iter(environments.history(project, client, name)), {"kind": "none"})
    there = last["kind"] == "rollback" and last["before"] == state.challenger
    return there and int(last.get(tracking.NUMBER, 0)) > state.released


def stop(project: Project, reason: str, name: str | None = None) -> State:
    """End the experiment in environment NAME; every process answers with the champion at its next look."""

    name = name or read(project).environment
    by = environments.require(project, name, "rollback")
    with environments.reached():
        chosen, client = environments.open_store(project, name)
        found = running(client, chosen.model)
        if not found:
            raise ProjectError(f"no experiment runs in {name}")
        return end(project, client, *found, "aborted", f"stopped by {by}: {reason}")


def status(project: Project, name: str | None = None) -> list[dict[str, Any]]:
    """Return the experiments of environment NAME, newest first, each as its state.

    One that a service stopped has not ended before `step` has noted it and taken the alias away.
    """

    chosen, client = environments.open_store(project, name or read(project).environment)
    texts = {
        value
        for there in client.search_model_versions(f"name = '{chosen.model}'")
        for key, value in there.tags.items()
        if key.startswith(TAG)
    }
    found = running(client, chosen.model)
    current = found[1].id if found else None
    told = [one | {"ended": None} if one["id"] == current else one for one in map(json.loads, texts)]
    told = [one for one in told if one["ended"] or one["id"] == current]  # a start that was killed never was one
    return sorted(told, key=lambda one: one["started"], reverse=True)


def sentence(told: dict[str, Any]) -> str:
    state = State.model_validate(told)
    done = state.result or f"step {state.step + 1} of {len(state.plan.shares)}, share {state.share:g}"
    return (
        f"{state.started:%Y-%m-%d %H:%M}  {state.mode} {state.id}: version {state.challenger} against {state.champion}, "
        f"{done}{': ' * bool(state.why)}{state.why} (by {state.by}: {state.reason})"
    )


def running(client: MlflowClient, name: str) -> tuple[Any, State] | None:
    """Return the version on trial and its experiment, None when there is none; one read, as services ask often."""
    from mlflow.exceptions import MlflowException

    try:
        there = client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):  # no such alias, no such model
            return None
        raise
    return (there, State.model_validate_json(there.tags[TAG])) if TAG in there.tags else None


def write(client: MlflowClient, there: Any, state: State) -> None:
    client.set_model_version_tag(there.name, str(there.version), TAG, state.model_dump_json())


def amend(client: MlflowClient, there: Any, state: State, **changes: Any) -> State:
    """Write CHANGES into the experiment unless it is over, whoever ended it meanwhile; return it as it then is."""
    last = State.model_validate_json(client.get_model_version(there.name, str(there.version)).tags[TAG])
    if last.id != state.id or last.result in OVER:
        return last
    state = last.model_copy(update=changes)
    write(client, there, state)
    return state


def conclude(client: MlflowClient, there: Any, state: State, result: str, why: str) -> State:
    """Write down how the experiment ended, from when on every service answers with the champion; return it."""
    state = amend(client, there, state, result=result, why=why, ended=now())
    client.set_model_version_tag(there.name, str(there.version), f"{TAG}.{state.id}", state.model_dump_json())
    return state


def end(project: Project, client: MlflowClient, there: Any, state: State, result: str, why: str) -> State:
    """End the experiment, as `conclude` does, take the alias away and write it into the audit trail; return it."""
    state = conclude(client, there, state, result, why)
    note(project, f"experiment {state.result}", state, state.why)
    client.delete_registered_model_alias(there.name, ALIAS)  # last: who was killed before does all of this again
    return state


def note(project: Project, action: str, state: State, why: str) -> None:
    """Write it into the audit trail."""
    with contextlib.suppress(ImportError):
        audit.record(project, action, f"version {state.challenger}", why, experiment=state.id, against=state.champion)


@contextlib.contextmanager
def alone(project: Project, name: str) -> Iterator[None]:
    """Hold the experiments of environment NAME; raises ProjectError when another process does or a store fails."""

    environments.open_store(project, name)  # makes its folder
    with environments.reached(), files.locked(project.path("environments") / name / ".experiment.lock"):
        yield


def now() -> datetime:
    return datetime.now(UTC)


# Who answers whom


def assigned(salt: str, entity: str, share: float) -> bool:
    """Return whether ENTITY belongs to the challenger: the same in each process, and still so when the share grows."""
    digest = hashlib.blake2b(f"{salt}:{entity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def allow(log: Any, state: State) -> None:
    """Open the account of STATE's step in the prediction log's database: what is not in it no process may expose."""
    from sqlalchemy import text

    if state.plan.requests:
        facts = {"step": state.exposure, "most": state.plan.requests}
        with log.connection(write=True) as base:
            base.execute(
                text("CREATE TABLE IF NOT EXISTS exposures (step VARCHAR(64) PRIMARY KEY, taken INTEGER, most INTEGER)")
            )
            base.execute(text("DELETE FROM exposures WHERE step = :step"), facts)
            base.execute(text("INSERT INTO exposures VALUES (:step, 0, :most)"), facts)


def take(log: Any, state: State, wanted: int) -> int:
    """Return how many of WANTED requests the challenger may answer: never more in all processes than the step's most.

    WANTED below 0 gives back what was taken and not used.
    """
    from sqlalchemy import text

    facts = {"step": state.exposure, "n": wanted}
    with log.connection(write=True) as base:  # alone
        left = base.execute(text("SELECT most - taken FROM exposures WHERE step = :step"), facts).scalar()
        facts["n"] = granted = min(wanted, left or 0)
        base.execute(text("UPDATE exposures SET taken = taken + :n WHERE step = :step"), facts)
    return granted


# What it is judged by


def observe(project: Project, log: Any, state: State) -> tuple[Arm, Arm]:
    """Return what the prediction log holds of the challenger and of the champion since this step began.

    Compared are the same days and, of the champion, only entities that are its own: those that came to it because the
    challenger might answer no more, or had failed, are not like the others. A shadow is compared row by row; a canary
    too, with what the champion would have answered in its place: callers differ by more than versions do.
    """
    import polars as pl

    shadow = state.mode == "shadow"
    versions = {"shadow" if shadow else "challenger": state.challenger, "champion": state.champion}
    kept: dict[str, list[Any]] = {arm: [] for arm in versions}
    seconds: dict[str, list[np.ndarray]] = {arm: [] for arm in versions}
    columns = problem_of(project).columns
    group, n_kept, asked = pl.col("entity").hash(seed=0) % GROUPS, 0, list[pl.DataFrame]()
    for chunk in log.frames(since=state.since):
        entities = chunk["entity"].unique().drop_nulls()
        trial = pl.col("entity").is_in([one for one in entities if assigned(state.id, one, state.share)] or [""])
        somebody = pl.col("entity") != pl.col("request_id")  # what the log writes for nobody
        for arm, version in versions.items():
            belongs = shadow or ((trial if arm == "challenger" else ~trial) & somebody)
            rows = chunk.filter((pl.col("arm") == arm) & (pl.col("version") == version) & belongs)
            seconds[arm].append(rows.filter(pl.col("row") == 0)["seconds"].to_numpy())
            rows = rows.filter(pl.all_horizontal(pl.col("label", *columns).is_not_null()))
            asked += [rows] if arm == "challenger" else []
            kept[arm].append(rows.select("request_id", "row", "at", *columns, "label", group=group))
            n_kept += len(rows)
        if n_kept > MOST:
            break
    if not any(map(len, kept.values())):
        return Arm(failures=failures(log, state, versions)[0]), Arm()
    ours, theirs = map(pl.concat, kept.values())
    if shadow:
        theirs = theirs.join(ours, on=["request_id", "row"], how="semi")
        ours = ours.join(theirs, on=["request_id", "row"], how="semi")
    elif len(ours):
        theirs = theirs.filter(pl.col("at") <= ours["at"].max())
    instead = in_its_place(project, state, pl.concat(asked)) if state.mode == "canary" and len(ours) >= FEWEST else None
    if instead is not None:
        values = instead.reshape(len(instead), -1).T
        theirs = ours.with_columns(*(pl.Series(*one) for one in zip(columns, values, strict=True)))
    cells, paired = pl.col(*columns, "label", "group").cast(pl.Float64), shadow or instead is not None
    arms = [
        Arm(sum(map(len, took)), failed, np.concatenate(took)[-100_000:], rows.select(cells).to_numpy(), paired)
        for took, failed, rows in zip(seconds.values(), failures(log, state, versions), (ours, theirs), strict=True)
    ]
    return arms[0], arms[1]


def in_its_place(project: Project, state: State, logged: Any) -> np.ndarray | None:
    """Return what the champion would have answered to the challenger's LOGGED rows, shape (n_rows,) or (n_rows, n_classes).

    None where that cannot be told: the log does not hold all that was asked, or the challenger, asked again, does not
    give the answers that stand there. The versions are opened as their gates opened them.
    """

    try:
        rows = prediction_log.as_raw(project, logged)
        needed = [
            name
            for name, rule in project.data.SCHEMA.items()
            if name in project.features.COLUMNS and not rule.get("null")
        ]
        if rows[needed].isna().any(axis=None):
            return None
        chosen, client = tracking.open_store(project)
        again, instead = (
            judgement.predict(tracking.open_version(client, chosen.model, one), rows)
            for one in (state.challenger, state.champion)
        )
        same = np.allclose(again, references.predicted(project, logged), rtol=1e-3, atol=1e-3)
        return instead if same else None
    except Exception:  # noqa: BLE001 - then the callers of both are compared, which says less and is as true
        return None


def failures(log: Any, state: State, versions: dict[str, str]) -> list[int]:
    """Return how many requests each of VERSIONS, {arm: version}, failed since this step began."""
    from sqlalchemy import func, select

    of = FAILURES.c
    asked = select(of.arm, of.version, func.count()).where(of.at >= naive(state.since)).group_by(of.arm, of.version)
    with log.connection() as base:
        found = {(arm, version): count for arm, version, count in base.execute(asked)}
    return [found.get(one, 0) for one in versions.items()]


def broken(rules: Stop, arm: Arm, champion: Arm) -> str:
    """Return why a challenger must not go on answering, "" when nothing speaks against it."""
    asked = arm.requests + arm.failures
    if arm.failures >= rules.failures and arm.failures >= rules.failure_rate * asked:
        return f"{arm.failures} of {asked} requests failed or took more than {rules.answer_s:g} s"
    if min(len(arm.seconds), len(champion.seconds)) >= rules.window:
        ours, theirs = (1e3 * np.quantile(one.seconds, 0.95) for one in (arm, champion))
        if ours > max(rules.slow_ms, rules.slower * theirs):
            return f"it is slow: 95 % of its answers take up to {ours:.0f} ms, the champion's {theirs:.0f} ms"
    return ""


def decide(project: Project, state: State, ours: Arm, theirs: Arm) -> tuple[str, str]:
    """Return what becomes of the experiment ("": it goes on as it is) and why."""
    if why := broken(state.stop, ours, theirs):
        return "aborted", why
    plan, n_rows = state.plan, len(ours.rows)
    said, gain, sure = "", 0.0, False
    decides = len(plan.shares) / state.alpha  # each step is a test on rows of its own, and any of them may be wrong
    if compared := compare(project, state.metric, ours.rows, theirs.rows):
        gain, error = compared
        evidence = likelihood_ratio(gain, error, state.effect)
        sure = evidence >= decides
        said = (
            f"{state.metric} {abs(gain):.4f} {'better' if gain > 0 else 'worse'}{' row by row' * ours.paired} "
            f"(standard error {error:.4f}; a difference is "
            f"{'' if sure else 'not '}proven: evidence {min(evidence, 1e6):.3g}, {decides:g} is proof), "
        )
    said += f"{n_rows:,} labelled rows{f' ({plan.labels:,} needed)' * bool(plan.labels)}, {ours.requests:,} requests"
    if sure and gain < 0:
        return "aborted", f"it is worse: {said}"
    if state.mode == "ab" and sure:
        return "promoting", f"it is better: {said}"
    if (
        (n_rows >= plan.labels and compared)
        if plan.labels
        else ours.requests + ours.failures >= SPENT * (plan.requests or 1)
    ):
        if state.mode == "ab":
            return "aborted", f"it is not better: {said}"
        if gain < -state.margin:
            return "aborted", f"it looks worse than the margin of {state.margin:g}: {said}"
        if state.step + 1 < len(plan.shares):
            return "next", f"step {state.step + 1} held: {said}"
        return "passed" if state.mode == "shadow" else "promoting", f"it held: {said}"
    if now() > state.started + timedelta(days=state.max_days):
        return "aborted", f"no decision within {state.max_days:g} days: {said}"
    return "", said


def compare(project: Project, metric: str, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float] | None:
    """Return by how much OURS are better than THEIRS in METRIC, and the standard error; None when they are too few.

    Rows are (prediction or the probability of each class, label, group). The rows of an entity are alike, so the error is that of leaving out one group
    of entities after the other (delete-a-group jackknife), which holds for any metric.
    """
    groups = np.union1d(ours[:, -1], theirs[:, -1])
    if len(groups) < FEWEST or min(len(ours), len(theirs)) < FEWEST:
        return None
    sign = 1 if project.model.HIGHER_IS_BETTER[metric] else -1

    def gain(left_out: float) -> float:
        mine, other = (measure(project, metric, rows[rows[:, -1] != left_out]) for rows in (ours, theirs))
        return sign * (mine - other)

    try:
        parts = np.array([gain(group) for group in groups])
        error = float(np.sqrt((len(groups) - 1) / len(groups) * ((parts - parts.mean()) ** 2).sum()))
        if error == 0 == gain(np.inf):
            return 0.0, 1e-9  # two versions that say the same
        return (gain(np.inf), error) if np.isfinite(error) and error > 0 else None
    except ValueError:  # a metric that needs both outcomes, and only one was seen
        return None


def measure(project: Project, metric: str, rows: np.ndarray) -> float:
    predicted = rows[:, :-2] if rows.shape[1] > 3 else rows[:, 0]
    return project.model.metrics(problem_of(project).truths(rows[:, -2]), predicted)[metric]


def likelihood_ratio(gain: float, error: float, scale: float) -> float:
    """Return the evidence that there is a difference: under none it reaches 1/a, ever, with probability a at most.

    The mixture sequential probability ratio test for a normal estimate with normal mixture of SCALE: Johari, Koomen,
    Pekelis and Walsh, Always Valid Inference: Continuous Monitoring of A/B Tests, Operations Research 70 (2022).
    """
    variance, mixed = error**2, error**2 + scale**2
    return exp(min(700.0, 0.5 * log(variance / mixed) + scale**2 * gain**2 / (2 * variance * mixed)))
