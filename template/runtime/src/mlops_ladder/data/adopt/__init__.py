"""Bring your own table: look at it, and write data.py, features.py, model.py, the sample and all else that is about flights.

python -m {package} adopt orders.csv --target returned --positive yes --time ordered_at
python -m {package} adopt sqlite:///orders.db#orders --target returned --drop comment
python -m {package} adopt --refresh    # after a climb: the same for the files that the new level brought

A file that somebody edited stays as it is, unless --force is given; what it would become is shown.
"""

import argparse
import difflib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ...core import levels
from ...core.errors import ProjectError, UsageError
from ...core.project import Project
from . import files, first_fit, profile, read, sample, swap

RECORD = ".adopted.json"  # what was adopted, and a digest of each file as it was written; git holds it
FLIGHTS = re.compile(r"flights-2013-\d\d\.parquet")
CONTRACT = "contracts/model.schema.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", help=f"file ({', '.join(read.READERS)}), folder of such, or SQL URL#table")
    parser.add_argument("--target", help="column to predict")
    parser.add_argument("--time", help="column that says when the prediction is needed; rows are split by it")
    parser.add_argument(
        "--key",
        metavar="COLUMN",
        nargs="+",
        default=[],
        help="column with one value a row, or several that name a row together; without it one is looked for, else made",
    )
    parser.add_argument(
        "--problem",
        help="classification (two labels), multiclass (several) or regression; without it the target decides",
    )
    parser.add_argument("--positive", metavar="LABEL", help="which label of the target counts as true")
    parser.add_argument("--drop", metavar="COLUMN", action="extend", nargs="+", default=[], help="columns to leave out")
    parser.add_argument("--table", help="of a database, where the URL does not end in #table")
    parser.add_argument("--force", action="store_true", help="write over files that somebody edited, too")
    parser.add_argument("--refresh", action="store_true", help="adopt the same table in files that came since")


def run(project: Project, options: argparse.Namespace) -> None:
    stored = record(project)
    if options.refresh:
        return refresh(project, stored, options)
    if not options.source or not options.target:
        raise UsageError("which table, and what is to be predicted? adopt FILE-OR-FOLDER-OR-SQL-URL --target COLUMN")
    if options.problem not in (None, *files.PROBLEMS):
        raise UsageError(f"--problem {options.problem}: {profile.CHOICES}")
    table = read.read(options.source, options.table, project.folder)
    plan, rows = profile.make(
        table.rows,
        hidden(options.source),
        table.name,
        target=options.target,
        time=options.time,
        key=options.key,
        problem=options.problem,
        positive=options.positive,
        drop=options.drop,
        markers=table.markers,
    )
    few = sample.pick(rows, plan)
    plan.n_rows, plan.n_sample = len(rows), len(few)
    for note in table.notes:
        print(f"read: {note}", file=sys.stderr)
    if unlabelled := len(table.rows) - len(rows):
        print(f"left out: {unlabelled:,} rows without a {plan.target}", file=sys.stderr)
    print(profile.show(plan))
    bring(project, stored, plan, few, rows, options.force)


def bring(project: Project, stored: dict[str, Any], plan: profile.Plan, few: Any, rows: Any, force: bool) -> None:
    """Write all files for PLAN, the sample FEW and, where that is not all of them, the ROWS."""
    known = files.texts(project.package, project_name(project))
    stage = swap.start(project.folder)
    folders = {"data/sample": few}
    if project.level == 0 or plan.n_rows > plan.n_sample:
        folders["data/raw" if project.level == 0 else "data/adopted"] = rows
    put_rows(project, stage, plan, folders, known)
    gone = [file for folder in folders for file in old_rows(project, stored, folder, force)]
    with first_fit.imported(stage / "src" / project.package) as used:
        fit = first_fit.fit(used, stage / "data/sample", plan)
        if project.path(CONTRACT).is_file():
            put(stage, CONTRACT, contract(project, used))
    if fit.weak:
        plan.weak = fit.weak
        for path, text in files.write(files.EARLY, known, project.package, plan, None).items():
            put(stage, path, text)
    present = {path: write for path, write in files.LATER.items() if project.path(place(project, path)).is_file()}
    for path, text in files.write(present, known, project.package, plan, fit).items():
        put(stage, path, text)
    readme(project, stage, plan)
    check_edits(project, stored, known, stage, force)
    keep_record(project, stage, plan, {})
    swap.finish(project.folder, gone)
    say(project, plan, fit.warnings)


