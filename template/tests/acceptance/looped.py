"""One turn of the loop for all tests of level 4: traffic, labels, drift, a refused retraining and one that callers tried.

A plugin, as released.py is, on which it builds. The template's file.
"""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from released import GRACE, Command, Project, commit, copied, person, read, until

PORTION = 250  # rows a request
N_CALM, N_DRIFTED, N_TRIED = 1_000, 3_000, 200


class Loop(Project):
    """A project whose service logs; `send` asks about rows as a caller does, `label` tells what became of them."""

    keys: dict[str, dict[str, str]]
    number: str  # a column that drifts
    calm: pd.DataFrame
    drifted: pd.DataFrame
    data: ModuleType
    features: ModuleType

    def send(self, rows: pd.DataFrame, prefix: str = "") -> list[dict[str, Any]]:
        """Ask the service about ROWS; return the answers once they are in the log."""
        answers = []
        for start in range(0, len(rows), PORTION):
            part = as_sent(rows.iloc[start : start + PORTION], self.data)
            answer = self.http.post(f"{prefix}/predict", json=part, headers=self.keys["shop"])
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
        last = [answer["request_id"] for answer in answers]
        until(lambda: {one for (one,) in self.log("SELECT DISTINCT request_id FROM predictions")} >= {*last})
        return answers

    def send_each(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """The same with one row a request: each is somebody of its own, whom an experiment may split off."""
        answers = []
        for row in as_sent(rows, self.data):
            answer = self.http.post("/predict", json=row, headers=self.keys["shop"])
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
        until(
            lambda: self.log("SELECT count(*) FROM predictions WHERE request_id = ?", answers[-1]["request_id"])[0][0]
        )
        return answers

    def label(self, rows: pd.DataFrame, *words: str, exit_code: int = 0) -> Any:
        file = self.folder.parent / "labels.parquet"
        rows[[self.data.KEY, "label"]].to_parquet(file, index=False)
        return self.command("feedback", str(file), *words, exit_code=exit_code)

    def key(self, number: int) -> str | int:
        """Return a key that no row has, of the type that keys have."""
        return 9_876_543_210 + number if self.data.SCHEMA[self.data.KEY]["type"] == "number" else f"nobody-{number}"

    def log(self, query: str, *words: Any) -> list[tuple[Any, ...]]:
        """Ask the prediction log, which is an SQLite file here."""
        with contextlib.closing(sqlite3.connect(self.folder / "data/predictions.db", timeout=60)) as base:
            return base.execute(query, words).fetchall()

    def experiment(self) -> dict[str, Any]:
        """Return what the service says of the experiment that runs."""
        return self.http.get("/model", headers=self.keys["shop"]).json()["experiment"]

    def tried(self, number: int) -> pd.DataFrame:
        """Return the rows that callers ask about in the experiment of this number, the first is 0."""
        return self.drifted.iloc[number * N_TRIED : (number + 1) * N_TRIED]

    def step(self, rows: pd.DataFrame, exit_code: int | None = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Send ROWS, label them, and judge the experiment that runs; return what it says and the answers."""
        told = {"running": False}
        with contextlib.suppress(AssertionError):
            until(lambda: told.update(self.experiment()) or told["running"])
        assert told["running"], [told, self.command("experiment", "status")]
        answers = self.send_each(rows)
        self.label(rows, "--override", "--reason", "the world has turned", "--source", f"desk {len(self.said)}")
        return self.command("experiment", "step", "--json", exit_code=exit_code), answers


def as_sent(rows: pd.DataFrame, data: ModuleType) -> list[dict[str, Any]]:
    """Return ROWS as a caller sends them: without the target and what is known later only."""
    known = [name for name in data.SCHEMA if name in rows and name != data.TARGET and name not in data.LEAKS]
    sent = json.loads(rows[known].to_json(orient="records", date_format="iso"))
    for one in sent:
        for name in known:
            if data.SCHEMA[name]["type"] == "time" and one[name]:
                one[name] = one[name].rstrip("Z")
    return sent


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"


def traffic(loop: Loop, sample: Path, configure: Command) -> None:
    """Choose what is sent: rows like those learned from, and newer ones of which one column and the truth have turned."""
    data, features = loop.data, loop.features
    names = [name for name in features.COLUMNS if data.SCHEMA.get(name, {}).get("type") == "number"] or features.COLUMNS
    loop.number = names[0]
    calm = data.read(loop.folder / "data/raw").dropna(subset=[data.TARGET])
    loop.calm = at_least(N_CALM, calm, data.KEY).sample(N_CALM, random_state=0)
    loop.calm["label"] = labels_of(loop.calm, data)
    files = sorted(sample.iterdir())
    known = {file.name for file in (loop.folder / "data/sample").iterdir()}
    newer = loop.folder.parent / "newer"
    newer.mkdir()
    unknown = [file for file in files if file.name not in known]
    for file in (
        unknown[:1] or files[-(-len(files) * 2 // 3) :]
    ):  # of a small table, of which all is known, the last third
        shutil.copy(file, newer)
    rows = data.read(newer).dropna(subset=[data.TARGET])
    rows = at_least(N_DRIFTED + 4 * N_TRIED, rows, data.KEY, other=not unknown).head(N_DRIFTED + 4 * N_TRIED)
    rows["label"] = truth_from(rows[names[-1]], loop.calm["label"])
    rows[loop.number] = drifted(rows[loop.number], calm[loop.number], data.SCHEMA[loop.number], len(names) == 1)
    loop.drifted = rows


def at_least(n: int, rows: pd.DataFrame, key: str, other: bool = False) -> pd.DataFrame:
    """Return ROWS, again with other keys as often as N takes: a small table has too few. OTHER: no key stays as it is."""
    copies = range(int(other), max(1, -(-n // len(rows))) + int(other))
    numbers = pd.api.types.is_numeric_dtype(rows[key])
    step = rows[key].max() - rows[key].min() + 1 if numbers else 0
    made = [
        rows.assign(**{key: rows[key] + step * copy if numbers else rows[key].astype("str") + f"-again{copy}"})
        if copy
        else rows
        for copy in copies
    ]
    return pd.concat(made, ignore_index=True)


def labels_of(rows: pd.DataFrame, data: ModuleType) -> pd.Series:
    """Return the truth as it is told to `feedback`: one of several labels, or a number."""
    return rows[data.TARGET] if data.PROBLEM == "multiclass" else rows[data.TARGET].astype("float64")


def levels_of(labels: pd.Series) -> list[Any]:
    """Return the labels there are or, of numbers, a low and a high one."""
    few = labels.nunique() <= 2 or not pd.api.types.is_float_dtype(labels)
    return sorted(labels.unique()) if few else [labels.quantile(0.02), labels.quantile(0.98)]


def truth_from(column: pd.Series, labels: pd.Series) -> pd.Series:
    """Return labels that COLUMN decides, as it does in no row learned from."""
    levels = levels_of(labels)
    numbers = pd.api.types.is_numeric_dtype(column) and len(levels) == 2
    position = (column > column.median()).astype(int) if numbers else column.rank(pct=True) * len(levels) * 0.999
    return position.fillna(0).astype(int).map(dict(enumerate(levels)))


def drifted(column: pd.Series, before: pd.Series, rule: dict[str, Any], alone: bool) -> pd.Series | Any:
    """Return what a column has become; the only one there is (ALONE) still tells its rows apart."""
    if rule["type"] != "number":
        return before.mode()[0]
    top = float(rule.get("max", 3 * before.max() + 300))
    return before.max() + (top - before.max()) * column.rank(pct=True) if alone else top


def turned(truth: pd.Series) -> pd.Series:
    """Return what was the least as the most, and the other way round; of labels without an order, another one."""
    if not pd.api.types.is_float_dtype(truth):
        levels = levels_of(truth)
        return truth.map(dict(zip(levels, levels[1:] + levels[:1], strict=True)))
    low, high = truth.min(), truth.quantile(0.98)
    return (low + high - truth).clip(low, high)


def settle(configure: Command, data: ModuleType, primary: str) -> None:
    """Set what these tests rely on, in the current folder."""
    truth = data.read("data/raw")[data.TARGET]
    held_out = {"validation": 0.02, "test": 0.05} if len(truth) > 3_000 else {"validation": 0.1, "test": 0.1}
    decayed = 0.05 * (
        float(truth.std()) if data.PROBLEM == "regression" else 1
    )  # by chance alone a small table's is 0.02
    believed = {"min_flips": 20, "max_flip_share": 0.05, "window_h": 24, "against": 0.2}
    configure(
        "prediction_log", url="sqlite:///data/predictions.db", entity=data.KEY, never_logged=["*contact*"], flush_s=0.05
    )
    configure("success", metrics={primary: {"min": -1e9}})
    configure("prediction_log", keep_days=400, when_full="drop", labels=believed)
    configure("prediction_log", out_of_range={"requests": 5, "share": 0.5, "window_s": 600})
    facts = {"owner": "trainer", "runbook": "docs/runbook.md#decay", "action": "retrain"}
    ours = {
        "input_drift": facts | {"kind": "drift", "source": "inputs", "threshold": 0.2, "action": "warn"},
        "decay": facts | {"kind": "decay", "source": "labels", "threshold": decayed},
    }
    watched = {name: of | {"owner": "engineer"} for name, of in read("monitoring")["signals"].items()}
    configure("monitoring", window_days=30, label_delay_days=0, rows=200, confidence=0.99, resamples=10)
    configure("monitoring", cpu_hour_price=0.05, signals=watched | ours)
    configure(
        "retraining", environment="prod", owner="trainer", runbook="docs/runbook.md#retraining", new_data=None, age=None
    )
    configure(
        "retraining", signals={"decay": {"at_least": 1, "of": 1, "then": "retrain"}}, schedule=None, least_rows=100
    )
    configure("retraining", cooldown_h=0, budget={"retrainings": 100, "days": 1}, give_up_after=5, tries=3)
    configure("retraining", training=held_out, sign_off="none", approver="policy:retraining")
    configure("retraining", stable={"share": 0.05, "worse": {primary: 1e9}}, release="canary")
    stop = {"failures": 3, "failure_rate": 0.01, "answer_s": 30.0, "slower": 1e3, "slow_ms": 30_000, "window": 50}
    plans = {
        "shadow": {"shares": [1.0], "requests": None, "labels": 50},
        "canary": {"shares": [0.5], "requests": 10_000, "labels": 50},
        "ab": {"shares": [0.5], "requests": 10_000, "labels": 50},
        "blue-green": {"shares": [1.0], "requests": 40, "labels": 0},
    }
    rules = {"margin": 0.001, "effect": 0.001, "alpha": 0.05, "max_days": 60}
    configure("experiment", environment="prod", owner="trainer", runbook="docs/runbook.md#experiment", **rules)
    configure("experiment", stop=stop, modes=plans)


@pytest.fixture(scope="session")
def looped(
    released: Project,
    command: Command,
    configure: Command,
    git: Command,
    serve: Command,
    data: ModuleType,
    features: ModuleType,
    model: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Loop]:
    """A copy of `released` whose service logs. Rows as before: nothing happens. Then the world turns: labels say so, the
    version in use decays, one retraining is refused by a gate, the next is tried on callers and replaces it.

    Read it, ask its service: what writes takes `after`, a copy.
    """
    folder = copied(released.folder, tmp_path_factory.mktemp("looped") / "project")
    loop = Loop(folder, command)
    said = loop.said
    loop.data, loop.features, loop.row = data, features, released.row
    with contextlib.chdir(folder):
        for file in Path("data").glob("predictions.db*"):
            file.unlink()  # of the service of `released`
        settle(configure, data, model.PRIMARY)
        configure("environments/prod", endpoints=[])
        traffic(loop, Path(__file__).parents[2] / "data/sample", configure)
        person(git, GRACE)
        commit(git, "Set what the loop relies on")
        loop.keys = {}
        for name, scope in (("boss", "admin"), ("shop", "predict"), ("prober", "predict")):
            loop.keys[name] = {"authorization": f"Bearer {command('keys', 'add', name, '--scope', scope).strip()}"}
        with serve(folder, "--model", "env:prod", MLFLOW_TRACKING_URI="") as (http, _):
            loop.http = http
            loop.send(loop.calm)
            said["feedback"] = loop.label(loop.calm)
            said["calm"] = measured(loop)
            said["not triggered"] = command("retrain", "--if-triggered", "--json")
            turned_at = now()
            chains = read("endpoints")
            configure("endpoints", models={}, chains={})  # what a model feeds would be another world, too
            commit(git, "Feed nothing")
            new, loop.drifted = loop.drifted.head(N_DRIFTED), loop.drifted.iloc[N_DRIFTED:]
            loop.send(new)
            said["disbelieved"] = loop.label(loop.calm.assign(label=turned(loop.calm["label"])), exit_code=3)
            loop.label(new, "--override", "--reason", "the world has turned")
            said["turned"] = measured(loop, "--since", turned_at)
            said["triggered"] = command("retrain", "--if-triggered", "--json")
            assert said["triggered"]["outcome"] == "on trial", said["triggered"]
            said["canary"], said["tried"] = loop.step(loop.tried(0))
            until(lambda: http.get("/ready").json()["model_version"] == loop.in_use())
            quality = read("release")["quality"]
            impossible = {model.PRIMARY: {"measured": 1e9, "surely": 1e9}}
            configure("release", quality=quality | {"over_champion": impossible})
            configure("endpoints", **chains)
            commit(git, "Ask too much")
            said["refused"] = command("retrain", "--reason", "to try", exit_code=3)
            said["kept"] = loop.in_use()
            configure("release", quality=quality)
            commit(git, "Ask for what is right")
            yield loop


def measured(loop: Loop, *words: str) -> dict[str, Any]:
    """Watch the version in use; return the report, its exit code as `exit`, and what was said to people as `said`."""
    before = set(Path("reports/monitoring").glob("*.json"))
    said = loop.command("monitor", *words, exit_code=None)
    [file] = set(Path("reports/monitoring").glob("*.json")) - before
    return json.loads(file.read_text(encoding="utf-8")) | {"exit": loop.command.code, "said": said}


@pytest.fixture
def loop(looped: Loop, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """`looped` as the current folder: for what reads, asks, or is refused."""
    monkeypatch.chdir(looped.folder)
    return looped


@pytest.fixture
def after(looped: Loop, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of `looped` to write to, made the current folder; no service follows it."""
    project = Project(copied(looped.folder, tmp_path / "project"), command)
    monkeypatch.chdir(project.folder)
    return project
