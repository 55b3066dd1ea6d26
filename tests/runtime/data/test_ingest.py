"""`ingest` gathers each monthly file once, whole or not at all, from a folder, over HTTP and from a database."""

import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy
import yaml
from flight_delays import data
from flight_delays.__main__ import main
from mlops_ladder.data import sources, store
from projects import ROOT, python_path

COMMAND = [sys.executable, "-m", "flight_delays", "ingest"]
ENVIRON = os.environ | {"PYTHONPATH": python_path(ROOT / "src")}
Interfere = Callable[[http.server.SimpleHTTPRequestHandler], bool]
SAMPLE = sorted((ROOT / "data/sample").glob("*.parquet"))[:3]  # what `workdir` has
MONTHS = [pd.read_parquet(file, columns=[data.TIME])[data.TIME].dt.strftime("%Y-%m")[0] for file in SAMPLE]
N_ROWS = [pq.read_metadata(file).num_rows for file in SAMPLE]
# columns of the files: a number, and what only the outcome is computed from
RAW = pq.read_schema(SAMPLE[0]).names
NUMBER = next(name for name in RAW if data.SCHEMA.get(name, {}).get("type") == "number" and name != data.TARGET)
OUTCOME = next((name for name in RAW if name not in data.SCHEMA), data.TARGET)


@pytest.fixture
def source(workdir: Path) -> Path:
    """A folder with the files that `workdir` has in its store, which is emptied; the configured source."""
    shutil.move(workdir / "data/raw", workdir / "source")
    configure(url="source")
    return workdir / "source"


def configure(url: str | None = None, table: str | None = None, **keys: str) -> None:
    """Change conf/data.yml of the current folder."""
    file = Path("conf/data.yml")
    conf = yaml.safe_load(file.read_text(encoding="utf-8")) | keys
    conf["source"] = {"url": url or conf["source"]["url"], "table": table}
    file.write_text(yaml.safe_dump(conf), encoding="utf-8")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of each file below FOLDER."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def names(folder: Path | str) -> list[str]:
    return sorted(file.name for file in Path(folder).iterdir())


def manifest() -> dict[str, dict[str, Any]]:
    return json.loads(Path("data/manifest.json").read_text(encoding="utf-8"))["files"]


