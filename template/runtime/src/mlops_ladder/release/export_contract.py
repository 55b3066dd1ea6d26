"""Write contracts/model.schema.json: what a caller may send and gets, as this code has it. Commit it once callers agree.

python -m {package} export-contract
python -m {package} export-contract --check    # exit 3 when this code breaks a contract in contracts/, as the gate would
"""

import argparse
import json

from ..core.errors import Refused
from ..core.project import Project
from .gates import contract


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing, compare with each contracts/*.json")


def run(project: Project, options: argparse.Namespace) -> None:
    offered = contract.offered(
        project, {name: project.data.SCHEMA[name] for name in project.features.COLUMNS}, project.model.OUTPUT
    )
    files = sorted(project.path(contract.CONTRACTS).glob("*.json"))
    if options.check:
        if not files:
            raise Refused(contract.ABSENT)
        told = {file: contract.breaks(json.loads(file.read_text(encoding="utf-8")), offered) for file in files}
        if broken := [f"{file}: {line}" for file, lines in told.items() for line in lines]:
            raise Refused("\n  ".join(["this code breaks what consumers rely on:", *broken]))
        return print(f"{len(files)} contracts hold")
    project.path(contract.CONTRACTS).mkdir(exist_ok=True)
    file = project.path(contract.CONTRACTS) / "model.schema.json"
    file.write_text(json.dumps(offered, indent=2) + "\n", encoding="utf-8")
    print(f"{len(offered['input']['properties'])} columns in, {project.model.OUTPUT} out: {file.as_posix()}")
