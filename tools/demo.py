"""Render the highest level into a folder, run its main job on real flights, and say what to look at.

    python tools/demo.py FOLDER [--level N] [--fast]

FOLDER is made afresh each time. A step whose command the level does not have is left out. At level 4 the year 2013 goes by:
the model of January to March is in use, each flight is asked about at its time, and whatever happens then the loop does.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import copier

ROOT = Path(__file__).resolve().parent.parent
LEVELS = sorted(int(folder.name[0]) for folder in ROOT.glob("levels/[0-9]-*"))
NOTEBOOK = "jupyter execute --inplace notebooks/experiment.ipynb"
RUN = "python -m flights"
BATCH = "score-batch --input data/raw --output data/scored"

Step = tuple[str, str, str, str]  # command of the project that it needs, that makes it needless, title, what is typed


def release(version: int) -> list[Step]:
    """Return the steps that bring a version to production, one of them typed by another person."""
    return [
        ("gate", "", f"Judge version {version} by every gate", f"uv run {RUN} gate {version}"),
        ("deploy", "", "Try it where it harms nobody", f"uv run {RUN} deploy {version} --env test"),
        ("approve", "", "Another person signs it off", "git config user.email reviewer@example.org"),
        ("approve", "", "", f"uv run {RUN} approve {version} --reason reviewed"),
        ("approve", "", "", "git config user.email demo@example.org"),
        ("deploy", "", "The same bytes go to production", f"uv run {RUN} deploy {version} --env prod"),
    ]


STEPS: list[Step] = [
    ("score", "ingest", "Copy the data by hand", "cp -r data/sample data/raw"),
    ("ingest", "", "Gather the data", f"uv run {RUN} ingest"),
    ("score", "", "Train in the notebook, hand over one model file", f"uv run {NOTEBOOK}"),
    ("check-handoff", "train", "Check what was handed over", f"uv run {RUN} check-handoff models/model.skops"),
    ("score", "", "Score a month", f"uv run {RUN} score data/raw/flights-2013-12.parquet --output data/scored.csv"),
    ("train", "", "Lock the environment, which each run names", "uv lock --quiet"),
    ("train", "", "Commit, which each run names too", "git add --all"),
    ("train", "", "", "git commit --quiet --message Lock"),
    ("train", "", "From raw rows to a registered version", f"uv run {RUN} train"),
    ("train", "", "Again: nothing changed, nothing is trained", f"uv run {RUN} train"),
    ("runs", "", "Look at the runs", f"uv run {RUN} runs"),
    ("promote", "deploy", "A person makes it the champion", f"uv run {RUN} promote 1 --reason first"),
    ("reproduce", "", "Make it again from its commit and data version", f"uv run {RUN} reproduce 1"),
    *release(1),
    ("score-batch", "", "Score all rows with it", f"uv run {RUN} {BATCH}"),
]
KNOWN = [f"data/sample/flights-2013-{month:02}.parquet" for month in (1, 2, 3)]
LOOP: list[Step] = [
    ("", "", "Keep what is known in April apart", "mkdir data/known"),
    ("", "", "", f"cp {' '.join(KNOWN)} data/known"),
    ("", "", "What was set for a sample with a fraction of the traffic", "git --no-pager diff --unified=0 conf"),
    ("", "", "Lock the environment and commit, which each run names", "uv lock --quiet"),
    ("", "", "", "git add --all"),
    ("", "", "", "git commit --quiet --message Lock"),
    ("", "", "Gather the data and train", f"uv run {RUN} train"),
    *release(1),
]
# What a person sets in conf/ for it: the file, what stands there, what instead.
CHANGES = [
    ("data", "url: data/sample", "url: data/known"),
    ("experiment", "shares: [0.05, 0.25, 0.5], requests: 3_000", "shares: [0.5], requests: 3_000"),
    ("experiment", "margin: 0.01", "margin: 0.02"),
    (
        "retraining",
        "rows: 20_000 # a third of what the first model learned from",
        "rows: 1_500 # some weeks of these callers",
    ),
]
AFTERWARDS: list[Step] = [
    ("", "", "What was tried on callers, and what came of it", f"uv run {RUN} experiment status"),
    (
        "",
        "",
        "Who did what, when and why, and is that still what was written",
        f"uv run {RUN} audit show --action deploy",
    ),
    ("", "", "", f"uv run {RUN} audit verify"),
    ("", "", "All of it on one page", f"uv run {RUN} dashboard --days 280"),
]
REPLAY = "--from 2013-04-01 --share 0.5 --every 15 --loop"
FAST = "--until 2013-06-15"  # by then one retraining was promoted and one refused
WHILE_SERVED: list[Step] = [
    ("lineage", "", "Trace that answer to the raw data", f"uv run {RUN} lineage --response data/answer.json"),
    ("deploy", "", "Train another version", f"uv run {RUN} train --set parameters.max_leaf_nodes=12"),
    *release(2),
]
BACK: list[Step] = [
    ("rollback", "", "Take it back at once", f"uv run {RUN} rollback --env prod --reason surprise"),
    ("rollback", "", "What was in use when, by whom and why", f"uv run {RUN} deploy --history --env prod"),
]
# What is served, by the command that puts it there: the first that a level has.
MODELS = {"deploy": "env:prod", "promote": "models:/flights-late@champion", "serve": "models/model.skops"}
SWAP_S = 60  # seconds; it takes one or two
LOOK_AT = {
    "reports/simulation/summary.html": "month by month, the first version alone and the loop",
    "reports/dashboard.html": "the model in production: traffic, quality, drift, versions, experiments, retrainings, cost",
    "reports/monitoring": "what was measured at each turn of the loop",
    "reports/issues": "what people were asked to look at",
    "models/HANDOFF.md": "what goes into the model, what comes out, how good it is",
    "data/scored.csv": "December with a prediction for each flight",
    "notebooks/experiment.ipynb": "the data and the model in plots",
    "data/pipeline/validation.html": "what was checked of the data before training",
    "models/candidate/evaluation": "how good the registered version is, with plots",
    "models/gates/1/gates.html": "what the gates measured of version 1, beside their limits",
    "docs/levels": "each file of the project explained, a page a level",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--level", type=int, choices=LEVELS, default=LEVELS[-1], help="default: %(default)s")
    parser.add_argument("--fast", action="store_true", help="level 4: some months, not the whole year")
    options = parser.parse_args()
    folder, level = options.folder.resolve(), options.level
    began = time.monotonic()
    make_project(folder, level)
    os.chdir(folder)
    os.environ.pop("VIRTUAL_ENV", None)
    told = subprocess.run(["uv", "run", "--quiet", *RUN.split(), "--help"], capture_output=True, text=True, check=True)
    commands = set(re.findall(r"^  ([a-z-]+) ", told.stdout, re.MULTILINE))
    if "simulate" in commands:
        live(commands, options.fast)
        return close(folder, level, time.monotonic() - began)
    walk(STEPS, commands)
    if "serve" in commands:
        model = next(model for needed, model in MODELS.items() if needed in commands)
        step("Serve the model and ask for a prediction", f"uv run {RUN} serve --model {model}")
        with serving(model) as address:
            ask(address)
            walk(WHILE_SERVED, commands)
            if "rollback" in commands:
                ask(address, "2")
                walk(BACK, commands)
                ask(address, "1")
    return close(folder, level, time.monotonic() - began)


def live(commands: set[str], fast: bool) -> None:
    """Let the first version answer, and the loop do what it finds necessary while the year goes by."""
    for name, before, after in CHANGES:
        file = Path(f"conf/{name}.yml")
        text = file.read_text(encoding="utf-8")
        if before not in text:
            sys.exit(f"{file} has no {before!r}: mend CHANGES in tools/demo.py")
        file.write_text(text.replace(before, after), encoding="utf-8")
    walk(LOOP, commands)
    step("Serve what is in use in production", f"uv run {RUN} serve --model env:prod")
    with serving("env:prod") as address:
        walk(
            [
                (
                    "",
                    "",
                    "The year goes by, and nobody touches anything",
                    f"uv run {RUN} simulate --url {address} {REPLAY} {FAST * fast}",
                )
            ],
            commands,
        )
        ask(address)
    walk(AFTERWARDS, commands)


def make_project(folder: Path, level: int) -> None:
    step(f"Make a project at level {level}", f"copier copy --data level={level} {ROOT} {folder}")
    if folder.exists() and any(folder.iterdir()) and not (folder / ".copier-answers.yml").is_file():
        sys.exit(f"{folder} is there and holds no project: it is left alone, name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    answers = {"project_name": "Flights", "level": level}
    with warnings.catch_warnings(action="ignore"):  # that uncommitted edits of the template come too, as they should
        copier.run_copy(str(ROOT), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    who = (["config", "user.name", "Demo"], ["config", "user.email", "demo@example.org"])
    for words in (["init", "--quiet"], *who, ["add", "--all"], ["commit", "--quiet", "--message", "Start"]):
        subprocess.run(["git", *words], cwd=folder, check=True)


def walk(steps: list[Step], commands: set[str]) -> None:
    for needed, needless, title, typed in steps:
        if needed in {"", *commands} and needless not in commands:
            step(title, typed)
            subprocess.run(typed.split(), check=True)


def ask(address: str, version: str = "") -> None:
    """Ask the service for the prediction of its example; with VERSION once that answers, as it should by itself."""
    until = time.monotonic() + SWAP_S
    about = json.load(urllib.request.urlopen(f"{address}/model", timeout=10))
    while version not in ("", about["version"]):
        if time.monotonic() > until:
            sys.exit(f"the service answers with version {about['version']}, must be {version} within {SWAP_S} s")
        time.sleep(0.2)
        about = json.load(urllib.request.urlopen(f"{address}/model", timeout=10))
    body = json.dumps(about["example"]["row"]).encode()
    request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
    answer = urllib.request.urlopen(request, timeout=10).read()
    Path("data/answer.json").write_bytes(answer)
    print(f"POST {address}/predict {body.decode()}\n{answer.decode()}", flush=True)


@contextmanager
def serving(model: str) -> Iterator[str]:
    """Run the service on a free port, give its address once it answers, and end it as Kubernetes would."""
    command = ["uv", "run", "--quiet", *RUN.split(), "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stdout or ():
                print(line, end="")
                if found := re.search(r"http://\S+", line):
                    yield found[0]
                    break
            else:
                sys.exit("the service did not start")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def close(folder: Path, level: int, seconds: float) -> int:
    print(f"\n== Done: level {level} in {seconds:.0f} s. Look at\n")
    there = {name: why for name, why in LOOK_AT.items() if (folder / name).exists()}
    for name, why in there.items():
        print(f"   {folder / name!s:<{len(str(folder)) + 34}}{why}")
    print(f"\n   cd {folder} && uv run {RUN}             # all commands; README.md says how to go on")
    print(f"   cd {folder} && uv run {RUN} maturity    # what this level promises, each with the tests that show it")
    return 0


def step(title: str, typed: str) -> None:
    print(f"\n== {title}" if title else "", f"   $ {typed}\n", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
