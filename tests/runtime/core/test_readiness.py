"""`maturity --questions` scores the answers in docs/readiness.toml."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT

QUESTIONS = Path("docs/readiness.toml")
PROJECT = ROOT


def questions(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flight_delays", "maturity", "--questions", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two questions, one of weight 3 answered yes and one of weight 1 answered no."""
    (tmp_path / QUESTIONS).parent.mkdir()
    (tmp_path / QUESTIONS).write_text(
        '[data.reach]\nquestion = "Reachable?"\nanswer = "yes"\nweight = 3\n'
        '[strategy.champion]\nquestion = "A champion?"\nanswer = "no"\nweight = 1\n'
    )
    return tmp_path


@pytest.mark.practice("enterprise-data-readiness", "ml-champions")
def test_readiness_of_the_data_and_of_the_champions_is_scored(folder: Path) -> None:
    shutil.copy(PROJECT / QUESTIONS, folder / QUESTIONS)
    text = (folder / QUESTIONS).read_text(encoding="utf-8")
    (folder / QUESTIONS).write_text(re.sub(r'^answer = ".*"$', 'answer = "yes"', text, flags=re.MULTILINE))
    done = questions(folder, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)["readiness"]
    assert scores["data"]["score"] == scores["strategy"]["score"] == scores["all"]["score"] == 100


def test_an_answer_counts_by_its_weight_and_the_worst_is_named_first(folder: Path) -> None:
    done = questions(folder)
    assert "all         75 of 100" in done.stdout
    assert "raise first: strategy.champion (no): A champion?" in done.stdout


def test_an_open_question_does_not_count(folder: Path) -> None:
    text = (folder / QUESTIONS).read_text()
    (folder / QUESTIONS).write_text(text.replace('"no"', '""'))
    assert "all        100 of 100   1 of 2 questions answered" in questions(folder).stdout


@pytest.mark.parametrize(
    ("old", "new"), [('"yes"', '"maybe"'), ("weight = 3", "weight = 0"), ('question = "Reachable?"\n', "")]
)
def test_a_question_that_is_off_is_named(folder: Path, old: str, new: str) -> None:
    text = (folder / QUESTIONS).read_text()
    (folder / QUESTIONS).write_text(text.replace(old, new))
    done = questions(folder)
    assert done.returncode == 1
    assert "data.reach" in done.stderr and "Traceback" not in done.stderr
