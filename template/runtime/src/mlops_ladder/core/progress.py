"""Progress of long work, on stderr: results alone go to stdout."""

import sys


def say(line: str) -> None:
    """Tell a person how far it is."""
    print(line, file=sys.stderr, flush=True)