def put_rows(
    project: Project, stage: Path, plan: profile.Plan, folders: dict[str, Any], known: dict[str, dict[str, str]]
) -> None:
    """Write the rows of each of FOLDERS and the three modules that read them, so that no part of a split lacks a class."""
    while True:
        for path, text in files.write(files.EARLY, known, project.package, plan, None).items():
            put(stage, path, text)
        for folder, rows in folders.items():
            sample.write(rows, plan, stage / folder)
        if not plan.classes:
            return
        with first_fit.imported(stage / "src" / project.package) as used:
            lacking = {name for folder in folders for name in first_fit.absent(used, stage / folder, plan)}
        if not lacking:
            return
        profile.gather(plan, lacking)
        for folder, rows in folders.items():
            shutil.rmtree(stage / folder)
            folders[folder] = rows[~rows[plan.target].isin(plan.dropped)].reset_index(drop=True)
        plan.n_sample = len(folders["data/sample"])
        plan.n_rows = max(map(len, folders.values()))


def refresh(project: Project, stored: dict[str, Any], options: argparse.Namespace) -> None:
    """Write those files that the present level has and the last `adopt` did not."""
    if options.source or options.target:
        raise UsageError("--refresh takes the table that was adopted: leave the other words out")
    if not stored:
        raise UsageError(f"nothing was adopted yet (there is no {RECORD}): adopt FILE --target COLUMN comes first")
    plan = profile.Plan.from_dict(stored["plan"])
    known = files.texts(project.package, project_name(project))
    present = {path: write for path, write in files.LATER.items() if project.path(place(project, path)).is_file()}
    new = {path: write for path, write in present.items() if place(project, path) not in stored["files"]}
    stage = swap.start(project.folder)
    with first_fit.imported(project.source) as used:
        fit = first_fit.fit(used, project.path("data/sample"), plan)
        if project.path(CONTRACT).is_file() and CONTRACT not in stored["files"]:
            put(stage, CONTRACT, contract(project, used))
    for path, text in files.write(new, known, project.package, plan, fit).items():
        put(stage, path, text)
    written = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
    check_edits(project, stored, known, stage, options.force)
    keep_record(project, stage, plan, stored["files"])
    swap.finish(project.folder, [])
    for path in written:
        print(f"wrote {path}")
    print(
        f"{len(written)} files are about {plan.name} now"
        if written
        else "nothing new: each file is about the table already"
    )


def record(project: Project) -> dict[str, Any]:
    """Return what the last `adopt` wrote down, an empty dict before the first."""
    file = project.path(RECORD)
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        stored["plan"], stored["files"]
    except (ValueError, LookupError, TypeError):
        raise ProjectError(
            f"{RECORD} is damaged: restore it with git, or delete it and adopt anew with --force"
        ) from None
    return stored


