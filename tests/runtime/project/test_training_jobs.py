"""The workflows of level 2 run commands that a person can type, on a schedule, in a queue, and release nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlops_ladder.core import commands
from mlops_ladder.training import comparison, pipeline
from projects import FLIGHTS, ROOT

WORKFLOWS = ROOT / ".github/workflows"
TRAINING = [WORKFLOWS / "train.yml", WORKFLOWS / "train-sample.yml"]


def read(file: Path) -> dict[str, Any]:
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {"on": document.pop(True, None), **document}  # YAML reads the key `on` as true


def lines(file: Path) -> list[str]:
    return [step["run"] for job in read(file)["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.practice("same-cli-in-automation", "train-in-ci", "sampled-ci-build")
@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_a_workflow_trains_with_the_command_that_a_person_types(file: Path) -> None:
    typed = [line for line in lines(file) if line.startswith("uv run nox -s run -- ")]
    assert typed and typed == lines(file)
    words = typed[0].removeprefix("uv run nox -s run -- ").split()
    assert set(words) & {"train"} and words[0] in commands.known(FLIGHTS)
    assert ("--sample" in words) == (file.stem == "train-sample")


@pytest.mark.practice("scheduled-training")
def test_training_is_scheduled_and_waits_for_its_turn() -> None:
    workflow = read(TRAINING[0])
    [schedule] = workflow["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ (\*|\d+) (\*|\d+) (\*|\d)", schedule["cron"])
    assert "workflow_dispatch" in workflow["on"]
    assert workflow["concurrency"] == {"group": "train", "cancel-in-progress": False}


@pytest.mark.practice("pipeline-failure-alerts")
def test_a_scheduled_training_that_fails_tells_somebody() -> None:
    assert lines(TRAINING[0])[0].startswith("uv run nox -s run -- notify train")


@pytest.mark.practice("low-friction-manual-release")
def test_no_workflow_releases_a_model() -> None:
    for file in WORKFLOWS.glob("*.yml"):
        assert not [line for line in lines(file) if "promote" in line.split()], file.name


@pytest.mark.practice("experiment-operations-symmetry", "job-specs-as-code", "modular-components")
def test_each_stage_is_the_same_command_wherever_it_runs() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    described: dict[str, Any] = yaml.safe_load(text)["stages"]
    assert tuple(described) == pipeline.STAGES
    for name, stage in described.items():
        assert stage["cmd"] == f"python -m flight_delays train --stage {name}"


@pytest.mark.practice("continuous-experimentation")
def test_a_pull_request_is_told_how_it_compares_with_the_champion(trained: Path) -> None:
    result = json.loads((trained.parent / "result.json").read_text(encoding="utf-8"))
    name, value = result["primary"], result["metrics"]["test"][result["primary"]]
    champion = {"version": "1", "metrics": {**result["metrics"]["test"], name: value - 0.01}}
    told = comparison.markdown(FLIGHTS, {**result, "champion": champion})
    assert re.search(rf"\| \*\*{name}\*\* \| {value:.4f} \|.* {value - 0.01:.4f} \| (better|worse) by 0.0100 \|", told)
    assert "no champion to compare with yet" in comparison.markdown(FLIGHTS, {**result, "champion": None})
