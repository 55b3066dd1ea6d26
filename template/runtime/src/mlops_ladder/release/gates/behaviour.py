"""Does it behave as behaviour.py asks, whatever its metrics say: invariance, direction, minimum functionality?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...core.errors import ProjectError
from ...core.project import Project
from ..judgement import Candidate, Finding, Release


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    findings, rows = [], candidate.some(limits.behaviour.rows)
    for kind in ("invariance", "direction", "minimum"):
        asked, tests = getattr(limits.behaviour, kind), of_kind(candidate.project, kind)
        if not tests:
            findings.append(
                Finding("behaviour", kind, False, "no such test", "tested by one function in behaviour.py or more")
            )
        for name, test in tests.items():
            behaved = np.asarray(test(candidate.predict, rows.copy()))
            if behaved.dtype != bool or behaved.ndim != 1 or not len(behaved):
                raise ProjectError(f"{name} in behaviour.py gives no truth for each row but {behaved!r:.60}")
            share = float(behaved.mean())
            told = f"{share:.1%} of {len(behaved):,} rows behave"
            findings.append(Finding("behaviour", name.replace("_", " "), share >= asked, told, f"{asked:.0%} or more"))
    return findings


def of_kind(project: Project, kind: str) -> dict[str, Callable]:
    return {
        name: test for name, test in vars(project.behaviour).items() if name.startswith(f"{kind}_") and callable(test)
    }
