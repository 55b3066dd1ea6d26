"""Run a command and, when it fails, tell the receivers of conf/notify.yml by webhook, mail or chat.

python -m {package} notify train
python -m {package} notify --message "a first test"

It ends with the exit code of the command, whether or not anybody could be told.
"""

import argparse
import collections
import logging
import platform
import signal
import subprocess
import sys
from typing import Annotated

import pydantic

from . import settings
from .errors import ProjectError, UsageError
from .project import Project
from .redaction import redact


class Notify(settings.Settings, frozen=True):
    receivers: list[Annotated[str, pydantic.Field(pattern=r"\$\{\w+\}")]] = pydantic.Field(min_length=1)
    last_lines: pydantic.PositiveInt


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--message", help="run nothing, send this")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command to run, with its options")


def run(project: Project, options: argparse.Namespace) -> int:
    if bool(options.message) == bool(options.command):
        raise UsageError("name either a command to run or a --message to send")
    conf = settings.read(project, "notify", Notify)
    if options.message:
        tell(conf.receivers, f"{project.package} on {platform.node()}", options.message)
        print(f"told {', '.join(conf.receivers)}")
        return 0
    code, said = follow(project, options.command, conf.last_lines)
    if code:
        try:
            tell(conf.receivers, f"{project.package} {options.command[0]}: exit code {code} on {platform.node()}", said)
        except ProjectError as error:
            print(f"error: {error}", file=sys.stderr)
    return code


def follow(project: Project, words: list[str], last_lines: int) -> tuple[int, str]:
    """Run a command of this project; return its exit code, 128 + N after signal N, and the last it said on stderr."""
    said: collections.deque[str] = collections.deque(maxlen=last_lines)
    with subprocess.Popen(
        project.command(*words), cwd=project.folder, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        previous = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        for line in child.stderr or ():
            sys.stderr.write(line)
            said.append(line)
        code = child.wait()
        signal.signal(signal.SIGTERM, previous)
    return code if code >= 0 else 128 - code, "".join(said)


def tell(receivers: list[str], title: str, body: str) -> None:
    """Send a message to each of these addresses, whose ${NAME} are read from the environment.

    Raises ProjectError, once all were tried, that names those which were not told and why; never a secret.
    """
    import apprise

    title, body = redact(title), redact(body)
    failures = []
    for receiver in receivers:
        channel = apprise.Apprise()
        with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as log:
            try:
                if not channel.add(settings.expand(receiver)):
                    failures.append(f"{receiver} is no address that apprise knows, see conf/notify.yml")
                elif not channel.notify(body or "It said nothing.", title, apprise.NotifyType.FAILURE):
                    failures.append(f"{receiver} did not take it: {settings.hide(log.getvalue().strip(), receiver)}")
            except ProjectError as error:
                failures.append(str(error))
    if failures:
        raise ProjectError(f"not told to {len(failures)} of {len(receivers)} receivers: {'; '.join(failures)}")
