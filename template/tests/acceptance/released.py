"""One released project for all tests of levels 3 and 4: two versions in production, one refused, a service that answers.

A plugin: a test file that names it in `pytest_plugins` has its fixtures. The template's file.
"""

import contextlib
import importlib
import io
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import mlflow
import pandas as pd
import pytest
import yaml

Command = Callable[..., Any]
SECONDS = 120  # at most, for what takes a fraction of one: the machine may be busy
ADA, GRACE = "ada@example.org", "grace@example.org"  # who trains, and who signs off
FIRST = ("--set", "seed=1")
# A share of the rows below 1 would make it an experiment, which is not registered; a seed alone may end in the same model.
WEAK = ("--set", "validation=0.2")  # learned from fewer rows than the first, yet of each class
OTHER = ("--set", "test=0.2")  # learned from more rows than the first

CONSUMER = """
import os, httpx

def test_the_consumer() -> None:
    keys = {"Authorization": f"Bearer {os.environ['SERVICE_KEY']}"}
    told = httpx.get(os.environ["SERVICE_URL"] + "/model", headers=keys).json()
    with open("consumed", "a") as file:
        file.write(told["version"] + chr(10))
    assert not os.path.exists("breaks"), "the consumer breaks"
"""
ADDS = """
import mlflow

class Adds(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        risk = model_input["risk"].map(lambda risk: len(risk) if isinstance(risk, str) else risk)  # of a label its length
        return risk * 2 + model_input["weight"]

mlflow.models.set_model(Adds())
"""


class Project:
    """A folder of a project, its versions, environments and service; `said` is what the commands said on the way."""

    def __init__(self, folder: Path, command: Command) -> None:
        self.folder, self.command, self.said = folder, command, dict[str, Any]()
        self.http: httpx.Client
        self.row: dict[str, Any]

    def store(self, environment: str = "dev") -> mlflow.MlflowClient:
        place = "mlflow.db" if environment == "dev" else f"environments/{environment}/mlflow.db"
        uri = f"sqlite:///{self.folder / place}"
        return mlflow.MlflowClient(uri, uri)

    @property
    def model(self) -> str:
        """Name of the registered model."""
        [name] = {one.name for one in self.store().search_registered_models() if one.name != "other"}
        return name

    def version(self, number: str) -> Any:
        return self.store().get_model_version(self.model, number)

    def in_use(self, environment: str = "prod") -> str | None:
        """Return which version of dev's registry is in use in ENVIRONMENT."""
        client = self.store(environment)
        try:
            return client.get_model_version_by_alias(self.model, "champion").tags["origin_version"]
        except mlflow.exceptions.MlflowException:
            return None

    def report(self, number: str) -> list[dict[str, Any]]:
        """Return what the gates found about a version."""
        file = self.folder / f"models/gates/{number}/gates.json"
        return json.loads(file.read_text(encoding="utf-8"))["findings"]

    def copy_to(self, folder: Path) -> Path:
        return copied(self.folder, folder)

    def wait(self, holds: Callable[[], Any]) -> Any:
        return until(holds)

    def refused(self, number: str) -> set[str]:
        return {one["gate"] for one in self.report(number) if not one["passed"]}


