"""Who is let in by keys and limits, asked of the guard itself: no service, no clock that matters."""

import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path

import prometheus_client as prometheus
import pytest
from flight_delays.__main__ import main
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.serving import keys
from mlops_ladder.serving.limits import Guard, Known, Limits, Turned
from projects import FLIGHTS

LIMITS = Limits(require_key=False, rate_per_s=0.001, burst=4, at_once=3, deadline_s=5)  # 1,000 s until another may come


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERVICE_KEYS", raising=False)


@pytest.fixture
def add(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Make a key and return it: `add(name, scope)`."""

    def add(name: str, scope: str = "predict") -> str:
        capsys.readouterr()
        assert main(["keys", "add", name, "--scope", scope]) == 0
        return capsys.readouterr().out.strip()

    return add


def guard(limits: Limits = LIMITS) -> Guard:
    """Return the guard of a service that starts now."""
    registry = prometheus.CollectorRegistry()
    turned = prometheus.Counter("turned_away", "By status.", ["status"], registry=registry)
    return Guard(lambda *_: None, limits, Known(FLIGHTS, limits, registry), turned, [])  # type: ignore[arg-type,return-value]


def ask(
    of: Guard, key: str | None = None, path: str = "/predict", address: str = "10.0.0.1", kind: str = "Bearer"
) -> int:
    """Return with which status a request is turned away, 200 when it is not."""
    headers = [(b"authorization", f"{kind} {key}".encode())] if key else []
    try:
        of.admit({"type": "http", "path": path, "client": (address, 1), "headers": headers})
    except Turned as turned:
        return turned.args[0]
    return 200


@pytest.mark.practice("endpoint-security")
def test_the_last_key_removed_opens_nothing(add: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    open_to_all = guard()
    assert not keys.asked(FLIGHTS) and ask(open_to_all, path="/metrics") == 200
    first, second = add("first"), add("second")
    served = guard()
    assert (ask(served, first), ask(served, second), ask(served)) == (200, 200, 401)
    for name, last in (("first", False), ("second", True)):
        assert main(["keys", "remove", name]) == 0
        told = capsys.readouterr().out
        assert told.startswith(f"removed the key of {name}\n")
        assert ("it was the last, so nobody is answered" in told) is last
    served.known.look()
    assert [ask(one, key) for one in (served, guard()) for key in (first, second, None)] == [401] * 6
    assert keys.FILE.read_text() == "" and keys.asked(FLIGHTS)
    keys.FILE.unlink()
    assert ask(guard()) == 401, "nor is it open when the file is gone"
    keys.MADE.unlink()
    assert ask(guard()) == 200, "whoever opens it to all deletes both"


@pytest.mark.practice("endpoint-security")
def test_a_scope_opens_what_it_is_for(add: Callable[..., str]) -> None:
    user, boss, served = add("user"), add("boss", "admin"), guard(LIMITS.model_copy(update={"burst": 100}))
    for path in ("/predict", "/second/predict", "/model", "/docs", "/openapi.json", "/"):
        assert ask(served, user, path) == ask(served, boss, path) == 200
        assert ask(served, None, path) == 401
    for path in ("/metrics", "/feedback", "/predictions"):
        assert (ask(served, user, path), ask(served, boss, path)) == (403, 200)
    assert (ask(served, user, kind="bearer"), ask(served, user, kind="Basic")) == (200, 401)


@pytest.mark.practice("endpoint-security")
def test_each_caller_has_requests_of_its_own(add: Callable[..., str]) -> None:
    served = guard()
    assert [ask(served) for _ in range(6)] == [200] * 4 + [429] * 2
    assert ask(served, address="10.0.0.2") == 200
    user, other = add("user"), add("other")
    served = guard()
    assert [ask(served, user) for _ in range(6)] == [200] * 4 + [429] * 2
    assert ask(served, other) == 200, "from the same address"
    assert [ask(served, "guessed") for _ in range(6)] == [401] * 4 + [429] * 2
    assert ask(served, address="10.0.0.2") == 401, "of another address"
    assert [ask(served, address=f"2001:db8::{n}") for n in range(6)] == [401] * 4 + [429] * 2, "one machine"


@pytest.mark.practice("endpoint-security")
def test_no_more_at_once_than_the_limit(add: Callable[..., str]) -> None:
    served = guard()
    served.running = 3
    assert ask(served) == 200
    served.running = 4
    assert ask(served) == 503


@pytest.mark.practice("endpoint-security")
def test_keys_may_be_asked_for_before_there_is_one_and_may_come_from_outside(
    add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(guard(LIMITS.model_copy(update={"require_key": True}))) == 401
    monkeypatch.setenv("SERVICE_KEYS", "")
    assert ask(guard()) == 401, "set and empty is closed"
    monkeypatch.setenv("SERVICE_KEYS", f"desk admin {keys.hashed('secret')}\n\n")
    assert (ask(guard(), "secret", "/metrics"), ask(guard(), "secrets")) == (200, 401)
    for wrong in ("desk owner " + "0" * 64, "desk admin " + "0" * 63, f"desk admin {'0' * 64} more", "desk"):
        monkeypatch.setenv("SERVICE_KEYS", f"a predict {'1' * 64}\n{wrong}")
        with pytest.raises(ProjectError, match="SERVICE_KEYS, line 2, is not `NAME SCOPE SHA256`"):
            guard()


@pytest.mark.practice("endpoint-security")
def test_keys_are_listed_by_name_and_scope_and_what_is_none_is_refused(
    add: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    add("boss", "admin")
    assert main(["keys", "add", "user"]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().out == "boss admin\nuser predict\n"
    for words, code, why in (
        (["add", "user"], 1, "user has a key: remove it first"),
        (["remove", "nobody"], 1, "no key of nobody; there are: boss, user"),
        (["add"], 2, "name is None, must be letters"),
        (["add", "two words"], 2, "name is two words, must be letters"),
    ):
        assert main(["keys", *words]) == code
        assert why in capsys.readouterr().err
    for words in (["rename", "user"], ["add", "other", "--scope", "owner"]):
        with pytest.raises(SystemExit, match="2"):
            main(["keys", *words])
    assert [name for name, _ in keys.read(FLIGHTS).values()] == ["boss", "user"]


@pytest.mark.practice("endpoint-security")
def test_a_key_is_256_random_bits_and_its_hash_is_for_the_owner_alone(add: Callable[..., str]) -> None:
    made = {add(f"caller{number}") for number in range(3)}
    assert len(made) == 3 and {len(base64.urlsafe_b64decode(f"{key}=")) for key in made} == {32}
    if os.name != "nt":
        assert stat.S_IMODE(keys.FILE.stat().st_mode) == 0o600
    assert not any(key in keys.FILE.read_text(encoding="utf-8") for key in made)


@pytest.mark.practice("endpoint-security")
def test_what_cannot_be_removed_or_read_is_named(
    add: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["keys", "remove", "nobody"]) == 1
    assert "no key of nobody; there are: none" in capsys.readouterr().err
    add("shop"), add("desk")
    assert main(["keys", "remove", "shopp"]) == 1
    assert "no key of shopp; there are: shop, desk" in capsys.readouterr().err
    monkeypatch.setenv("SERVICE_KEYS", f"outside predict {'0' * 64}")
    assert main(["keys", "remove", "outside"]) == 1
    assert "outside has a key in SERVICE_KEYS: take it out there" in capsys.readouterr().err
    assert main(["keys", "remove", "desk"]) == 0
    assert capsys.readouterr().out == "removed the key of desk\n"
    keys.FILE.write_text("shop predict\n", encoding="utf-8")
    assert main(["keys", "list"]) == 1
    assert f"{keys.FILE}, line 1, is not `NAME SCOPE SHA256`" in capsys.readouterr().err
    keys.FILE.write_bytes(b"\xff\xfe")
    assert main(["keys", "list"]) == 1
    assert "data/keys is no text: bring it back" in capsys.readouterr().err
    keys.FILE.unlink()
    keys.FILE.mkdir()
    assert main(["keys", "list"]) == 1
    assert "data/keys cannot be read (Is a directory): mend it" in capsys.readouterr().err
