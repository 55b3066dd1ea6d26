"""Say whether a day is a rush. The user's own command.

python -m {package} rush 2013-11-27
"""

import argparse
import datetime

from mlops_ladder import Project

from .. import holidays


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("day", type=datetime.date.fromisoformat)


def run(project: Project, options: argparse.Namespace) -> None:
    print("rush" if holidays.is_rush(options.day) else "quiet")
