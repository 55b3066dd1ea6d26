"""Run a command of a project: python -m PACKAGE COMMAND. Levels register theirs, the user's stand in src/PACKAGE/commands/."""

import argparse
import difflib
import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

from . import lazy, levels, redaction
from .errors import ProjectError
from .project import Project

CLIMB = "uvx copier update --vcs-ref=:current: --skip-answered --data level={level}"


def main(project: Project, argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 error, 2 usage, 3 checked and refused. It prints no secret."""
    with redaction.output():
        return run(project, argv)


def run(project: Project, argv: list[str] | None = None) -> int:
    """Do the same, printing what comes."""
    words = sys.argv[1:] if argv is None else argv
    if os.getpid() == 1:  # the first process of a container hears SIGTERM only when it asks for it
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    # Threads that wait for their next part spin otherwise: on a busy machine a fit, and each prediction, took 10 times as
    # long. It counts only when set before numpy and scikit-learn are imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not words or words[0] in ("-h", "--help"):
        print(usage(project))
        return 0
    name, *rest = words
    if name not in known(project):
        print(f"error: {unknown(project, name)}", file=sys.stderr)
        return 2
    module = load(project, name)
    parser = argparse.ArgumentParser(
        prog=f"python -m {project.package} {name}",
        description=str(module.__doc__).replace("{package}", project.package),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if hasattr(module, "arguments"):
        module.arguments(parser)
    try:
        options = inside(project, parser.parse_args(rest))
        if hasattr(module, "check") and name in levels.registered(project, "commands"):
            with lazy.imports():
                module.check(project, options)
        lazy.load()
        return module.run(project, options) or 0
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ProjectError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def inside(project: Project, options: argparse.Namespace) -> argparse.Namespace:
    """Return OPTIONS with each path taken from the project's folder, which for a command is the current one.

    What is kept or sent for people to read, a reason or a message, holds no secret from here on.
    """
    for name, value in vars(options).items():
        if name in ("reason", "message"):
            setattr(options, name, redaction.redacted(value))
        if isinstance(value, Path):
            setattr(options, name, project.path(value))
        elif isinstance(value, list):
            setattr(options, name, [project.path(part) if isinstance(part, Path) else part for part in value])
    return options


def own(project: Project) -> dict[str, Path]:
    """Return the user's commands, by name: the modules in src/PACKAGE/commands/."""
    files = sorted((project.source / "commands").glob("[!_]*.py"))
    return {file.stem.replace("_", "-"): file for file in files}


def known(project: Project) -> dict[str, Path]:
    """Return the file of each command, by name, without importing it."""
    files = {}
    for name, module in levels.registered(project, "commands").items():
        spec = importlib.util.find_spec(f"mlops_ladder.{module}")
        assert spec and spec.origin, module
        files[name] = Path(spec.origin)
    return dict(sorted({**own(project), **files}.items()))


def load(project: Project, name: str) -> ModuleType:
    """Return the module of command NAME; the runtime's goes before one of the user's."""
    registered = levels.registered(project, "commands")
    if name not in registered:
        return project.module(f"commands.{name.replace('-', '_')}")
    with lazy.imports():
        return levels.load(registered[name])


def unknown(project: Project, name: str) -> str:
    """Return what to say of a command that PROJECT has not: the level that brings it, or the nearest names."""
    for level, names in levels.COMMANDS.items():
        if name in names.split():
            return f"{name} comes with level {level}: climb with `{CLIMB.format(level=level)}`"
    there = list(known(project))
    near = difflib.get_close_matches(name, there, n=1)
    return f"no command {name!r}{f', do you mean {near[0]}?' if near else '.'} There are: {', '.join(there)}"


def usage(project: Project) -> str:
    """Return the list of commands, each with the first line of its help."""
    lines = [f"usage: python -m {project.package} COMMAND [options]", "", "commands:"]
    for name, file in known(project).items():
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        lines.append(f"  {name:<16}{first.strip(chr(34))}")
    lines += ["", f"python -m {project.package} COMMAND --help tells more."]
    lines += ["exit codes: 0 done, 1 error, 2 usage, 3 checked and refused"]
    return "\n".join(lines)
