"""Give other projects this one's definitions (data sets, training, pipeline, environment), or take theirs, as files.

python -m {package} share --to /mnt/shared/definitions
python -m {package} share --from /mnt/shared/definitions                    # what is there
python -m {package} share --from /mnt/shared/definitions --take flights     # into shared/flights/, hashes checked
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import ProjectError, Refused, UsageError
from ..core.project import Project
from ..core.repository import git
from ..data import store

DEFINED_IN = {
    "data sets": "data/catalog.yml",
    "what a row must look like": "src/*/data.py",
    "features": "src/*/features.py",
    "model": "src/*/model.py",
    "training": "conf/training.yml",
    "pipeline": "dvc.yaml",
    "environment": "uv.lock",
}
TAKEN = Path("shared")
LIST = "definitions.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, metavar="FOLDER", help="write the definitions of this project there")
    way.add_argument("--from", type=Path, metavar="FOLDER", dest="source", help="list, or take, what others put there")
    parser.add_argument("--take", metavar="PROJECT", help="copy the definitions of PROJECT into shared/PROJECT/")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(project: Project, options: argparse.Namespace) -> None:
    if options.take and not options.source:
        raise UsageError("--take needs --from FOLDER")
    if options.to:
        told = [give(project, options.to)]
    elif options.take:
        told = [take(project, options.source, options.take)]
    else:
        told = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(options.source.glob(f"*/{LIST}"))]
    lines = [f"{one['project']}  commit {one['commit'][:8]}  {len(one['files'])} definitions" for one in told]
    print(json.dumps(told) if options.json else "\n".join(lines) or f"nothing is shared in {options.source}")


def give(project: Project, folder: Path) -> dict[str, Any]:
    """Copy this project's definitions to FOLDER/WORKSPACE; raises Refused when they are not what is committed."""
    defined = {
        kind: found[0] for kind, pattern in DEFINED_IN.items() if (found := sorted(project.folder.glob(pattern)))
    }
    names = [file.relative_to(project.folder).as_posix() for file in defined.values()]
    if changed := git(project, "status", "--porcelain", "--", *names):
        raise Refused(f"a definition is shared as committed, and these are not: {' '.join(changed.split())}")
    place = folder / store.read(project).workspace
    place.mkdir(parents=True, exist_ok=True)
    for file in defined.values():
        shutil.copyfile(file, place / file.name)
    entries = {kind: {"file": file.name, "sha256": files.sha256(place / file.name)} for kind, file in defined.items()}
    told = {"project": place.name, "commit": git(project, "rev-parse", "HEAD"), "files": entries}
    files.replaced(place / LIST, json.dumps(told, indent=2).encode())  # last: what is listed is whole
    return told


def take(project: Project, folder: Path, name: str) -> dict[str, Any]:
    """Copy the definitions of project NAME to shared/NAME; raises Refused when their bytes are not those it listed."""
    listed = folder / name / LIST
    if not listed.is_file():
        raise ProjectError(f"{folder} has no definitions of {name}: `share --from {folder}` lists whose there are")
    told = json.loads(listed.read_text(encoding="utf-8"))
    names = {entry["file"]: entry["sha256"] for entry in told["files"].values()}
    if strays := [inside for inside in names if Path(inside).name != inside]:
        raise Refused(f"{listed} names {strays[0]}, which is no plain file name")
    for inside, sha256 in names.items():
        if not (file := folder / name / inside).is_file() or files.sha256(file) != sha256:
            raise Refused(f"{file} is not what {name} shared (sha256 differs): ask its owner")
    (project.path(TAKEN) / name).mkdir(parents=True, exist_ok=True)
    for inside in [*names, LIST]:
        shutil.copyfile(folder / name / inside, project.path(TAKEN) / name / inside)
    return told
