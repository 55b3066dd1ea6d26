"""Progress of long work, on stderr: results alone go to stdout."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

AFTER_S = 2.0  # what is over sooner needs no progress
EACH_S = 0.5  # between two looks at it
T = TypeVar("T")


def say(line: str) -> None:
    """Tell a person how far it is."""
    clear()
    print(line, file=sys.stderr, flush=True)


def clear() -> None:
    """Take away what `Steps` shows on this line, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


class Steps:
    """How far WHAT is, of N_STEPS, with an estimate of what is left: one line on stderr, when that is a terminal."""

    def __init__(self, what: str, n_steps: int) -> None:
        self.what, self.n_steps = what, n_steps
        self.began = self.shown = time.monotonic()
        self.to_terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.to_terminal and self.shown > self.began:
            clear()
            sys.stderr.flush()

    def done(self, n_done: int, now: str = "") -> None:
        """Show that N_DONE steps are over and, in NOW, which one is under way; seldom, and not of what is soon over."""
        moment = time.monotonic()
        if self.to_terminal and moment - self.shown >= EACH_S and moment - self.began >= AFTER_S:
            self.shown = moment
            clear()
            sys.stderr.write(self.line(n_done, moment - self.began, now))
            sys.stderr.flush()

    def line(self, n_done: int, seconds: float, now: str = "") -> str:
        """Return how far it is after SECONDS, as it is shown."""
        left = f", about {duration(seconds / n_done * (self.n_steps - n_done))} left" if n_done else ""
        return f"{self.what}: {n_done:,} of {self.n_steps:,}{f' ({now})' * bool(now)}, {duration(seconds)}{left}"

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield ITEMS, each a step, and show how far it is."""
        with self:
            for n_done, item in enumerate(items):
                self.done(n_done, str(item) if isinstance(item, str) else "")
                yield item


def duration(seconds: float) -> str:
    """Return SECONDS as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
