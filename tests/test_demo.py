"""`nox -s demo` runs the main job of the highest level from nothing, and again over itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LEVELS, ROOT


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/demo.py", str(folder), "--list"]  # test_generated.py runs the evidence
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_demo_runs_the_main_job_and_says_what_to_look_at(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / ".copier-answers.yml").write_text("left by an earlier demo\n")
    done = demo(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"== Done: level {LEVELS[-1]} in " in done.stdout
    for line in done.stdout.partition("Look at\n")[2].splitlines():
        if line.startswith(f"   {folder}/"):
            assert Path(line.split()[0]).exists(), line
    assert (folder / "models/HANDOFF.md").is_file()
    assert (folder / "data/scored.csv").read_text().splitlines()[0].endswith(",late_probability")
    assert re.search(r"^response +request \S+ was answered by version 1$", done.stdout, re.MULTILINE)
    asked = re.findall(r'^\{.*"model_version": ?"(\d)".*\}$', done.stdout, re.MULTILINE)
    assert asked == ["1", "2", "1"], "the service follows a deployment and a rollback by itself"
    assert "maturity-self-assessment" in done.stdout.partition("== Show the practices")[2]


def test_demo_leaves_a_strange_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep\n")
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "holds no project: it is left alone" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "keep\n"