@pytest.fixture(autouse=True, scope="session")
def nobody_else() -> Iterator[None]:
    """Whoever runs the tests: commands act as those whom git names in the project's folder, with no key of yours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLOPS_ACTOR", "MODEL_SIGNING_KEY", "SERVICE_KEYS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def command(package: str) -> Command:
    """Run a command in the current folder, as `run` does; with `exit_code` None any will do: `command.code` says which."""
    main = importlib.import_module(f"{package}.__main__").main

    def command(*words: str, exit_code: int | None = 0) -> Any:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command.code = code = main(list(words))  # type: ignore[attr-defined]
        assert exit_code in (code, None), out.getvalue() + err.getvalue()
        return json.loads(out.getvalue()) if "--json" in words and out.getvalue() else out.getvalue() + err.getvalue()

    return command


@pytest.fixture(scope="session")
def help_of(package: str) -> Callable[[str], str]:
    """Return what `COMMAND --help` prints, nothing when there is no such command."""
    main = importlib.import_module(f"{package}.__main__").main

    def help_of(word: str) -> str:
        out = io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            main([word, "--help"])
        return out.getvalue()

    return help_of


def copied(source: Path, folder: Path) -> Path:
    """Copy a project, its stores told where the copy's artifacts lie: MLflow keeps absolute places."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("serve.log", "__pycache__"))
    for file in folder.rglob("mlflow.db"):
        with contextlib.closing(sqlite3.connect(file)) as base, base:
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for _, column, kind, *_ in base.execute(f"PRAGMA table_info({table})").fetchall():
                    if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                        change = f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?'
                        base.execute(change, (str(source), str(folder), f"%{source}%"))
    return folder


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(Path(f"conf/{name}.yml").read_text(encoding="utf-8"))


def person(git: Command, who: str) -> None:
    git("config", "user.email", who)


def commit(git: Command, message: str) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", message)