@contextlib.contextmanager
def site(folder: Path, interfere: Interfere = lambda _: False) -> Iterator[tuple[str, list[str]]]:
    """Serve FOLDER over HTTP; give the address and the list of requests. INTERFERE may answer a GET by itself."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if not interfere(self):
                super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", requests
        server.shutdown()


def send_half(handler: http.server.SimpleHTTPRequestHandler) -> None:
    content = Path(handler.translate_path(handler.path)).read_bytes()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.close_connection = True


@contextlib.contextmanager
def ingest_stuck_in_second_file(source: Path) -> Iterator[subprocess.Popen]:
    """Give an `ingest` process that has one file and waits for the rest of the second."""
    stuck, done = threading.Event(), threading.Event()

    def interfere(handler: http.server.SimpleHTTPRequestHandler) -> bool:
        if handler.path.endswith(names(source)[1]):
            send_half(handler)
            stuck.set()
            done.wait()
            return True
        return False

    with site(source, interfere) as (address, _):
        configure(url=address)
        process = subprocess.Popen(COMMAND, env=ENVIRON, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert stuck.wait(60)
            yield process
        finally:
            process.kill()
            process.wait()
            done.set()


@pytest.mark.practice("automated-data-ingestion")
def test_a_second_run_changes_nothing(source: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest"]) == 0
    assert f"gathered 3 files, {sum(N_ROWS):,} rows, into data/raw; 0 unchanged" in capsys.readouterr().out
    assert [file.read_bytes() for file in sorted(source.iterdir())] == [
        file.read_bytes() for file in sorted(Path("data/raw").iterdir())
    ]
    before = contents(workdir / "data")
    assert main(["ingest"]) == 0
    assert "gathered 0 files, 0 rows, into data/raw; 3 unchanged" in capsys.readouterr().out
    assert contents(workdir / "data") == before


@pytest.mark.practice("automated-data-ingestion")
def test_only_what_is_new_is_gathered(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = shutil.move(source / names(source)[2], tmp_path)
    assert main(["ingest"]) == 0
    shutil.move(later, source)
    capsys.readouterr()
    assert main(["ingest", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gathered"] == {names(source)[2]: N_ROWS[2]}
    assert report["unchanged"] == names(source)[:2]


def test_since_leaves_earlier_months_out(source: Path) -> None:
    assert main(["ingest", "--since", MONTHS[1]]) == 0
    assert names("data/raw") == names(source)[1:]
    assert main(["ingest", "--since", "February"]) == 2


@pytest.mark.practice("automated-data-ingestion")
def test_the_manifest_says_where_each_file_came_from(source: Path) -> None:
    assert main(["ingest"]) == 0
    known = manifest()
    assert list(known) == names(source)
    for (name, entry), n_rows in zip(known.items(), N_ROWS, strict=True):
        assert entry["origin"] == f"source/{name}"
        assert entry["rows"] == n_rows
        assert entry["bytes"] == (source / name).stat().st_size
        assert len(entry["sha256"]) == 64
        assert pd.Timestamp(entry["gathered"]).tzinfo


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda file: change(pd.read_parquet(file)).to_parquet(file)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half-written": (half, "not a whole parquet file"),
    "empty": (lambda file: file.write_bytes(b""), "not a whole parquet file"),
    "text": (lambda file: file.write_text("a,b\n1,2\n"), "not a whole parquet file"),
    "no rows": (edit(lambda rows: rows.head(0)), "has no rows"),
    "no column": (edit(lambda rows: rows.drop(columns=NUMBER)), f"has no column {NUMBER}"),
    "no outcome": (edit(lambda rows: rows.drop(columns=OUTCOME)), OUTCOME),
    "words for numbers": (edit(lambda rows: rows.assign(**{NUMBER: "far"})), f"column {NUMBER} holds"),
    "words for times": (edit(lambda rows: rows.assign(**{data.TIME: "noon"})), f"column {data.TIME} holds"),
    "other month": (
        edit(lambda rows: rows.assign(**{data.TIME: pd.Timestamp("1999-05-31")})),
        f"are not of {MONTHS[1]}",
    ),
    "some without time": (
        edit(lambda rows: rows.assign(**{data.TIME: rows[data.TIME].shift()})),
        f"are not of {MONTHS[1]}",
    ),
    "a copy under another name": (lambda file: shutil.copy(file, file.with_stem(f"copy-{MONTHS[1]}")), "already"),
    "no month": (lambda file: file.rename(file.with_stem("february")), "holds no month as YYYY-MM"),
    "a folder": (lambda file: [file.unlink(), file.mkdir()], "cannot be read"),
}


@pytest.mark.practice("automated-data-ingestion")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_and_harms_nothing(
    case: str, source: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, reason = BROKEN[case]
    first, second, third = names(source)
    spoil(source / second)
    refused = next(name for name in names(source) if name not in (first, third))
    assert main(["ingest"]) == 3
    error = capsys.readouterr().err.partition("error: ")[2]
    assert f"{refused}: " in error if case != "a copy under another name" else f"{MONTHS[1]}.parquet: " in error
    assert reason in error
    assert {first, third} <= set(names("data/raw"))
    assert len(data.read("data/raw")) == sum(N_ROWS) - N_ROWS[1] * (case != "a copy under another name")
    before = contents(workdir / "data")
    assert main(["ingest"]) == 3
    assert contents(workdir / "data") == before


@pytest.mark.skipif(data.KEY not in RAW, reason="data.read makes the keys")
def test_a_file_that_repeats_a_few_rows_of_another_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = names(source)
    rows, name = pd.read_parquet(source / second).head(5), f"zz-{MONTHS[1]}.parquet"
    rows.assign(**{data.KEY: [*rows[data.KEY].head(2), "new 1", "new 2", "new 3"]}).to_parquet(source / name)
    assert main(["ingest"]) == 3
    assert f"{name}: 2 of its rows are in data/raw/{second} already" in capsys.readouterr().err
    assert names("data/raw") == [first, second, third]


def test_a_refused_file_is_gathered_once_it_is_mended(source: Path) -> None:
    second = source / names(source)[1]
    whole = second.read_bytes()
    half(second)
    assert main(["ingest"]) == 3
    second.write_bytes(whole)
    assert main(["ingest"]) == 0
    assert (Path("data/raw") / second.name).read_bytes() == whole


def test_a_changed_file_is_reported_and_kept_until_it_is_accepted(
    source: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ingest"]) == 0
    first = names(source)[0]
    gathered, before = manifest()[first], contents(workdir / "data")
    edit(lambda rows: rows.iloc[1:])(source / first)
    assert main(["ingest"]) == 3
    assert f"{first}: is no longer what stands in data/raw/{first}" in capsys.readouterr().err
    assert contents(workdir / "data") == before
    assert main(["ingest", "--accept-changed"]) == 0
    assert len(pd.read_parquet(f"data/raw/{first}")) == N_ROWS[0] - 1
    assert manifest()[first]["replaces"] == gathered["sha256"]
    assert main(["ingest"]) == 0


@pytest.mark.skipif(data.KEY not in RAW, reason="data.read makes the keys: what a file is longer by counts")
def test_of_a_file_that_was_corrected_the_manifest_counts_the_rows_that_are_new(source: Path) -> None:
    assert main(["ingest"]) == 0
    first, again = names(source)[0], ["ingest", "--accept-changed"]
    begun = store.rows_added(manifest()[first])

    def correct(rows: pd.DataFrame) -> pd.DataFrame:
        other = pd.read_parquet(source / names(source)[1])[data.KEY]
        new = rows.tail(2).assign(**{data.KEY: other.head(2).to_numpy()})
        return pd.concat([rows.iloc[5:].assign(**{NUMBER: 1}), new], ignore_index=True)

    edit(correct)(source / first)
    assert main(again) == 0
    assert sum(store.rows_added(manifest()[first]).values()) == N_ROWS[0] + 2
    (Path("data/raw") / first).write_bytes(b"damaged")
    edit(lambda rows: rows.tail(-1))(source / first)
    assert main(again) == 0
    added = store.rows_added(manifest()[first])
    assert sum(added.values()) == N_ROWS[0] + 2, "fewer rows than before are no new ones"
    assert [*begun] == [*added][:1]


def test_files_that_were_copied_by_hand_are_taken_over(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = names(source)
    shutil.copytree(source, "data/raw")
    edit(lambda rows: rows.iloc[1:])(Path("data/raw") / second)
    assert main(["ingest"]) == 3
    assert f"{second}: is no longer what stands in data/raw/{second}" in capsys.readouterr().err
    assert list(manifest()) == [first, third]
    assert len(data.read("data/raw")) == sum(N_ROWS) - 1


def test_a_month_that_is_not_over_waits(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"now-{pd.Timestamp.now('UTC'):%Y-%m}.parquet"
    shutil.copy(source / names(source)[0], source / name)
    assert main(["ingest"]) == 0
    assert f"{name}: waits" in capsys.readouterr().err
    assert name not in names("data/raw")


@pytest.mark.practice("automated-data-ingestion")
@pytest.mark.parametrize("index", ["", "index.txt"])
def test_files_are_gathered_over_http(index: str, source: Path, workdir: Path) -> None:
    (source / names(source)[2]).rename(source / f"an odd näme {MONTHS[2]}.parquet")
    files = names(source)
    if index:
        links = [*files, "notes.md", "../secret-2013-04.parquet", "http://127.0.0.1:1/elsewhere-2013-04.parquet"]
        (source / index).write_text("\n".join(links) + "\n", encoding="utf-8")
    shutil.copy(source / files[0], workdir / "secret-2013-04.parquet")
    with site(workdir) as (address, requests):
        configure(url=f"{address}source/{index}")
        assert main(["ingest"]) == 0
        assert names("data/raw") == files
        assert all((Path("data/raw") / name).read_bytes() == (source / name).read_bytes() for name in files)
        assert manifest()[files[1]]["origin"] == f"{address}source/{files[1]}"
        before = contents(workdir / "data")
        requests.clear()
        assert main(["ingest"]) == 0
        assert requests == [f"/source/{index}"]  # nothing is downloaded again
        assert contents(workdir / "data") == before


def test_a_download_that_breaks_off_is_tried_again_then_refused(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = names(source)
    tries: dict[str, int] = {}

    def interfere(handler: http.server.SimpleHTTPRequestHandler) -> bool:
        tries[handler.path] = tries.get(handler.path, 0) + 1
        if handler.path == f"/{first}" and tries[handler.path] == 1:
            handler.send_error(503)
        elif handler.path == f"/{second}":
            send_half(handler)
        elif handler.path == f"/{third}":
            handler.send_error(404)
        else:
            return False
        return True

    with site(source, interfere) as (address, _):
        configure(url=address)
        assert main(["ingest"]) == 3
        error = capsys.readouterr().err.partition("error: ")[2]
    assert names("data/raw") == [first]
    assert f"{second}: " in error and f"{third}: HTTP 404" in error
    assert tries == {"/": 1, f"/{first}": 2, f"/{second}": 3, f"/{third}": 1}


@pytest.mark.practice("automated-data-ingestion")
def test_a_download_that_trickles_is_refused_and_the_others_are_gathered(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second, _ = names(source)

    def interfere(handler: http.server.SimpleHTTPRequestHandler) -> bool:
        if handler.path != f"/{second}":
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        with contextlib.suppress(OSError):  # until nobody listens
            for _ in range(1000):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.05)
        handler.close_connection = True
        return True

    monkeypatch.setattr(sources, "TIMEOUT_S", 5)
    with site(source, interfere) as (address, _):
        configure(url=address)
        assert main(["ingest"]) == 3
    assert f"{second}: arrives too slowly" in capsys.readouterr().err
    assert names("data/raw") == [name for name in names(source) if name != second]


@pytest.mark.practice("automated-data-ingestion")
def test_a_killed_run_is_finished_by_the_next(source: Path, workdir: Path) -> None:
    with ingest_stuck_in_second_file(source) as process:
        process.kill()
        process.wait()
        assert names("data/raw") == names(source)[:1]
        configure(url="source")
        assert main(["ingest"]) == 0
    assert {name: content for name, (content, _) in contents(workdir / "data/raw").items()} == {
        name: content for name, (content, _) in contents(source).items()
    }
    assert names("data") == [".lock", "manifest.json", "raw"]


def test_a_second_ingest_at_once_is_told_to_wait(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops_ladder.data.sources.TIMEOUT_S", 1)  # if it does not wait, it soon gives up
    with ingest_stuck_in_second_file(source):
        assert main(["ingest"]) == 1
        assert "data is being written by another process" in capsys.readouterr().err


def test_a_full_disk_harms_nothing(source: Path, workdir: Path) -> None:
    resource = pytest.importorskip("resource", reason="not run: Windows cannot limit a process's files")
    limit = sum(file.stat().st_size for file in source.iterdir()) // 4  # bytes a file: room for none of them
    done = subprocess.run(
        COMMAND,
        env=ENVIRON,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert f"error: {names(source)[0]}: " in done.stderr and "Traceback" not in done.stderr
    assert not contents(workdir / "data/raw")
    assert main(["ingest"]) == 0
    assert names("data/raw") == names(source)


@pytest.fixture
def database(source: Path) -> str:
    """The URL of a database with the rows of `source` in the table `flights`, in no order."""
    rows = pd.concat([pd.read_parquet(file) for file in source.iterdir()]).sample(frac=1, random_state=0)
    engine = sqlalchemy.create_engine("sqlite:///flights.db")
    rows.to_sql("flights", engine, index=False)
    engine.dispose()
    return "sqlite:///flights.db"


def execute(database: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


@pytest.mark.practice("automated-data-ingestion")
def test_a_table_is_gathered_month_by_month(source: Path, workdir: Path, database: str) -> None:
    configure(url=database, table="flights")
    assert main(["ingest"]) == 0
    assert names("data/raw") == [f"flights-{month}.parquet" for month in MONTHS]
    assert manifest()[f"flights-{MONTHS[1]}.parquet"]["origin"] == f"{database} flights {MONTHS[1]}"
    pd.testing.assert_frame_equal(data.read("data/raw"), data.read(source))
    before = contents(workdir / "data")
    assert main(["ingest"]) == 0
    assert contents(workdir / "data") == before


def test_a_column_of_a_table_has_one_type_whatever_a_month_holds(source: Path, database: str) -> None:
    columns = {"day": "DATE", "fare": "NUMERIC(8, 2)", "full": "BOOLEAN", "stops": "INTEGER", "remark": "TEXT"}
    values = "day = '2013-01-02', fare = 99.5, full = 1, stops = 2, remark = 'ü'"
    added = [f"ALTER TABLE flights ADD COLUMN {name} {kind}" for name, kind in columns.items()]
    execute(database, *added, f"UPDATE flights SET {values} WHERE {data.TIME} < '{MONTHS[1]}-01'")
    configure(url=database, table="flights")
    assert main(["ingest"]) == 0
    full, empty = (pq.read_table(f"data/raw/flights-{month}.parquet") for month in MONTHS[:2])
    assert full.schema == empty.schema
    row = full.select(columns).slice(0, 1).to_pylist()[0]
    assert row == {"day": datetime(2013, 1, 2), "fare": 99.5, "full": True, "stops": 2, "remark": "ü"}
    assert empty.select(columns).slice(0, 1).to_pylist() == [dict.fromkeys(columns)]


def test_a_value_that_its_column_cannot_hold_is_refused(
    source: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(database, "ALTER TABLE flights ADD COLUMN stops INTEGER", "UPDATE flights SET stops = 'two'")
    configure(url=database, table="flights")
    assert main(["ingest"]) == 3
    assert f"flights-{MONTHS[0]}.parquet: column stops: " in capsys.readouterr().err


def test_a_month_of_a_table_that_grew_is_reported_and_kept(
    source: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(url=database, table="flights")
    assert main(["ingest"]) == 0
    execute(database, "DELETE FROM flights WHERE rowid = (SELECT min(rowid) FROM flights)")
    assert main(["ingest"]) == 3
    assert "is no longer what stands in data/raw/flights-" in capsys.readouterr().err
    assert len(data.read("data/raw")) == sum(N_ROWS)
    assert main(["ingest", "--accept-changed"]) == 0
    assert len(data.read("data/raw")) == sum(N_ROWS) - 1


@pytest.mark.parametrize(
    ("statement", "table", "reason"),
    [
        (f"UPDATE flights SET {data.TIME} = NULL WHERE rowid = 1", "flights", f"have no {data.TIME}"),
        (f"CREATE VIEW days AS SELECT date({data.TIME}) AS day FROM flights", "days", "no date-time column"),
        ("SELECT 1", "departures", "departures"),
        ("SELECT 1", None, "source.table is empty"),
    ],
)
def test_a_table_that_cannot_be_gathered_says_why(
    statement: str, table: str | None, reason: str, source: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(database, statement)
    configure(url=database, table=table)
    assert main(["ingest"]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nowhere", "there is no folder nowhere"),
        ("conf", "conf has no .parquet file"),
        ("http://127.0.0.1:1/", "cannot be reached"),
        ("sqlite:///nowhere.db", "there is no database"),
        ("nosuchdb://host/db", "nosuchdb"),
        ("https://reader:hunter2@host/", "source.url holds a password"),
        ("https://reader:${NOT_SET_ANYWHERE}@host/", "needs the environment variable NOT_SET_ANYWHERE"),
    ],
)
def test_a_source_out_of_reach_says_so_without_a_traceback(
    url: str, reason: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(url=url, table="flights")
    assert main(["ingest"]) == 1
    error = capsys.readouterr().err
    assert reason in error and "hunter2" not in error
    assert not Path("nowhere.db").exists()


@pytest.mark.parametrize("whole_url", [False, True])
def test_a_password_comes_from_the_environment_and_goes_nowhere_else(
    whole_url: bool, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    password = "p@ss/w:rd"
    login = "Basic " + base64.b64encode(f"reader:{password}".encode()).decode()

    def interfere(handler: http.server.SimpleHTTPRequestHandler) -> bool:
        if handler.headers.get("Authorization") == login:
            return False
        handler.send_error(401)
        return True

    with site(source, interfere) as (address, _):
        if whole_url:
            monkeypatch.setenv("SOURCE", address.replace("//", "//reader:p%40ss%2Fw%3Ard@"))
            configure(url="${SOURCE}")
        else:
            monkeypatch.setenv("PASSWORD", password)
            configure(url=address.replace("//", "//reader:${PASSWORD}@"))
        assert main(["ingest"]) == 0
        monkeypatch.setenv("PASSWORD" if not whole_url else "SOURCE", "wrong" if not whole_url else address)
        assert main(["ingest"]) == 1
    output = "".join(capsys.readouterr())
    assert "HTTP 401" in output
    for text in (output, Path("data/manifest.json").read_text(encoding="utf-8")):
        assert password not in text and "p%40ss" not in text


@pytest.mark.practice("data-platform")
def test_the_store_is_swapped_by_configuration(source: Path, workdir: Path, tmp_path_factory: Any) -> None:
    shared = tmp_path_factory.mktemp("share")
    configure(store=str(shared), workspace="flights-ny")
    assert main(["ingest"]) == 0
    assert main(["prepare"]) == 0
    assert names(shared / "flights-ny/raw") == names(source)
    assert names(shared / "flights-ny/prepared") == [f"{month}.parquet" for month in MONTHS]
    assert not (workdir / "data").exists() or not names(workdir / "data")


@pytest.mark.practice("project-workspace")
def test_two_projects_share_a_store_without_meeting(
    source: Path, workdir: Path, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other = tmp_path_factory.mktemp("share"), tmp_path_factory.mktemp("other")
    configure(store=str(shared), workspace="one")
    shutil.copytree(workdir / "conf", other / "conf")
    (other / "source").mkdir()
    shutil.copy(source / names(source)[0], other / "source")
    edit(lambda rows: rows.head(10))(other / "source" / names(source)[0])  # the same name, other rows
    assert main(["ingest"]) == 0
    before = contents(shared / "one")
    monkeypatch.chdir(other)
    configure(workspace="two")
    assert main(["ingest"]) == 0
    assert contents(shared / "one") == before
    assert names(shared) == ["one", "two"]
    assert len(data.read(shared / "one/raw")) == sum(N_ROWS)
    assert len(data.read(shared / "two/raw")) == 10
