"""Sessions of level 4: one turn of the loop. The template's file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PACKAGE = next(ROOT.glob("src/*/__main__.py")).parent.name
REFUSED = 3  # exit code: a signal fired, an experiment was stopped; what comes next is there for that


@nox.session
def loop(session: nox.Session) -> None:
    """Forget whom must be, measure, move the experiment on, and train anew if the policy says so, or where REASON says why."""
    turn(session, "notify", "forget", "--queued")  # of what only people can take away they hear
    turn(session, "retention")
    turn(session, "monitor")
    status = call("experiment", "status", "--json", stdout=subprocess.PIPE)
    if status.returncode:
        session.error(f"experiment status ended with exit code {status.returncode}")
    if '"ended": null' in status.stdout:
        turn(session, "notify", "experiment", "step")  # of one that is stopped, its owner hears
    reason = os.environ.get("REASON", "").strip()
    sys.exit(call("notify", "retrain", *(["--reason", reason] if reason else ["--if-triggered"])).returncode)


def turn(session: nox.Session, *words: str) -> None:
    if (code := call(*words).returncode) not in (0, REFUSED):
        session.error(f"{' '.join(words)} ended with exit code {code}")


def call(*words: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    # an image has the environment, and no uv to keep it in step with the lock
    python = ["uv", "run", "python"] if shutil.which("uv") else [sys.executable]
    command = [*python, "-m", PACKAGE, *words]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, text=True, check=False)
