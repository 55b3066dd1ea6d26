"""Does the service give what the offline batch gives, row by row, odd rows included? And does ONNX Runtime, the fast path?"""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pandas as pd

from ...data.joined import as_rows
from ...data.rows import answered, as_records
from ...serving.servable import Servable, resolve
from .. import fast_path
from ..judgement import Candidate, Finding, Release

FILE = "model.onnx"  # in the candidate's folder when it answers as the model does


def check(candidate: Candidate, limits: Release) -> list[Finding]:
    columns = candidate.columns
    gaps = candidate.rows[candidate.rows[columns].isna().any(axis=1)]
    parts = [candidate.some(limits.parity.rows), gaps.head(limits.parity.rows // 4), candidate.odd()]
    rows = pd.concat([part[columns].astype("object") for part in parts], ignore_index=True)
    served = asyncio.run(serve(resolve(candidate.project, f"models:/{candidate.name}/{candidate.version}"), rows))
    worst = apart(served, candidate.predict(rows))
    told = f"{worst:.2g} apart at most in {len(rows):,} rows, {len(candidate.odd()):,} of them odd"
    same = worst <= limits.parity.served
    findings = [Finding("parity", "served against offline", same, told, f"{limits.parity.served:g} apart or less")]
    return findings + ([convert(candidate, limits.parity.fast_path)] if same else [])


async def serve(servable: Servable, rows: pd.DataFrame) -> np.ndarray:
    """Return what the service answers to each of ROWS, sent alone, as JSON."""
    answers = []
    for record in as_records(rows):
        sent = servable.contract.parse(json.dumps(record).encode())
        answers += answered(await servable.answer(sent))
    return np.array(answers)


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative where the numbers are above 1; infinite when one is no number."""
    difference = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
    return float(difference.max()) if ours.shape == theirs.shape and np.isfinite(difference).all() else float("inf")


def convert(candidate: Candidate, limit: float) -> Finding:
    """Write the model as ONNX beside the report when it predicts the same; the service falls back on scikit-learn."""
    title, either = "fast path", "onnx or, where it cannot be, sklearn"
    try:
        opened = candidate.opened
        rows = pd.concat([candidate.rows[candidate.columns].astype("object"), candidate.odd()], ignore_index=True)
        inputs = opened.features.build(as_rows(candidate.project, rows, candidate.note["columns"]))
        content = fast_path.convert(opened.fitted, inputs)
        fast = fast_path.FastPath(content, len(candidate.note.get("classes", [])))
        worst = apart(fast.predict(inputs), opened.model.predict(opened.fitted, inputs))
    except Exception as error:  # noqa: BLE001 - a model that cannot be converted is served as it is
        told = f"sklearn: it cannot be converted ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return Finding("parity", title, True, told, either)
    if worst > limit:
        return Finding("parity", title, True, f"sklearn: onnx is {worst:.2g} apart, more than {limit:g}", either)
    candidate.folder.mkdir(parents=True, exist_ok=True)
    (candidate.folder / FILE).write_bytes(content)
    return Finding("parity", title, True, f"onnx: {worst:.2g} apart at most in {len(rows):,} rows", either)