def until(holds: Callable[[], Any]) -> Any:
    """Wait until HOLDS does and return what it said."""
    end = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def settle(configure: Command, primary: str, data: ModuleType) -> None:
    """Set what these tests rely on, in the current folder: limits that a model of a few files keeps; all gates judge.

    How many rows they ask for goes by how many there are.
    """
    release, rows = read("release"), data.read("data/raw")
    largest = max((rows[name].value_counts().max() for name in data.SLICES), default=len(rows))
    lenient = {
        "gates": ["quality", "slices", "behaviour", "fairness", "contract", "parity", "sanity", "footprint"],
        "quality": release["quality"]
        | {"rows": min(50, len(rows) // 10), "resamples": 100, "over_champion": {primary: {"measured": -100, "surely": -200}}},
        "slices": {"rows": int(min(200, largest // 10)), "metrics": {primary: {"min": -1e9}}},
        "behaviour": release["behaviour"] | {"rows": 200, "invariance": 0.5, "direction": 0.1, "minimum": 0.01},
        "fairness": release["fairness"] | {"rows": min(50, len(rows) // 50), "differences": dict.fromkeys(release["fairness"]["differences"], 1e9)},
        "parity": release["parity"] | {"rows": 20},
        "footprint": {"file_mb": 1e6, "memory_mb": 1e6, "p99_ms": 1e6},
    }  # fmt: skip
    configure("release", **lenient)
    engineer = ["approve", "deploy", "rollback", "override", "replicate"]
    open_to_all = {"artifacts": None, "data": "data/raw", "masked": [], "endpoints": [], "answer_s": 60, "solo": False}
    for name in ("dev", "test", "prod"):
        place = {
            "tracking_uri": f"sqlite:///environments/{name}/mlflow.db",
            "artifacts": f"environments/{name}/artifacts",
        }
        may = {"deploy": ["trainer", "engineer"], "rollback": ["trainer", "engineer"], "override": ["engineer"]}
        after = {"approval": False, "after": None, "policy": {"dirty": ["false"], "commit": [], "data": []}}
        if name == "dev":
            place, may, after = {"tracking_uri": None}, {"override": ["engineer"]}, {"policy": {}}
        if name == "prod":
            may = {step: ["trainer", "engineer"] if step == "approve" else ["engineer"] for step in engineer}
            after = {"approval": True, "after": "test"}
            after["policy"] = {
                "dirty": ["false"],
                "commit": [],
                "data": [],
                "owner": [],
                "purpose": ["training", "retraining"],
            }
        configure(f"environments/{name}", **open_to_all | place | {"may": may} | after)
    people = {"trainer": [ADA, GRACE, "policy:retraining"], "engineer": [GRACE, "policy:retraining"]}
    may_do = {"trainer": ["train", "tune"], "engineer": ["promote"]}
    configure("roles", roles={role: {"people": who, "may": may_do[role]} for role, who in people.items()})
    configure("endpoints", models={}, chains={})
    configure("features", offline="data/features", online="sqlite:///data/features.db")
    configure("pipeline", schedule="17 4 * * 1", isolated={})
    catalogue()
    configure("limits", require_key=False, rate_per_s=1e6, burst=1_000_000, at_once=64, deadline_s=60)


def catalogue() -> None:
    """Enter what the commands make in the data store of these tests, where your catalogue does not name it already."""
    file = Path("data/catalog.yml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    there = {entry["path"] for entry in content["datasets"].values()}
    facts = {"owner": "the tests", "class": "internal", "retention_days": None, "masked": [], "consumers": []}
    made = ("sample", "raw", "prepared", "retraining", "predictions.db", "snapshot", "features", "featured", "scored")
    for name in made:
        if f"data/{name}" not in there:
            content["datasets"][f"tests-{name}"] = {"what": name, "path": f"data/{name}", **facts}
    file.write_text(yaml.safe_dump(content | {"others": []}, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="session")
def released(
    trained: Path,
    command: Command,
    configure: Command,
    git: Command,
    serve: Command,
    data: ModuleType,
    model: ModuleType,
    package: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    """Version 1 judged, signed off and released to test and prod; 2, a weak one, refused; 3 took its place while callers asked.

    Read it, ask its service, have it refuse something: what writes takes `in_prod`, a copy.
    """
    folder = copied(trained, tmp_path_factory.mktemp("released") / "project")
    project = Project(folder, command)
    said = project.said
    with contextlib.chdir(folder):
        settle(configure, model.PRIMARY, data)
        shutil.rmtree("tests/release")
        Path("tests/release").mkdir()
        Path("tests/release/test_consumer.py").write_text(CONSUMER, encoding="utf-8")
        Path(".git/info/exclude").write_text("environments/\naudit/\nreports/\nserve.log\nconsumed\nbreaks\n")
        shutil.rmtree("contracts", ignore_errors=True)
        said["no contract"] = command("export-contract", "--check", exit_code=3)
        command("export-contract")
        commit(git, "Set what the tests rely on")
        shutil.rmtree("mlruns", ignore_errors=True)
        Path(
            "mlflow.db"
        ).unlink()  # a run is in one place only: MLflow remembers, in a process, where each keeps its files
        command("runs")
        for name in ("test", "prod"):
            Path("environments", name).mkdir(parents=True)
            shutil.copy("mlflow.db", f"environments/{name}")  # to make the tables takes seconds
        command("train", *FIRST)
        said["on-register"] = command("on-register", "--json")
        said["on-register again"] = command("on-register", "--json")
        said["no role"] = command("deploy", "1", "--env", "prod", exit_code=3)
        said["own approval"] = command("approve", "1", "--reason", "mine", exit_code=3)
        person(git, GRACE)
        said["not ready"] = command("deploy", "1", "--env", "prod", exit_code=3)
        command("deploy", "1", "--env", "test", "--reason", "to try it")
        said["not approved"] = command("deploy", "1", "--env", "prod", exit_code=3)
        command("approve", "1", "--reason", "reviewed 1")
        command("deploy", "1", "--env", "prod")
        person(git, ADA)
        command("train", *WEAK)
        command("train", *OTHER)
        strict(configure, model.PRIMARY)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{package}.behaviour.minimum_that_no_model_has", never, raising=False)
            said["weak"] = command("gate", "2", exit_code=3)
        git("checkout", "--quiet", "conf", "contracts")
        said["on-register later"] = command("on-register", "--json")
        person(git, GRACE)
        said["refused by its gates"] = command("deploy", "2", "--env", "test", exit_code=3)
        said["refused for approval"] = command("approve", "2", "--reason", "please", exit_code=3)
        command("approve", "3", "--reason", "reviewed 3")
        add_another_model(project, risks(data)[0])
        several(configure, project.model, model.OUTPUT)
        with serve(folder, "--model", "env:prod", MLFLOW_TRACKING_URI="") as (http, _):
            project.http = http
            project.row = http.get("/model").json()["example"]["row"]
            configure("environments/prod", endpoints=[str(http.base_url)])
            commit(git, "Serve several models")
            Path("breaks").touch()
            said["consumer"] = command("deploy", "3", "--env", "test", exit_code=3)
            Path("breaks").unlink()
            command("deploy", "3", "--env", "test")
            with asking(project) as answers:
                command("deploy", "3", "--env", "prod")
                until(lambda: answers and answers[-1][1] == "3")
            said["answers"] = answers
            yield project


def strict(configure: Command, primary: str) -> None:
    """Ask for more than any model keeps, and send what this one does not take."""
    release = read("release")
    configure("success", metrics={primary: {"margin": 1e9}})
    configure(
        "release",
        quality=release["quality"] | {"over_champion": {primary: {"measured": 1e9, "surely": 1e9}}},
        slices=release["slices"] | {"metrics": {primary: {"min": 1e9}}},
        fairness=release["fairness"] | {"differences": dict.fromkeys(release["fairness"]["differences"], 0)},
        footprint=dict.fromkeys(release["footprint"], 0.001),
    )
    [file] = Path("contracts").glob("*.json")
    consumer = json.loads(file.read_text(encoding="utf-8"))
    consumer["input"]["properties"]["colour"] = {"type": "string"}
    file.write_text(json.dumps(consumer), encoding="utf-8")


def never(predict: Callable[[pd.DataFrame], Any], rows: pd.DataFrame) -> Any:
    """A test of behaviour that holds for no row."""
    return (rows.index != rows.index).astype(bool)


def risks(data: ModuleType) -> list[Any]:
    """Return two predictions: labels where they are of several classes, else numbers."""
    return data.SCHEMA[data.TARGET]["values"][:2] if data.PROBLEM == "multiclass" else [0.25, 1.0]


def weigh(risk: Any) -> float:
    """Return what the other model makes of a prediction."""
    return 2 * (len(risk) if isinstance(risk, str) else risk)


def add_another_model(project: Project, risk: Any) -> None:
    """Register a model of another kind, which takes a RISK and a weight."""
    Path("adds.py").write_text(ADDS, encoding="utf-8")
    client = project.store()
    example = pd.DataFrame({"risk": [risk], "weight": [100.0]})
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        with mlflow.start_run(experiment_id=client.create_experiment("other", str(project.folder / "other"))):
            mlflow.pyfunc.log_model(
                name="model",
                python_model="adds.py",
                registered_model_name="other",
                signature=mlflow.models.infer_signature(example, [1.0]),
                input_example=example,
                pip_requirements=["mlflow"],
            )
    finally:
        mlflow.set_tracking_uri(None)  # takes the variable away too, by which the next command would open this store
        Path("adds.py").unlink()


def several(configure: Command, name: str, output: str) -> None:
    models = {"/first": f"models:/{name}/1", "/test": "env:test", "/other": "pyfunc:/other/1"}
    configure("endpoints", models=models, chains={"/both": {"first": "/", "second": "/other", "column": "risk"}})


@contextlib.contextmanager
def asking(project: Project) -> Iterator[list[tuple[int, str]]]:
    """Ask the service all the time, as two callers do; the list holds status and version of each answer."""
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=project.http.base_url, timeout=60) as http:
            while not stop.is_set():
                answer = http.post("/predict", json=project.row)
                answers.append((answer.status_code, answer.json().get("model_version", answer.text)))
                time.sleep(0.02)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        stop.set()
        for caller in callers:
            caller.join()


@pytest.fixture
def prod(released: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """`released` as the current folder, in which grace works: for what reads, or is refused."""
    monkeypatch.chdir(released.folder)
    return released


@pytest.fixture
def in_prod(released: Project, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of `released` to write to, made the current folder; no service follows it."""
    project = Project(copied(released.folder, tmp_path / "project"), command)
    project.row = released.row
    monkeypatch.chdir(project.folder)
    file = Path("conf/environments/prod.yml")
    file.write_text(yaml.safe_dump(read("environments/prod") | {"endpoints": []}), encoding="utf-8")
    return project
