"""`nox -s demo` runs the main job of a level from nothing, and again over itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LEVELS, ROOT


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/demo.py", str(folder), *words]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def look_at(done: subprocess.CompletedProcess[str], folder: Path, level: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"== Done: level {level} in " in done.stdout
    named = [line for line in done.stdout.partition("Look at\n")[2].splitlines() if line.startswith(f"   {folder}/")]
    assert named
    for line in named:
        assert Path(line.split()[0]).exists(), line


@pytest.mark.slow
def test_demo_runs_the_main_job_and_says_what_to_look_at(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / ".copier-answers.yml").write_text("left by an earlier demo\n")
    done = demo(folder, "--level", "1")  # tests/test_docs.py types what a person types at the levels between
    look_at(done, folder, "1")
    assert (folder / "models/HANDOFF.md").is_file()
    assert (folder / "data/scored.csv").read_text().splitlines()[0].endswith(",late_probability")
    assert re.search(r'^\{.*"predictions": ?\[0\.\d+\]', done.stdout, re.MULTILINE)
    assert f"cd {folder} && uv run python -m flights maturity" in done.stdout, "the practices are left to it"


@pytest.mark.slow
def test_demo_replays_months_in_which_one_version_is_promoted_and_another_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = demo(folder, "--fast")
    look_at(done, folder, str(LEVELS[-1]))
    told = json.loads((folder / "reports/simulation/summary.json").read_text())
    outcomes = [one["outcome"] for one in told["retrainings"]]
    assert "promoted" in outcomes and {"refused", "aborted"} & {*outcomes}
    assert re.search(r"^\d{4}-\d\d .* roc_auc 0\.\d+ -> 0\.\d+  brier 0\.\d+ -> 0\.\d+", done.stdout, re.MULTILINE)
    last = told["months"][-1]
    assert last["loop"]["brier"] < last["frozen"]["brier"], "it was worth it"
    assert {name for name in told["counts"] if name.startswith("requests")} == {"requests answered 200"}


def test_demo_leaves_a_strange_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep\n")
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "holds no project: it is left alone" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "keep\n"
