"""List, compare and bring back the data versions that models were trained on.

python -m {package} datasets
python -m {package} datasets --compare raw@1a2b3c4d raw@5e6f7a8b
python -m {package} datasets --fetch raw@1a2b3c4d --to /tmp/flights
"""

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from . import ProjectError, UsageError, pipeline, store

ROWS = "rows"  # folder in a data set that a module here makes: rows as data.read returns them, which made it of no file
MADE_OF = "made_of.json"  # beside it: the gathered files, and how many rows of the prediction log


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compare", nargs=2, metavar="VERSION", help="print how two versions differ")
    parser.add_argument("--fetch", metavar="VERSION", help="write the files of a version, byte by byte, into --to")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="an empty or new folder")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(options: argparse.Namespace) -> None:
    if options.fetch:
        if options.to is None or (options.to.is_dir() and any(options.to.iterdir())):
            raise UsageError("--fetch needs --to FOLDER, empty or new: data that is there is never overwritten")
        restore(find(options.fetch)["version"], options.to)
        return print(f"{sum(1 for _ in options.to.rglob('*.*'))} files of {options.fetch} are in {options.to}")
    if options.compare:
        found = compare(*map(find, options.compare))
        return print(json.dumps(found) if options.json else table(found))
    versions = known()
    if options.json:
        return print(json.dumps(versions))
    for one in versions:
        times = f"{one['profile']['from'][:10]} to {one['profile']['to'][:10]}"
        print(
            f"{one['name']}@{one['version'][:8]}  {one['profile']['rows']:>11,} rows  {times}  {one['runs']:>4} runs  first {one['first']}"
        )


def read(folder: Path, source: Any = None) -> pd.DataFrame:
    """Return the rows of a data set's FOLDER: what stands in ROWS where it was made so, else what data.read makes of it.

    SOURCE is the data.py that does, where it is not this project's of now.
    """
    from .. import data

    made = sorted((folder / ROWS).glob("*.parquet"))
    if made:
        return pd.concat([pd.read_parquet(file) for file in made], ignore_index=True)
    return (source or data).read(folder)


def profile(rows: pd.DataFrame) -> dict[str, Any]:
    """Return what is compared between versions: rows, period and, a column, type, missing share and range."""
    from .. import data

    columns: dict[str, dict[str, Any]] = {}
    for name in rows.columns:
        column = rows[name]
        ordered = pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column)
        span = [column.min(), column.max()] if ordered else [column.nunique()]
        plain = [str(value) if isinstance(value, pd.Timestamp) else float(value) for value in span]
        facts = dict(zip(("min", "max") if ordered else ("distinct",), plain, strict=True))
        columns[str(name)] = {"type": str(column.dtype), "missing": round(float(column.isna().mean()), 6), **facts}
    moments = rows[data.TIME]
    return {"rows": len(rows), "from": str(moments.min()), "to": str(moments.max()), "columns": columns}


def known() -> list[dict[str, Any]]:
    """Return each data version that a run names, newest first: name, version, profile, how many runs, the first's day."""
    from . import tracking

    _, client = tracking.open_store()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in tracking.search(client):
        for used in one.inputs.dataset_inputs:
            dataset, day = used.dataset, tracking.moment(one.info.start_time)
            entry = {"name": dataset.name, "version": dataset.digest, "profile": json.loads(dataset.profile), "runs": 0}
            entry = found.setdefault((dataset.name, dataset.digest), entry)
            entry |= {"runs": entry["runs"] + 1, "first": day}
    return list(found.values())


def find(text: str) -> dict[str, Any]:
    """Return the one known version that NAME@VERSION, or the start of it, names."""
    name, _, start = text.rpartition("@")
    versions = known()
    fits = [one for one in versions if one["version"].startswith(start) and one["name"] == (name or one["name"])]
    if len(fits) != 1:
        there = ", ".join(f"{one['name']}@{one['version'][:8]}" for one in versions) or "none yet"
        raise ProjectError(f"{text} names {len(fits)} data versions, must be one of: {there}")
    return fits[0]


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what differs between two versions: {"rows": [60000, 65000], "temperature max": [98.1, 99.0]}."""
    flat = []
    for one in (old, new):
        facts = {key: one["profile"][key] for key in ("rows", "from", "to")}
        for name, column in one["profile"]["columns"].items():
            facts |= {f"{name} {key}": value for key, value in column.items()}
        flat.append(facts)
    return {
        key: [flat[0].get(key), flat[1].get(key)]
        for key in {**flat[0], **flat[1]}
        if flat[0].get(key) != flat[1].get(key)
    }


def table(differences: dict[str, Any]) -> str:
    if not differences:
        return "no difference in rows, columns, missing values or ranges"
    width = max(map(len, differences))
    return "\n".join(f"{key:<{width}}  {old}  ->  {new}" for key, (old, new) in differences.items())


def maker(name: str) -> Callable[[store.Store], Any] | None:
    """Return what makes the data set NAME of the gathered rows: `make` of the module here with `DATASET = "NAME"`."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if f'\nDATASET = "{name}"' in file.read_text(encoding="utf-8"):
            return importlib.import_module(f".{file.stem}", __package__).make
    return None


def publish(version: str) -> None:
    """Copy a data version to DVC's remote, so that the run which names it can be reproduced elsewhere."""
    from dvc.repo import Repo

    with Repo() as repo:
        listing, files = contents(repo, version)
        sent = repo.cloud.push([*files.values(), listing])  # the listing last: a version that is there is whole
        if sent.failed:
            raise ProjectError(f"{len(sent.failed)} files of data version {version[:8]} did not reach DVC's remote")


def ensure(version: str) -> dict[Path, Path]:
    """Return where DVC's cache holds each file of a data version ({its path: its bytes}), fetched when it does not."""
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        try:
            if not repo.cache.local.exists(f"{version}.dir"):
                repo.cloud.pull([HashInfo("md5", f"{version}.dir")])
            files = contents(repo, version)[1]
            found = {path: Path(repo.cache.local.oid_to_path(content.value)) for path, content in files.items()}
            if absent := [content for path, content in files.items() if not found[path].is_file()]:
                repo.cloud.pull(absent)
            for file in found.values():
                file.stat()
            return found
        except FileNotFoundError:
            where = "neither in DVC's cache nor on its remote (.dvc/config)"
            raise ProjectError(f"data version {version[:8]} is {where}") from None


def contents(repo: Any, version: str) -> tuple[Any, dict[Path, Any]]:
    """Return DVC's name of a data version and, a file of it, of the file's bytes."""
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo

    listing = HashInfo("md5", f"{version}.dir")
    tree: Any = load(repo.cache.local, listing)
    return listing, {Path(*key): content for key, _, content in tree}


def restore(version: str, folder: Path) -> None:
    """Make FOLDER hold the files of a data version, byte by byte as they were."""
    pipeline.mirror(ensure(version), folder)


def short(name: str) -> str:
    """Return NAME@VERSION as people write it, with the first 8 digits of its 32."""
    data, _, version = name.partition("@")
    return f"{data}@{version[:8]}" if version else data
