"""Does it fit where it is to run: size of the file, memory of a process that serves it, processor time of one row?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ...core.errors import ProjectError
from ...core.project import Project
from ...serving.servable import open_file
from ..judgement import Candidate, Finding, Release

N_CALLS = 300  # so that 3 of them lie above the 99th percentile


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    asked, mega = limits.footprint, 1_000_000
    size = candidate.file.stat().st_size / mega
    project = candidate.project
    # a process of its own: here the gates take memory
    command = [sys.executable, "-m", "mlops_ladder.release.gates.footprint", str(candidate.file.resolve())]
    command += [project.package, str(project.source.resolve()), str(project.folder.resolve())]
    done = subprocess.run(
        command,
        cwd=project.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ProjectError(f"a process that serves it fails: {done.stderr.strip().splitlines()[-1]}")
    memory, p99 = json.loads(done.stdout.splitlines()[-1])
    return [
        Finding("footprint", "model file", size <= asked.file_mb, f"{size:.2f} MB", f"{asked.file_mb:g} MB or less"),
        Finding(
            "footprint",
            "memory of a serving process",
            memory / mega <= asked.memory_mb,
            f"{memory / mega:.0f} MB",
            f"{asked.memory_mb:g} MB or less",
        ),
        Finding(
            "footprint",
            "processor time of one row",
            p99 * 1000 <= asked.p99_ms,
            f"{p99 * 1000:.1f} ms (99th percentile)",
            f"{asked.p99_ms:g} ms or less",
        ),
    ]


def measure(project: Project, file: Path) -> tuple[int, float]:
    """Return the bytes of memory of this process once it answers with the model in FILE, and the 99th percentile of a row, s."""
    import psutil

    servable, times = open_file(project, file), []
    for _ in range(N_CALLS):
        start = time.process_time()  # of a busy machine the clock says more about the others
        servable.compute([servable.example_row()])
        times.append(time.process_time() - start)
    return psutil.Process().memory_info().rss, float(np.quantile(times, 0.99))


if __name__ == "__main__":
    _, model_file, package, source, folder = sys.argv
    print(json.dumps(measure(Project(package, Path(source), Path(folder)), Path(model_file))))
