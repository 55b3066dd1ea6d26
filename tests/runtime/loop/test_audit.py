"""The audit log: who did what, when and why stands in it, and whoever touches it is found out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from flight_delays.__main__ import main
from mlops_ladder.core.project import Project
from mlops_ladder.loop import audit
from mlops_ladder.training import tracking
from projects import FLIGHTS

LINES = 6


@pytest.fixture(scope="module")
def recorded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a log of LINES lines."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copytree(trained / "conf", folder / "conf")
    shutil.copy(trained.parent / "empty.db", folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLOPS_ACTOR", "loop@example.org")
        for number in range(1, LINES + 1):
            audit.record(FLIGHTS, "deploy", f"version {number}", f"reason {number}", environment="prod")
    return folder


@pytest.fixture
def project(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(recorded, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "project"


def rewrite(change: Callable[[list[str]], Any]) -> None:
    lines = audit.path(FLIGHTS).read_text().splitlines()
    change(lines)
    audit.path(FLIGHTS).write_text("".join(f"{line}\n" for line in lines))


def chained(lines: list[str]) -> None:
    """Change the third line and then each hash, as somebody does who knows how the log is made."""
    made, before = [json.loads(line) for line in lines], audit.FIRST
    made[2]["why"] = "another reason"
    for number, one in enumerate(made):
        one["before"] = before
        one["hash"] = before = audit.digest(one)
        lines[number] = json.dumps(one)


def forged(lines: list[str]) -> None:
    """Put in place of the third line one that names nothing before it, its own hash right."""
    one = {key: value for key, value in json.loads(lines[2]).items() if key != "before"}
    lines[2] = json.dumps(one | {"hash": audit.digest(one)})


@pytest.mark.practice("audit-trail")
def test_the_log_says_who_did_what_when_and_why(project: Path, run: Any) -> None:
    assert run("audit", "verify", "--json") == {"lines": LINES, "not_anchored": 0}
    told = run("audit", "show", "--action", "deploy", "--json")
    assert [(one["who"], one["subject"], one["why"]) for one in told][:2] == [
        ("loop@example.org", "version 1", "reason 1"),
        ("loop@example.org", "version 2", "reason 2"),
    ]
    assert told[0]["at"] <= told[-1]["at"] and told[0]["facts"] == {"environment": "prod"}
    assert run("audit", "show", "--since", "2100-01-01").strip() == "nothing"
    an_hour_ago = datetime.now(UTC).astimezone(timezone(timedelta(hours=9))) - timedelta(hours=1)
    assert len(run("audit", "show", "--since", an_hour_ago.isoformat(), "--json")) == LINES, "a zone counts"


@pytest.mark.practice("audit-trail")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.__setitem__(2, lines[2].replace("reason 3", "reason 8")), "line 3 was changed"),
        (lambda lines: lines.pop(2), "line 3 does not follow line 2"),
        (lambda lines: lines.pop(), f"the store knows of {LINES} lines, there are {LINES - 1}"),
        (lambda lines: lines.clear(), f"the store knows of {LINES} lines, there are 0"),
        (lambda lines: lines.insert(1, lines.pop(3)), "line 2 does not follow line 1"),
        (lambda lines: lines.insert(1, lines[0]), "line 2 does not follow line 1"),
        (chained, f"line {LINES} is not the one that the store knows of"),
        (lambda lines: lines.__setitem__(2, lines[2][:30]), "line 3 is damaged"),
        (forged, "line 3 does not follow line 2"),
    ],
    ids=[
        "changed",
        "removed",
        "removed at the end",
        "all removed",
        "moved",
        "repeated",
        "written anew",
        "cut off",
        "forged",
    ],
)
def test_a_touched_line_is_found(project: Path, run: Any, change: Callable[[list[str]], Any], said: str) -> None:
    rewrite(change)
    assert said in run("audit", "verify", exit_code=3)


@pytest.mark.practice("audit-trail")
def test_an_anchor_outside_finds_a_log_that_was_written_anew_together_with_what_the_store_knows(
    project: Path, run: Any
) -> None:
    assert run("audit", "anchor", "--to", "../archive/1.txt").startswith(f"audit {LINES} ")
    assert "is there already" in run("audit", "anchor", "--to", "../archive/1.txt", exit_code=2)
    audit.record(FLIGHTS, "test", "version 7", "since then")
    run("audit", "verify", "--anchor", "../archive/1.txt")
    rewrite(chained)
    client, experiment = audit.place(FLIGHTS)
    last = json.loads(audit.texts(FLIGHTS)[-1])
    client.set_experiment_tag(experiment, audit.ANCHOR, f"{last['n']} {last['hash']}")
    run("audit", "verify")
    found = run("audit", "verify", "--anchor", "../archive/1.txt", exit_code=3)
    assert f"line {LINES} is not the one that the anchor ../archive/1.txt knows of" in found
    assert "no file and no tag" in run("audit", "verify", "--anchor", "nowhere", exit_code=1)
    Path("note.txt").write_text("all is well\n")
    assert "is no anchor" in run("audit", "verify", "--anchor", "note.txt", exit_code=1)
    assert "--to FILE" in run("audit", "anchor", exit_code=2)


@pytest.mark.practice("audit-trail")
def test_a_signed_tag_is_an_anchor_and_one_that_another_key_signed_is_none(project: Path, run: Any, git: Any) -> None:
    git("init", "--quiet")
    for key, value in {"user.name": "Ada", "user.email": "ada@example.org", "gpg.format": "ssh"}.items():
        git("config", key, value)
    git("commit", "--quiet", "--allow-empty", "--message", "Start")
    for key in ("hers", "another"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"../{key}"], check=True)
    signers = Path("conf/signers")
    signers.write_text(f"ada@example.org {Path('../hers.pub').read_text()}")
    git("config", "gpg.ssh.allowedSignersFile", str(signers.resolve()))
    git("config", "user.signingkey", str(Path("../hers.pub").resolve()))
    run("audit", "anchor", "--tag", "audit-1")
    run("audit", "verify", "--anchor", "audit-1")
    git("config", "user.signingkey", str(Path("../another.pub").resolve()))
    run("audit", "anchor", "--tag", "audit-2")
    assert "signature of tag audit-2 does not hold" in run("audit", "verify", "--anchor", "audit-2", exit_code=3)
    assert "the tag audit-1 was not made" in run("audit", "anchor", "--tag", "audit-1", exit_code=1)


@pytest.mark.practice("audit-trail")
def test_bytes_that_are_no_text_are_found(project: Path, run: Any) -> None:
    content = audit.path(FLIGHTS).read_bytes()
    audit.path(FLIGHTS).write_bytes(content.replace(b"reason 3", b"reason \xff"))
    assert "line 3 was changed" in run("audit", "verify", exit_code=3)
    assert "reason 4" in run("audit", "show")
    audit.path(FLIGHTS).write_bytes(content.replace(b'{"n": 3', b"\xff"))
    assert "line 3 is damaged" in run("audit", "verify", exit_code=3)
    assert "is damaged" in run("audit", "show", exit_code=3)


@pytest.mark.practice("audit-trail")
def test_a_line_that_is_recorded_while_the_log_is_read_is_not_missed(
    project: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = audit.texts

    def slowly(project: Project) -> list[str]:
        monkeypatch.setattr(audit, "texts", texts)
        told = texts(project)
        audit.record(FLIGHTS, "test", "version 7", "meanwhile")
        return told

    monkeypatch.setattr(audit, "texts", slowly)
    assert run("audit", "verify", "--json")["lines"] == LINES


@pytest.mark.practice("audit-trail")
def test_lines_that_were_removed_are_still_missed_when_others_were_recorded_since(project: Path, run: Any) -> None:
    rewrite(lambda lines: lines.__delitem__(slice(-2, None)))
    for number in range(3):
        audit.record(FLIGHTS, "test", f"version {number}", "after the removal")
    assert f"line {LINES} is not the one that the store knows of" in run("audit", "verify", exit_code=3)


@pytest.mark.practice("audit-trail")
def test_a_reason_may_hold_any_character(project: Path, run: Any) -> None:
    why = "a line\u2028and another\x85 or\r\ntwo"
    audit.record(FLIGHTS, "test", "version 7", why)
    with audit.path(FLIGHTS).open("a") as log:
        log.write('{"n": 99, "why": "killed whi')
    assert run("audit", "verify", "--json")["lines"] == LINES + 1
    assert run("audit", "show", "--json")[-1]["why"] == why


@pytest.mark.practice("audit-trail")
def test_writers_at_once_and_killed_ones_leave_a_whole_chain(project: Path, run: Any) -> None:
    code = "import sys; from flight_delays.__main__ import PROJECT; from mlops_ladder.loop import audit\n"
    code += "audit.anchor = lambda project, line: None\n"
    code += "for _ in range(20): audit.record(PROJECT, 'test', sys.argv[1], 'at once')"
    command = [sys.executable, "-c", code]
    writers = [subprocess.Popen([*command, str(one)], env=os.environ | {"MLOPS_ACTOR": "writer"}) for one in range(3)]
    assert [one.wait() for one in writers] == [0, 0, 0]
    with audit.path(FLIGHTS).open("a") as log:
        log.write('{"n": 99, "why": "killed whi')  # a kill in the middle of a write
    audit.record(FLIGHTS, "test", "after the kill", "the next one")
    assert run("audit", "verify", "--json") == {"lines": LINES + 61, "not_anchored": 0}


def test_the_log_goes_on_while_the_store_is_away(project: Path, run: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        audit.record(FLIGHTS, "test", "version 7", "the store is away")
    assert "the store has not heard of the last 1" in run("audit", "verify")


@pytest.mark.practice("audit-trail")
def test_what_cannot_be_recorded_is_not_done(workplace: Path, run: Any) -> None:
    shutil.rmtree("audit")  # of the store that `trained` has
    assert main(["train", "--json"]) == 0
    assert [one["action"] for one in run("audit", "show", "--json")] == ["register"]
    Path("audit/audit.jsonl").write_text("damaged\n")
    assert "is damaged" in run("promote", "1", "--reason", "why", exit_code=1)
    chosen, client = tracking.open_store(FLIGHTS)
    assert "champion" not in tracking.aliases(client, chosen.model)
    Path("audit/audit.jsonl").unlink()
    run("promote", "1", "--reason", "better in winter")
    [line] = run("audit", "show", "--json")
    assert (line["action"], line["who"], line["why"]) == ("promote", "ada@example.org", "better in winter")
