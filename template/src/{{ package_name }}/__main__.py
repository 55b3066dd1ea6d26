"""Run a command of this project: python -m PACKAGE COMMAND. Commands are found in ops/, not listed here."""

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

from .ops import ProjectError

OPS = Path(__file__).parent / "ops"


def commands() -> dict[str, str]:
    """Return each command's name and the first line of its help, without importing it."""
    found = {}
    for file in sorted(OPS.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\ndef run(" in text:
            found[file.stem.replace("_", "-")] = text.partition("\n")[0].strip('"')
    return found


def usage() -> str:
    lines = [f"usage: python -m {__package__} COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<16}{line}" for name, line in commands().items()]
    lines += ["", f"python -m {__package__} COMMAND --help tells more."]
    lines += ["exit codes: 0 done, 1 error, 2 usage, 3 checked and refused"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 error, 2 usage, 3 checked and refused."""
    words = sys.argv[1:] if argv is None else argv
    if os.getpid() == 1:  # the first process of a container hears SIGTERM only when it asks for it
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    # Threads that wait for their next part spin otherwise: on a busy machine a fit, and each prediction, took 10 times as
    # long. It counts only when set before numpy and scikit-learn are imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name, *rest = words
    if name not in commands():
        print(f"error: no command {name!r}; there are: {', '.join(commands())}", file=sys.stderr)
        return 2
    module = importlib.import_module(f".ops.{name.replace('-', '_')}", __package__)
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__} {name}",
        description=str(module.__doc__).replace("{package}", str(__package__)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if hasattr(module, "arguments"):
        module.arguments(parser)
    try:
        return module.run(parser.parse_args(rest)) or 0
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ProjectError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
