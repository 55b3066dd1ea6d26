"""Run a command of this project: python -m PACKAGE COMMAND. The template's file; your own commands stand in commands/."""

import sys
from pathlib import Path

from mlops_ladder import Project
from mlops_ladder.core import commands

PROJECT = Project(__package__, source=Path(__file__).parent)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 error, 2 usage, 3 checked and refused."""
    return commands.main(PROJECT, argv)


if __name__ == "__main__":
    sys.exit(main())
