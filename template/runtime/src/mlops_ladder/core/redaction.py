"""What a secret looks like, and output in which none stands: errors, progress, logs, messages, reports and records."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO, cast

STARS = "***"
PLACE = r"(?!\$\{\w+\})(?!\*\*\*)"  # ${NAME} names a secret and is none
STOP = r"\s\"'<>\\`"  # what ends an address, also within JSON or quotes
WORDS = r"[\w.-]*(?:token|passw(?:or)?d|passphrase|pwd|secret|signature|credential|api[_-]?key|access[_-]?key)[\w.-]*"
PATTERNS = (
    re.compile(rf"(://[^/:@{STOP}]*:){PLACE}(?!\d+[/?#])[^{STOP}]*(?=@)"),  # scheme://user:PASSWORD@host
    re.compile(rf"(\bhttps?://){PLACE}[^/:@{STOP}]+(?=@)"),  # https://TOKEN@host
    re.compile(rf"([?&;](?:{WORDS}|sig|key|auth|code)=){PLACE}[^&;#,)\]{STOP}]+", re.IGNORECASE),  # ?token=TOKEN
    re.compile(rf"((?<![\w.-])(?:{WORDS})\s?=\s?){PLACE}[^&;,)\]{STOP}]+", re.IGNORECASE),  # password=PASSWORD host=...
    re.compile(rf"(\b(?:Bearer|Basic)\s+){PLACE}[\w.~+/=-]{{8,}}"),
)
NAMED = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)  # variables
SHORTEST = 8  # characters of a variable's value that is looked for: a shorter one may be any word


def redact(text: str) -> str:
    """Return TEXT without a password or token in an address, and without the values of variables that hold secrets."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and NAMED.search(name):
            text = text.replace(value, f"${{{name}}}")
    if "=" in text or "://" in text or "Bearer" in text or "Basic" in text:
        for pattern in PATTERNS:
            text = pattern.sub(rf"\1{STARS}", text)
    return text


def redacted(value: Any) -> Any:
    """Return VALUE, as JSON has it, with each text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(one) for key, one in value.items()}
    return [redacted(one) for one in value] if isinstance(value, list | tuple) else value


class Redacted:
    """A stream of text that writes to another one what `redact` leaves; in all else it is that other one."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def plain(stream: TextIO) -> TextIO:
    """Return STREAM as it was before `output`: rows of data are written as they are."""
    return stream.stream if isinstance(stream, Redacted) else stream


@contextlib.contextmanager
def output() -> Iterator[None]:
    """Have everything that is printed within the block redacted, and what a traceback after it says."""
    sys.excepthook = report
    with (
        contextlib.redirect_stdout(cast(TextIO, Redacted(sys.stdout))),
        contextlib.redirect_stderr(cast(TextIO, Redacted(sys.stderr))),
    ):
        yield


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, redacted."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
