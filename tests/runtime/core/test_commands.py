"""What `python -m PACKAGE` answers before any command has work to do."""

import pytest
from flight_delays.__main__ import main


def test_the_package_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr()
    assert main(["--help"]) == 0
    assert alone.out == capsys.readouterr().out and alone.err == ""
    assert "\n  score " in alone.out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scor"]) == 2
    assert "do you mean score?" in capsys.readouterr().err
