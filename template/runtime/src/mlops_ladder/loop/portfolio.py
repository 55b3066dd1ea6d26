"""Look at several projects of this kind at once: level, versions in use, health, cost; or run a command in each.

python -m {package} portfolio ../flights ../trains
python -m {package} portfolio ../*/ --price 0.05                 # of an hour of computing, for the cost
python -m {package} portfolio ../*/ --run uvx copier update --defaults --conflict inline

In a command `package` between curly braces stands for each project's own package. Exit 3 when a project is not well, or a command
failed in one; the others were looked at all the same.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from ..core import settings
from ..core.errors import Refused, UsageError
from ..core.progress import say
from ..core.project import Project
from ..data.rows import read_note
from ..release import environments, releasing
from ..training import pipeline, tracking
from ..training.pipeline import Training
from . import experiment

ANSWERS = ".copier-answers.yml"
REPORTS = Path("reports/monitoring")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="+", type=Path, help="a project's folder; what is none is left out")
    parser.add_argument("--price", type=float, default=0.0, help="of an hour of computing (default: hours are told)")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="WORD", help="run this in each instead")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    folders = [folder for folder in options.folder if (folder / ANSWERS).is_file()]
    if not folders:
        raise UsageError(f"none of {len(options.folder)} folders is a project: {ANSWERS} tells one")
    told = [in_each(folder, options.run) if options.run else look(folder, options.price) for folder in folders]
    print(json.dumps(told) if options.json else "\n".join(map(sentence, told)))
    if ill := [one["project"] for one in told if one["health"] != "well"]:
        raise Refused(f"{len(ill)} of {len(told)} projects need a person: {', '.join(ill)}")


def look(folder: Path, price: float) -> dict[str, Any]:
    """Return what there is to know of the project in FOLDER, as far as its level has it; nothing there is changed."""
    told = answers(folder) | {"in_use": {}, "trained_hours": 0.0, "cost": 0.0, "on_trial": None, "health": "well"}
    problems: list[str] = []
    other = Project(told["package_name"], folder / "src" / told["package_name"], folder)
    try:
        if told["level"] < 2:
            note = other.path("models/HANDOFF.md")
            told["in_use"] = {"hand-off": read_note(note)["sha256"][:12]} if note.is_file() else {}
        else:
            problems += registered(other, told)
        for report in sorted(other.path(REPORTS).glob("*.json"))[-1:]:
            signals = json.loads(report.read_text(encoding="utf-8"))["signals"]
            fired = [one["name"] for one in signals if one["fired"]]
            problems += [f"{len(fired)} signals fired: {', '.join(fired)}"] if fired else []
    except Exception as error:  # noqa: BLE001 - of another template version, half configured: told, never hidden
        problems.append(f"cannot be read: {str(error).partition(chr(10))[0]}")
    told["cost"] = round(told["trained_hours"] * price, 2)
    return told | ({"health": "; ".join(problems)} if problems else {})


def answers(folder: Path) -> dict[str, Any]:
    text = (folder / ANSWERS).read_text(encoding="utf-8")
    found = dict(re.findall(r"^(\w+): (.+)$", text, re.MULTILINE))
    told = {key: found.get(key, "unknown").strip("'\"") for key in ("package_name", "_commit")}
    return {"project": folder.resolve().name, "level": int(found.get("level", 0)), **told}


def registered(project: Project, told: dict[str, Any]) -> list[str]:
    """Add to TOLD what the stores of PROJECT hold; return what is wrong."""
    if pipeline.lost_store(project, settings.read(project, "training", Training)):
        return ["the store of its runs is not here"]
    chosen, client = tracking.open_store(project)
    runs = tracking.search(project, client)
    told["trained_hours"] = sum(run.data.metrics.get("fit_seconds", 0.0) for run in runs) / 3600
    if told["level"] == 2:
        there = tracking.aliases(client, chosen.model)
        told["in_use"] = {"dev": there["champion"]} if "champion" in there else {}
        return []

    problems = []
    for name in [one for one in environments.names(project) if one != "dev"]:
        uri = environments.read(project, name).tracking_uri
        if pipeline.lost_store(project, settings.read(project, "training", Training, {"tracking_uri": uri})):
            continue  # nothing was ever deployed there: opening it would make it
        chosen, client = environments.open_store(project, name)
        if copy := environments.find_copy(client, chosen.model):
            version = told["in_use"][name] = copy.tags["origin_version"]
            for url in environments.read(project, name).endpoints:
                if (said := releasing.answering(url)) != f"200 {version}":
                    problems.append(f"{name}: {url} answers {said or 'nothing'}, must be 200 {version}")
        if found := experiment.running(client, chosen.model):
            told["on_trial"] = f"{name}: version {found[1].challenger}, {found[1].mode} {found[1].share:g}"
    return problems


def in_each(folder: Path, words: list[str]) -> dict[str, Any]:
    """Run WORDS in FOLDER; its output goes to stderr."""
    told = answers(folder)
    say(f"{told['project']}: {' '.join(words)}")
    done = subprocess.run(
        [word.replace("{package}", told["package_name"]) for word in words], cwd=folder, stdout=2, check=False
    )
    return answers(folder) | {"health": "well" if done.returncode == 0 else f"exit code {done.returncode}"}


def sentence(told: dict[str, Any]) -> str:
    line = f"{told['project']:<24}level {told['level']}  "
    if "in_use" in told:
        in_use = ", ".join(f"{name} {version}" for name, version in told["in_use"].items()) or "nothing in use"
        cost = f"cost {told['cost']:.2f}" if told["cost"] else f"trained {told['trained_hours']:.2f} h"
        line += f"{in_use}  {cost}  " + (f"on trial {told['on_trial']}  " if told["on_trial"] else "")
    return line + told["health"]