def keep_record(project: Project, stage: Path, plan: profile.Plan, earlier: dict[str, str]) -> None:
    digests = {
        path.relative_to(stage).as_posix(): sample.digest(path.read_bytes())
        for path in sorted(stage.rglob("*"))
        if path.is_file() and path.name != "README.md"
    }
    facts = {"plan": plan.as_dict(), "files": dict(sorted((earlier | digests).items()))}
    put(stage, RECORD, json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n")


def place(project: Project, path: str) -> str:
    return path.replace("PACKAGE", project.package)


def put(stage: Path, path: str, text: str) -> None:
    (stage / path).parent.mkdir(parents=True, exist_ok=True)
    (stage / path).write_text(text, encoding="utf-8", newline="\n")


def project_name(project: Project) -> str:
    """Return the answer to copier's first question, the package's name where there is none to read."""
    answers = project.path(".copier-answers.yml")
    text = answers.read_text(encoding="utf-8") if answers.is_file() else ""
    match = re.search(r"^project_name: (.*)$", text, re.MULTILINE)
    return match[1].strip("'\"") if match else project.package


def hidden(source: str) -> str:
    """Return SOURCE without a password, for the record."""
    return re.sub(r"(?<=://)[^/@]*@", "", source)


def check_edits(
    project: Project, stored: dict[str, Any], known: dict[str, dict[str, str]], stage: Path, force: bool
) -> None:
    """Show how files that a person edited would change; raises ProjectError unless FORCE says to write over them."""
    edited = []
    for new in sorted(path for path in stage.rglob("*") if path.is_file() and path.suffix != ".parquet"):
        path = new.relative_to(stage).as_posix()
        there = project.path(path)
        if path == "README.md" or not there.is_file() or there.read_bytes() == new.read_bytes():
            continue
        text = there.read_text(encoding="utf-8")
        ours = sample.digest(there.read_bytes()) == stored.get("files", {}).get(path)
        flights = path == CONTRACT and '"flight_id"' in text
        if not ours and not flights and text not in known.get(path, {}).values():
            edited.append(path)
            lines = (text.splitlines(), new.read_text(encoding="utf-8").splitlines())
            print(
                "\n".join(difflib.unified_diff(*lines, f"{path} (yours)", f"{path} (adopted)", lineterm="")),
                file=sys.stderr,
            )
    if edited and not force:
        raise ProjectError(
            f"edited by somebody, so nothing was written: {', '.join(edited)}; commit them, then say --force"
        )


def old_rows(project: Project, stored: dict[str, Any], folder: str, force: bool) -> list[Path]:
    """Return the files of FOLDER that make room: those of the flights and of the last `adopt`; raises for any other."""
    there = sorted(project.path(folder).glob("*.parquet"))
    written = stored.get("files", {})
    for file in there:
        ours = written.get(f"{folder}/{file.name}") == sample.digest(file.read_bytes())
        if not (force or ours or FLIGHTS.fullmatch(file.name)):
            raise ProjectError(
                f"{folder}/{file.name} is neither of the flights nor adopted: move it away, or say --force"
            )
    return there


def contract(project: Project, used: dict[str, Any]) -> str:
    """Return the contract of the modules USED, as `export-contract` of level 3 writes it."""
    data, features, model = used["data"], used["features"], used["model"]
    handed = Project(project.package, project.source, project.folder, modules=used)
    rules = {name: data.SCHEMA[name] for name in features.COLUMNS}
    return json.dumps(levels.load("release.gates.contract").offered(handed, rules, model.OUTPUT), indent=2) + "\n"


OWN_TABLE = """### Your own table

`adopt` brought it in; `.adopted.json` has what each column was taken for. What it wrote is yours to edit. After a climb
`uv run python -m {0} adopt --refresh` does the same for the files that the new level brought.
"""


def readme(project: Project, stage: Path, plan: profile.Plan) -> None:
    """Put a paragraph about the table in the place of the flights', where that is still there."""
    file = project.path("README.md")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    head, middle, rest = text.partition("\n## Start")
    title = head.partition("\n")[0]
    if not middle or not ("real flights" in head or "`adopt`" in head):
        return
    what = (
        f"For which rows of {plan.name} is `{plan.target}` {plan.positive}, and how likely?"
        if plan.positive
        else f"Which `{plan.target}` will a row of {plan.name} have?"
    )
    about = (
        f"{what} Predicted from {len(plan.of(*profile.USED, 'time'))} columns of {plan.n_rows:,} rows, which\n"
        "`adopt` brought in; `data/sample` has some of them, so that everything runs at once. Say here who needs the answer.\n"
    )
    first = f"{plan.name}-{next(iter(sorted(path.stem for path in (stage / 'data/sample').iterdir())))[len(plan.name) + 1 :]}.parquet"
    rest = FLIGHTS.sub(first, rest).replace("See it with flights", "See it").replace("scores a month", "scores a file")
    rest = re.sub(
        r"### Bring your own table\n.*?(?=\n`uv run)", OWN_TABLE.format(project.package), rest, flags=re.DOTALL
    )
    put(stage, "README.md", f"{title}\n\n{about}{middle}{rest}")


def say(project: Project, plan: profile.Plan, weak: list[str]) -> None:
    for warning in [*plan.warnings, *profile.note_rare(plan), *weak]:
        print(f"look: {warning}", file=sys.stderr)
    level = project.level or 0
    print(
        f"{plan.n_rows:,} rows of {plan.name} adopted, {plan.n_sample:,} of them the sample; {plan.problem} of {plan.target}"
    )
    if level == 0:
        return print("next: uv run jupyter execute --inplace notebooks/experiment.ipynb")
    if any(project.path("data/raw").glob("*.parquet")):
        print("data/raw holds the rows of before: remove the folder, `ingest` fills it anew")
    print(
        f"next: uv run python -m {project.package} {'ingest, then train' if level >= 2 else 'ingest, then run the notebook'}"
    )
