"""Does it hold up in each slice that data.py names, or only on average?"""

from ...training import success
from ..judgement import Candidate, Finding, Release


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    asked, findings, small = limits.slices, [], []
    if not candidate.project.data.SLICES:
        return [Finding.not_declared("slices", "SLICES in data.py")]
    rule = success.asked(asked.metrics)
    for column in candidate.project.data.SLICES:
        for value, rows in candidate.rows.groupby(column, dropna=False):
            if len(rows) < asked.rows:
                small.append(f"{column} {value} ({len(rows)})")
                continue
            truth, where = rows[candidate.project.data.TARGET], rows.index
            measured = candidate.project.model.metrics(truth, candidate.predicted[where])
            trivial = candidate.project.model.metrics(truth, candidate.baseline[where])
            missed = success.missed_criteria(candidate.project, measured, trivial, asked.metrics)
            values = f"{success.measured_beside(measured, trivial, asked.metrics)} on {len(rows):,} rows"
            findings.append(Finding("slices", f"{column} {value}", not missed, values, rule))
    if not findings:
        limit = f"{asked.rows} rows or more in one of them (slices.rows in conf/release.yml)"
        return [Finding("slices", "large enough to judge", False, f"none: {', '.join(small)}", limit)]
    if small:
        findings.append(Finding("slices", "too small to judge", True, ", ".join(small), f"under {asked.rows} rows"))
    return findings
