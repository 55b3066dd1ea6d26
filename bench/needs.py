"""What each level needs to run: disk, libraries, memory and time of a first model, as ratios to level 0, in one run.

    nox -s bench -- needs              # some minutes; uv takes the libraries from its cache

Level 0 and 1 train by their notebook, the others by `train`. Memory is the most that one process held.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import copier

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [int(folder.name[0]) for folder in sorted(ROOT.glob("levels/[0-9]-*"))]
ENVIRONMENT = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "OMP_NUM_THREADS": "1"}
IDENTITY = {f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(folder: Path, *words: str | Path) -> tuple[float, float]:
    """Run WORDS in FOLDER; return how long it took, in seconds, and the most memory it held, in MB."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT | IDENTITY, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            out.seek(0)
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {process.returncode}: {out.read()[-800:]!r}")
    return time.perf_counter() - began, used.ru_maxrss / (1 if sys.platform == "linux" else 1024) / 1024


def size_mb(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def served_mb(folder: Path, python: Path, *words: str) -> float:
    """Return the memory of a service that answered once, in MB; 0 where no process tells it."""
    command = [python, "-m", "flight_delays", "serve", "--port", "0", *words]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout
            address = service.stdout.readline().split()[-1]
            urllib.request.urlopen(f"{address}/model", timeout=60).read()
            status = Path(f"/proc/{service.pid}/status")
            lines = status.read_text().splitlines() if status.is_file() else []
            return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        finally:
            service.terminate()


def measure(level: int, folder: Path) -> dict[str, float]:
    """Return what a project of LEVEL needed in FOLDER, from nothing to a first model and, from level 1 on, a service."""
    copier.run_copy(str(ROOT), folder, data={"level": level}, defaults=True, quiet=True, vcs_ref="HEAD")
    made = size_mb(folder)
    for words in (["init"], ["add", "--all"], ["commit", "--message", "Start"]):
        run(folder, "git", *words, "--quiet")
    sync, _ = run(folder, "uv", "sync", "--quiet")
    run(folder, "git", "add", "--all"), run(folder, "git", "commit", "--quiet", "--message", "Lock")
    python = folder / ".venv/bin/python"
    libraries = sum(1 for _ in folder.glob(".venv/lib/python*/site-packages/*.dist-info"))
    environment = size_mb(folder / ".venv")
    if level:
        gathered, _ = run(folder, python, "-m", "flight_delays", "ingest")
    else:
        shutil.copytree(folder / "data/sample", folder / "data/raw")
        gathered = 0.0
    by_hand = ["jupyter", "execute", "--inplace", "notebooks/experiment.ipynb"]
    trained, memory = run(folder, python, "-m", *(["flight_delays", "train"] if level > 1 else by_hand))
    service = (
        served_mb(folder, python, *(["--model", "models:/flight-delays-late/1"] if level > 1 else [])) if level else 0
    )
    return {
        "project, MB": made,
        "libraries": libraries,
        "environment, MB": environment,
        "uv sync, s": sync,
        "first model, s": gathered + trained,
        "memory of it, MB": memory,
        "service, MB": service,
    }


def main() -> None:
    print("| level |", end="")
    first: dict[str, float] = {}
    for level in LEVELS:
        with tempfile.TemporaryDirectory() as place:
            needs = measure(level, Path(place) / "project")
        if not first:
            first = needs
            print(*(f" {name} |" for name in needs), "\n|", " --- |" * (len(needs) + 1), sep="")
        ratios = {name: f" ({value / first[name]:.1f} x)" if first[name] else "" for name, value in needs.items()}
        print(f"| {level} |", *(f" {value:,.0f}{ratios[name]} |" for name, value in needs.items()), sep="", flush=True)


if __name__ == "__main__":
    main()
