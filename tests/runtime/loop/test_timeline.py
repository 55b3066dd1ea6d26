"""A replayed year is a year: what happened during it is shown when it was for the model."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.core.project import Project
from mlops_ladder.loop import dashboard, prediction_log, timeline
from projects import FLIGHTS, ROOT

HERE, THERE = datetime(2026, 11, 30, 10), datetime(2013, 4, 1)
YEAR = [(HERE, THERE), (HERE + timedelta(minutes=9), THERE + timedelta(days=270)), (HERE + timedelta(minutes=10), THERE + timedelta(days=270))]  # fmt: skip


def test_between_two_moments_of_a_replay_time_goes_on_evenly_and_outside_it_is_the_clocks() -> None:
    clock = timeline.Timeline([YEAR])
    assert clock.at(HERE + timedelta(minutes=3)) == THERE + timedelta(days=90)
    assert clock.at(HERE + timedelta(minutes=9.5)) == THERE + timedelta(days=270), (
        "while the loop works it stands still"
    )
    assert clock.at(HERE - timedelta(hours=1)) == THERE - timedelta(hours=1), "its model was trained just before"
    assert clock.at(HERE + timedelta(minutes=10, hours=1)) == THERE + timedelta(days=270, hours=1)
    for far in (HERE - timedelta(days=2), HERE + timedelta(days=2)):
        assert clock.at(far) == far == timeline.Timeline([]).at(far)
    first, last = clock.here(THERE, THERE + timedelta(days=10))
    assert first < HERE and last > HERE + timedelta(minutes=10)
    assert clock.here(HERE + timedelta(days=2), HERE + timedelta(days=9)) == (
        HERE + timedelta(days=2),
        HERE + timedelta(days=9),
    )


def test_the_days_of_the_dashboard_are_those_that_the_rows_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(FLIGHTS.package, FLIGHTS.source.resolve(), tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    for name in ("prediction_log", "data"):
        (tmp_path / f"conf/{name}.yml").write_text((ROOT / f"conf/{name}.yml").read_text())
    timeline.add(project, YEAR)
    log = prediction_log.open_log(project)
    log.write(
        [{"request_id": f"r{n}", "at": HERE + timedelta(seconds=n), "version": "1", "prediction": 0.2, "seconds": 0.01, "inputs": {}}
         for n in range(0, 540, 2)],
        [{"at": HERE + timedelta(seconds=60), "version": "1", "status": 500}],
    )  # fmt: skip
    days = dashboard.by_day(project, log, THERE, THERE + timedelta(days=275), timeline.read(project))
    assert len(days) == 270 and (days[0]["day"], days[-1]["day"]) == ("2013-04-01", "2013-12-26")
    assert [day["day"] for day in days if day["failures"]] == ["2013-05-01"]
    assert len(dashboard.by_day(project, log, HERE, HERE + timedelta(days=1))) == 1, "on this machine's clock"


def test_a_file_that_is_no_timeline_says_what_to_do(tmp_path: Path) -> None:
    project = Project(FLIGHTS.package, FLIGHTS.source.resolve(), tmp_path)
    timeline.add(project, YEAR)
    timeline.add(project, YEAR)
    assert len(timeline.stored(project)) == 2
    (tmp_path / timeline.FILE).write_text("{}")
    with pytest.raises(ProjectError, match="timeline.json is no timeline of replays: delete it"):
        timeline.read(project)
