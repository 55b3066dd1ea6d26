"""Forgetting and keeping: what is left on disk afterwards, whoever was killed or at work meanwhile."""

import contextlib
import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from flight_delays import data
from flight_delays.__main__ import main
from mlops_ladder.core import files
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.data import store, versions
from mlops_ladder.loop import erasure, feedback, forget, forgotten, prediction_log, retention, retrain, triggers
from mlops_ladder.training import tracking
from projects import FLIGHTS, ROOT

ENTITY = yaml.safe_load((ROOT / "conf/prediction_log.yml").read_text(encoding="utf-8"))["entity"]


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Any) -> Path:
    """A copy of `trained` as the current folder, whose rows come from elsewhere, with a log."""
    folder = shutil.copytree(trained, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.move("data/sample", tmp_path / "source")
    conf = yaml.safe_load(Path("conf/data.yml").read_text())
    conf["source"]["url"] = str(tmp_path / "source")
    Path("conf/data.yml").write_text(yaml.safe_dump(conf))
    Path(".git/info/exclude").write_text("audit/\nreports/\nenvironments/\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Take rows from elsewhere")
    return folder


def somebody(n_rows: int = 3) -> tuple[str, list[str]]:
    """Return an aircraft of N_ROWS gathered rows or more, and their keys."""
    rows = data.read("data/raw")
    counts = rows[ENTITY].value_counts()
    aircraft = counts[counts >= n_rows].index[-1]
    return aircraft, rows[data.KEY][rows[ENTITY] == aircraft].tolist()


def answered(aircraft: str, source: str = "feedback") -> list[str]:
    """Write predictions about AIRCRAFT and another one into the log, and their labels; return the keys of its own."""
    log = prediction_log.open_log(FLIGHTS)
    row = json.loads(data.read("data/raw").head(1).to_json(orient="records", date_format="iso"))[0]
    row[data.TIME] = row[data.TIME].rstrip("Z")
    sent = {name: row[name] for name in log.columns}
    keys = [f"{aircraft}-asked-{number}" for number in range(3)]
    theirs = [(key, aircraft) for key in keys] + [(f"other-asked-{number}", "NOTHER") for number in range(3)]
    log.write(
        {
            "request_id": f"r-{key}",
            "entity": tail,
            "prediction": 0.5,
            "inputs": sent | {data.KEY: key, ENTITY: tail},
        }
        for key, tail in theirs
    )
    feedback.add_labels(log, [{"key": key, "label": 1.0} for key, _ in theirs], source)
    return keys


def holding(folder: Path, texts: list[str]) -> set[str]:
    """Return the files of FOLDER in whose bytes, or in a cell of which, one of TEXTS stands; git's own objects aside."""
    found = set()
    for file in files.files_in(folder):
        content = file.read_bytes()
        if ".git" in file.relative_to(folder).parts:
            continue
        if content.startswith(b"PAR1"):
            content += pd.read_parquet(io.BytesIO(content)).to_csv().encode()
        if any(text.encode() in content for text in texts):
            found.add(file.relative_to(folder).as_posix())
    return found


def spread(aircraft: str) -> None:
    """Have all that copies rows copy those of AIRCRAFT."""
    for words in (["prepare"], ["stream-features"]):
        assert main(words) == 0
    retrain.make(FLIGHTS, store.read(FLIGHTS))
    shutil.copytree("data/raw", "data/scored")
    rows = data.read("data/raw")
    rows.to_csv("data/rows.csv", index=False)
    rows.to_json("data/rows.jsonl", orient="records", lines=True)
    with contextlib.closing(sqlite3.connect("data/online.db")) as database:
        rows.to_sql("scored", database)
    Path("reports/drift").mkdir(parents=True)
    Path("reports/drift/new.html").write_text(f"<td>{aircraft}</td>")
    Path("reports/drift/old.html").write_text("<td>nobody</td>")


AGED = "2020-01-01T00:00:00+00:00"


def test_what_was_kept_long_enough_goes_and_is_not_gathered_again(project: Path, run: Any, git: Any) -> None:
    shutil.copy(ROOT / "data/catalog.yml", "data/catalog.yml")
    git("add", "--all")
    git("commit", "--quiet", "--message", "List the data sets")
    run("prepare")
    manifest = json.loads(Path("data/manifest.json").read_text())
    oldest = min(manifest["files"])
    manifest["files"][oldest]["gathered"] = AGED
    Path("data/manifest.json").write_text(json.dumps(manifest))
    log = prediction_log.open_log(FLIGHTS)
    old = {"at": prediction_log.now() - timedelta(days=401), "prediction": 0.5}
    log.write([{"request_id": "long-ago-asked", **old}, {"request_id": "just-asked", "prediction": 0.5}])
    for name in ("data/scored/old.parquet", "reports/old.html", "reports/new.html"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("long-ago-written" if "old" in name else "new")
    for name in ("data/scored/old.parquet", "reports/old.html"):
        os.utime(name, (0, 0))
    dry = run("retention", "--dry-run", "--json")
    assert {one["name"] for one in dry} == {"raw", "predictions", "scored", "reports"}
    assert Path("reports/old.html").is_file() and log.status()["predictions"] == 2, "nothing is done yet"
    assert run("retention", "--json") == dry
    assert holding(project, ["long-ago"]) == set() and Path("reports/new.html").is_file()
    assert log.status()["predictions"] == 1 and not Path("data/raw", oldest).exists()
    run("ingest")
    assert not Path("data/raw", oldest).exists()
    assert run("audit", "show", "--action", "retention", "--json")[0]["facts"]["deleted"]["raw: files"] == 1
    assert "nothing is older than data/catalog.yml says" in run("retention")


@pytest.mark.parametrize("path", [".", "data", ".."])
def test_a_data_set_that_is_the_whole_project_is_not_deleted(project: Path, run: Any, path: str) -> None:
    catalogue = yaml.safe_load((ROOT / "data/catalog.yml").read_text())
    catalogue["datasets"]["scored"]["path"] = path
    Path("data/catalog.yml").write_text(yaml.safe_dump(catalogue))
    os.utime("conf/data.yml", (0, 0))
    assert f"scored: path {path} holds more than a data set" in run("retention", exit_code=1)
    assert Path("conf/data.yml").is_file()


def test_a_data_version_goes_once_no_run_and_no_version_in_use_needs_it(project: Path, run: Any) -> None:
    chosen, client = tracking.open_store(FLIGHTS)
    used = client.get_run(tracking.find_version(client, chosen.model, "1").run_id).data.tags["data"].partition("@")[2]
    later = prediction_log.now() + timedelta(days=1)
    assert retention.unused_since(FLIGHTS, later) == [], "version 1 is the challenger, and its rows are at hand"
    client.delete_registered_model_alias(chosen.model, "challenger")
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace(used, "0" * 32))
    assert retention.unused_since(FLIGHTS, later) == [used]
    assert retention.unused_since(FLIGHTS, later - timedelta(days=3)) == []
    versions.delete(FLIGHTS, [used])
    assert used not in versions.cached(FLIGHTS)
    with pytest.raises(ProjectError, match="neither in DVC's cache nor on its remote"):
        versions.ensure(FLIGHTS, used)


@pytest.fixture
def forgotten_person(project: Path) -> Iterator[tuple[str, list[str]]]:
    """An aircraft that everything knows, with all its keys."""
    aircraft, keys = somebody()
    keys += answered(aircraft)
    spread(aircraft)
    yield aircraft, keys


def test_whoever_is_forgotten_stands_in_no_file_any_more(
    project: Path, forgotten_person: tuple[str, list[str]], run: Any
) -> None:
    aircraft, keys = forgotten_person
    before = data.read("data/raw")
    places = holding(project, [aircraft, *keys])
    assert {"data/predictions.db", "data/rows.csv", "data/rows.jsonl", "data/online.db"} <= places
    assert {one.partition("/")[2].partition("/")[0] for one in places} >= {"raw", "scored", "prepared", "retraining"}
    assert {".dvc/cache", "data/versions"} <= {"/".join(Path(one).parts[:2]) for one in places}
    (told,) = run("forget", aircraft, "--by", "entity", "--reason", f"{aircraft} asked for it", "--json")
    assert holding(project, [aircraft, *keys]) == set()
    assert told["left"] == [] and told["versions"] == {"1": len(keys) - 3}
    assert told["taken"]["prediction log: predictions"] == told["taken"]["prediction log: labels"] == 3
    after = data.read("data/raw")
    assert len(after) == len(before) - (len(keys) - 3) and len(pd.read_csv("data/rows.csv")) == len(after)
    assert prediction_log.open_log(FLIGHTS).status()["predictions"] == 3
    assert Path("reports/drift/old.html").is_file() and not Path("reports/drift/new.html").exists()
    lines = run("audit", "show", "--json")
    assert [one["action"] for one in lines][-2:] == ["forget", "forgotten"]
    assert lines[-1]["facts"]["taken"] == told["taken"]
    assert run("audit", "verify").startswith(f"{len(lines)} lines")


def test_whoever_is_forgotten_is_not_gathered_again_and_old_data_versions_are_what_is_left(
    project: Path, run: Any, tmp_path: Path
) -> None:
    aircraft, keys = somebody()
    before = run("datasets", "--json")[0]["version"]
    run("forget", aircraft, "--by", "entity")
    shutil.rmtree("data/raw")
    run("ingest")
    assert not data.read("data/raw")[data.KEY].isin(keys).any()
    late = [{"key": keys[0], "label": 1.0}, {"key": "another", "label": 1.0}]
    done = feedback.add_labels(prediction_log.open_log(FLIGHTS), late)
    assert (done["forgotten"], done["added"]) == (1, 1), "a label that comes late brings no key back"
    shutil.rmtree(".dvc/cache")  # what is left is on the remote, too
    run("datasets", "--fetch", f"raw@{before[:8]}", "--to", str(tmp_path / "old"))
    assert data.read(tmp_path / "old").equals(data.read("data/raw"))
    assert f"now {versions.latest(FLIGHTS, before)[:8]}: rows were forgotten" in run("lineage", "1")
    [again] = run("forget", aircraft, "--by", "entity", "--json")
    assert again["versions"] == {"1": len(keys)} and "0 wait to be forgotten, 1 are" in run("forget")


def test_what_only_people_can_take_away_is_named(project: Path, run: Any, git: Any) -> None:
    aircraft, _ = somebody()
    Path("notes.md").write_text(f"{aircraft} complained")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Take a note")
    Path("data/more.txt").write_text(aircraft)
    said = run("forget", aircraft, "--by", "entity", exit_code=3)
    assert "still there: notes.md is in git" in said and "still there: data/more.txt" in said
    assert not data.read("data/raw")[ENTITY].eq(aircraft).any(), "the rest is done all the same"


@pytest.mark.parametrize("step", ["remember", "sweep", "rewrite", "learned"])
def test_one_who_was_killed_goes_on_and_forgets_all(
    project: Path, run: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    aircraft, keys = somebody()
    keys += answered(aircraft)

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        module = {"remember": forgotten, "rewrite": versions}.get(step, forget)
        patch.setattr(module, step, kill)
        run("forget", aircraft, "--by", "entity", exit_code=130)
    assert "1 wait to be forgotten, 0 are" in run("forget")
    assert "version 1 learned from" in run("forget", "--queued")
    assert holding(project, [aircraft, *keys]) == set()
    assert "nobody waits to be forgotten" in run("forget", "--queued")


def test_while_somebody_trains_it_waits_and_the_loop_does_it(project: Path, run: Any) -> None:
    (key,) = answered("N0WAIT")[:1]
    with files.locked(Path("data/.retraining.lock")):
        assert "the request waits" in run("forget", key, exit_code=1)
        assert "1 wait: " in run("forget", "--queued")
    assert "1 written down" in run("forget", key, "--later")
    run("forget", "--queued")
    assert prediction_log.open_log(FLIGHTS).status()["predictions"] == 5


def test_labels_of_a_poisoned_source_are_withdrawn_with_what_was_made_of_them(project: Path, run: Any) -> None:
    keys = answered("N0SOURCE", source="feed-b")
    feedback.add_labels(prediction_log.open_log(FLIGHTS), [{"key": "other", "label": 0.0}], "feed-a")
    run("train", "--data", "retraining", "--until", "ingest")
    rows = lambda: pd.concat([pd.read_parquet(file) for file in Path("data/retraining").rglob("*.parquet")])
    n_rows = len(rows())
    said = run("forget", "--source", "feed-b", "--reason", "turned over")
    assert said.startswith("labels of feed-b: ") and "prediction log: labels: 6" in said
    assert len(rows()) == n_rows - 6 and not rows()[data.KEY].isin(keys).any()
    status = prediction_log.open_log(FLIGHTS).status()
    assert (status["predictions"], status["without_prediction"]) == (6, 1), (
        "what was predicted stays, so do others' labels"
    )
    log = prediction_log.open_log(FLIGHTS)
    assert log.labelled_by("feed-a") == ["other"] and log.labelled_by("feed-b") == []


def test_a_version_in_use_that_learned_from_the_rows_is_trained_anew_unless_a_reason_is_kept(
    project: Path, run: Any
) -> None:
    aircraft, _ = somebody()
    policy = triggers.read(FLIGHTS)
    run("forget", aircraft, "--by", "entity")
    [cause] = retrain.forgotten_rows(FLIGHTS, policy, "1")
    moment = prediction_log.now()
    now = triggers.Situation(moment, "1", moment, moment, moment, 0, forgotten=[cause])
    verdict = triggers.decide(FLIGHTS, policy, now)
    assert [one.name for one in verdict.fired] == ["forgotten"] and "least" not in str(verdict.blocked)
    said = run("forget", aircraft, "--by", "entity", "--keep", f"{aircraft} agreed")
    assert "kept: entity " in said and aircraft not in said
    assert retrain.forgotten_rows(FLIGHTS, policy, "1") == []


@pytest.mark.parametrize(
    "words", [["--keep", " ", "k"], ["k", "--queued"], ["k", "--source", "s"], ["--later"], [""]], ids=str
)
def test_words_that_leave_open_whom_or_why_are_refused(project: Path, run: Any, words: list[str]) -> None:
    run("forget", *words, exit_code=2)


ROWS = pd.DataFrame(
    {
        "key": ["k-1", "k-2", None, "k-4"],
        "number": [5, 6, 7, 8],
        "group": pd.Categorical(["north", "south", "south", "north"]),
        "at": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-02", "2020-01-03"]),
    }
)
WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.parquet": lambda file: ROWS.to_parquet(file, row_group_size=2, index=False),
    "rows.csv": lambda file: ROWS.to_csv(file, index=False),
    "excel.csv": lambda file: ROWS.to_csv(file, index=False, sep=";", lineterminator="\r\n"),
    "rows.jsonl": lambda file: ROWS.astype(str).to_json(file, orient="records", lines=True),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("column", "text", "left"),
    [("key", "k-2", 3), ("group", "north", 2), ("at", "2020-01-02 00:00:00", 2), ("key", "k-", 4), ("other", "k-2", 4)],
)
def test_rows_go_from_a_table_of_any_kind(tmp_path: Path, name: str, column: str, text: str, left: int) -> None:
    file = tmp_path / name
    WRITERS[name](file)
    if column == "at" and name != "rows.parquet":
        text = text.removesuffix(" 00:00:00")
    before, subject = file.read_bytes(), erasure.Subject({column: frozenset({text})})
    assert erasure.take_out(file, subject) == 4 - left
    n_rows = len(pd.read_parquet(file)) if name == "rows.parquet" else len(file.read_text().splitlines())
    assert n_rows == left + name.endswith("csv")
    assert (file.read_bytes() == before) == (left == 4) and not file.with_name(f".{name}.part").exists()


def test_a_number_is_told_however_it_is_written(tmp_path: Path) -> None:
    subject = erasure.Subject({"number": frozenset({"5.0"})})
    for name, write in WRITERS.items():
        if name.endswith(("parquet", "csv")):
            write(tmp_path / name)
            assert erasure.take_out(tmp_path / name, subject) == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as database:
        ROWS.to_sql("numbers", database)
        ROWS.astype(str).to_sql("texts", database)
    assert erasure.take_out(tmp_path / "rows.db", subject) == 2


@pytest.mark.parametrize(
    ("word", "stands"),
    [("k-2abc", True), ("N14228", True), ("k-2a", False), ("abc", False), ("1234", False), ("a b&c", True)],
)
def test_a_text_is_noticed_as_a_word_of_its_own(tmp_path: Path, word: str, stands: bool) -> None:
    (tmp_path / "page.html").write_text("<td>k-2abc</td> of N14228. 1234 abc a b&amp;c")
    assert erasure.holds(tmp_path / "page.html", erasure.Subject({"key": frozenset({word})})) == stands


def test_of_many_who_are_forgotten_at_once_none_is_gathered_again(project: Path) -> None:
    names = [f"N{number}" for number in range(12)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: forgotten.remember(FLIGHTS, {ENTITY: [name]}), names))
    _, kept = forgotten.digests(store.read(FLIGHTS)) or (b"", frozenset())
    assert kept == {forgotten.digest(FLIGHTS, ENTITY, name) for name in names}
