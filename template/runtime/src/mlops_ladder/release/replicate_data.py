"""Copy the rows of an environment to another one, with the columns masked that must not leave it.

python -m {package} replicate-data --env dev               # prod's rows, as data/masked
python -m {package} train --data masked

Text becomes a pseudonym, the same for equal values of one copy and of no other. Numbers, times and text of which
SCHEMA in data.py lists the values are shuffled among the rows of a file.
"""

from __future__ import annotations

import argparse
import hmac
import json
import secrets
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..core import files
from ..core.errors import ProjectError
from ..core.progress import say
from ..core.project import Project
from ..data import sources, store
from . import environments


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, help="environment that gets the copy")
    parser.add_argument(
        "--from", dest="source", default="prod", help="environment it comes from (default: %(default)s)"
    )
    parser.add_argument(
        "--name", default="masked", help="data set that it becomes, in the data store (default: masked)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    from pyarrow import parquet as pq

    environments.read(project, options.env)
    environments.require(project, options.source, "replicate")
    source, conf = environments.read(project, options.source), store.read(project)
    target = conf.home / options.name
    if target.resolve() in (conf.raw.resolve(), project.path(source.data).resolve()):
        raise ProjectError(f"--name {options.name} is a data set that is there already: choose another")
    offer, key = sources.reach(project, store.Source(url=source.data)), secrets.token_bytes()
    rows, found = 0, set[str]()
    with files.locked(conf.home / ".lock"), tempfile.TemporaryDirectory(dir=conf.home) as part:
        for item in sorted(offer.items(), key=lambda item: item.name):
            file = Path(part) / item.name
            offer.fetch(item, file, lambda _: None)
            table = pq.read_table(file)
            found |= set(table.column_names)
            pq.write_table(mask(project, table, source.masked, key), file, compression="zstd")
            rows += len(table)
            say(f"{item.name}: {len(table):,} rows")
        if absent := set(source.masked) - found:
            raise ProjectError(
                f"conf/environments/{options.source}.yml: masked names {', '.join(sorted(absent))}, which the rows lack"
            )
        files.mirror({Path(file.name): file for file in files.files_in(Path(part))}, target)
    told = {"rows": rows, "masked": source.masked, "data": str(target)}
    line = f"{rows:,} rows of {options.source} are in {target}, masked: {', '.join(source.masked) or 'nothing'}"
    print(json.dumps(told) if options.json else line)


def mask(project: Project, table: pa.Table, columns: list[str], key: bytes) -> pa.Table:
    """Return TABLE, its schema kept, with each of COLUMNS masked; a pseudonym is never given to a missing value."""
    for name in set(columns) & set(table.column_names):
        at, column = table.schema.get_field_index(name), table[name].combine_chunks()
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if text and "values" not in project.data.SCHEMA.get(name, {}):
            plain = column.to_pylist()
            known = {text: hmac.digest(key, text.encode(), "sha256").hex()[:16] for text in set(plain) - {None}}
            masked = pa.array([known.get(text) for text in plain])
        else:
            masked = column.take(pa.array(np.random.default_rng().permutation(len(column))))
        table = table.set_column(at, table.schema.field(at), masked.cast(table.schema.field(at).type))
    return table
