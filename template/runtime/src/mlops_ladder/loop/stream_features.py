"""Turn logged predictions into model inputs as they come, by the same features.build that training and serving use.

python -m {package} stream-features
python -m {package} stream-features --follow 10     # look again each 10 s, until stopped

Each micro-batch becomes one file in the data store's prepared/live, named by the last prediction in it: a run goes on
after the newest file, so that each prediction is in one file, and in no more than one, whenever a run was killed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.errors import UsageError
from ..core.project import Project
from ..data import feature_tables, store
from ..data.joined import as_rows
from .prediction_log import COLUMNS, PredictionLog, as_sent, open_log

if TYPE_CHECKING:
    import polars as pl


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=10_000, help="at most in a micro-batch (default: %(default)s)")
    parser.add_argument("--follow", type=float, metavar="SECONDS", help="do not end, look again after so long")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.rows < 1:
        raise UsageError(f"--rows is {options.rows}, must be 1 or more")
    conf, log = store.read(project), open_log(project)
    live = conf.prepared / "live"
    with files.locked(live / ".lock"):
        while True:
            written, n_rows = consume(log, live, options.rows)
            told = {"store": str(live), "written": written, "rows": n_rows}
            print(
                json.dumps(told) if options.json else f"{n_rows:,} predictions in {written} new files of {live}",
                flush=True,
            )
            if options.follow is None:
                return
            time.sleep(options.follow)


def consume(log: PredictionLog, live: Path, n_rows: int) -> tuple[int, int]:
    """Write the inputs of what was logged since the newest file in LIVE; return how many files and rows."""
    done = max((int(file.stem) for file in live.glob("*.parquet")), default=0)
    written = total = 0
    for last, frame in log.after(done, n_rows):
        with files.whole(live / f"{last:012}.parquet") as part:
            transform(log.project, frame).to_parquet(part, index=False)
        written, total = written + 1, total + len(frame)
    return written, total


def transform(project: Project, frame: "pl.DataFrame") -> Any:
    """Return the model inputs of logged predictions, beside what the log says of each."""
    rows = frame.to_pandas()
    sent = feature_tables.Offline.of(project, project.features.COLUMNS).fill(
        as_sent(project, frame).to_pandas(), cells=True
    )
    inputs = project.features.build(
        as_rows(project, sent, {name: project.data.SCHEMA[name] for name in project.features.COLUMNS})
    )
    return rows[[name for name in (*COLUMNS, "label") if name not in inputs]].join(inputs)
