"""Which version an environment has in use, told from what was deployed and rolled back there, in whatever order."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as some
from mlops_ladder.release import deploy, environments


def record(kind: str, copy: str, before: str = "none") -> dict[str, str]:
    return {"kind": kind, "copy": copy, "version": copy, "before": before}


@pytest.mark.practice("model-rollback")
@given(some.lists(some.sampled_from(["1", "2", "3", "back"]), max_size=12))
def test_what_is_in_use_is_what_was_deployed_and_not_taken_back(words: list[str]) -> None:
    """A model of it: a pile, from which a rollback takes the uppermost."""
    pile: list[str] = []
    told: list[dict[str, str]] = []
    for word in words:
        if word == "back" and pile:
            gone = pile.pop()
            told.append(record("rollback", pile[-1] if pile else "none", gone))
        elif word != "back" and pile[-1:] != [word]:  # what is in use already is not deployed again
            told.append(record("deploy", word, pile[-1] if pile else "none"))
            pile.append(word)
    newest_first = told[::-1]
    assert [one["copy"] for one in environments.in_use(newest_first)] == pile
    assert deploy.now(newest_first).get("version") == (pile[-1] if pile else None)


@pytest.mark.practice("model-rollback")
def test_what_was_in_use_at_a_moment_is_what_was_released_last_before_it() -> None:
    first, second = datetime(2026, 3, 1, 10), datetime(2026, 3, 2, 10)
    told = [{"at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "version": name} for at, name in ((second, "2"), (first, "1"))]
    one_second, east = timedelta(seconds=1), timezone(timedelta(hours=2))
    for moment, version in (
        (first - one_second, None),
        (first, "1"),
        (second - one_second, "1"),
        (second, "2"),
        (second.replace(tzinfo=UTC), "2"),
        (second.replace(tzinfo=east), "1"),
        (second.replace(tzinfo=east) + timedelta(hours=2), "2"),
    ):
        assert [one["version"] for one in deploy.in_use_at(told, moment)] == ([version] if version else []), moment
    taken_back = [{"at": "2026-03-03T10:00:00Z", "version": "none"}, *told]
    assert deploy.in_use_at(taken_back, datetime(2026, 3, 4)) == []
