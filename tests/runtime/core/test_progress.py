"""Progress stands on a terminal, with an estimate, and nowhere else."""

import io
import sys

import pytest
from mlops_ladder.core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    monkeypatch.setattr(progress, "EACH_S", 0.0)


def test_a_terminal_sees_how_far_it_is_and_is_left_clean(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(progress.Steps("gates", 2).over(["quality", "slices"])) == ["quality", "slices"]
    assert "gates: 1 of 2 (slices), 0 s, about 0 s left" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_a_pipe_a_log_and_what_is_soon_over_see_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        assert list(progress.Steps("gates", 2).over("ab")) == ["a", "b"]
    assert screen.getvalue() == ""
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    monkeypatch.setattr(progress, "EACH_S", 0.0)
    assert list(progress.Steps("gates", 2).over("ab")) == ["a", "b"]
    progress.say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_the_estimate_is_what_is_left_at_the_speed_so_far() -> None:
    assert progress.Steps("replay", 400).line(100, 60, "June") == "replay: 100 of 400 (June), 60 s, about 3 min left"
    assert progress.Steps("replay", 400).line(0, 60) == "replay: 0 of 400, 60 s"
    assert progress.duration(9_000) == "2.5 h"
