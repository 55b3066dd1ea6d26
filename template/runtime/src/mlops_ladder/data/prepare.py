"""Build the model's inputs from all gathered rows, one parquet file a month, in the data store's prepared/.

python -m {package} prepare

Each file holds the key, the time, the inputs of features.build and the target; without a time there is one file. Run it again after `ingest` or after
an edit of data.py or features.py: it writes what differs and takes away months that are gone.
"""

import argparse
import json
import sys

from ..core import files
from ..core.project import Project
from . import split, store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    conf = store.read(project)
    with files.locked(conf.home / ".lock"):
        rows = store.read_rows(project, conf)
        inputs = project.features.build(rows[project.features.COLUMNS])
        prepared = rows[
            [
                name
                for name in (project.data.KEY, split.time_column(project), project.data.TARGET)
                if name and name not in inputs
            ]
        ].join(inputs)
        conf.prepared.mkdir(parents=True, exist_ok=True)
        stale, written = set(conf.prepared.glob("*.parquet")), []
        for month, part in prepared.groupby(split.months(project, rows)):
            file = conf.prepared / f"{month}.parquet"
            stale.discard(file)
            if files.replaced(file, part.to_parquet(index=False)):
                written.append(file.name)
                print(f"{file.name}: {len(part):,} rows", file=sys.stderr)
        for file in stale:
            file.unlink()
    if options.json:
        print(json.dumps({"store": str(conf.prepared), "rows": len(prepared), "written": written}))
    else:
        shape = f"{len(prepared):,} rows, {inputs.shape[1]} inputs"
        print(f"prepared {shape}, in {conf.prepared}; {len(written)} files new or changed")
