"""What a first model reached, the limits that follow from it, and how one of a text's lines gets them."""

import math
import re
from dataclasses import dataclass, field

from .modules import number

FLIGHTS_SD = 40  # minutes; standard deviation of the flights' delay, by which limits in minutes are scaled


@dataclass
class Fit:
    """What a first model reached on rows that it did not learn from, and what a trivial prediction did."""

    metrics: dict[str, float]
    baseline: dict[str, float]
    sd: float  # of the target
    rate: float  # mean of the target
    ends: list[tuple[str, object, object]] = field(default_factory=list)
    gaps: dict[str, float] = field(default_factory=dict)  # largest difference between two slices, and the worst slice
    warnings: list[str] = field(default_factory=list)
    weak: list[str] = field(default_factory=list)  # families of model.py that are no better than its baseline


def put(text: str, pattern: str, new: str, count: int = 1) -> str:
    """Return TEXT with what PATTERN matches replaced by NEW; raises LookupError when it is not there COUNT times."""
    changed, n = re.subn(
        pattern, lambda match: match.expand(new) if "\\g" in new else new, text, flags=re.MULTILINE | re.DOTALL
    )
    if n != count:
        raise LookupError(f"{pattern!r} is there {n} times, not {count}")
    return changed


def scaled(value: float, fit: Fit) -> str:
    """Return a limit in minutes of the flights in units of the target, with two digits."""
    return significant(limit(value, fit))


def limit(value: float, fit: Fit) -> float:
    return value * fit.sd / FLIGHTS_SD


def significant(value: float, digits: int = 2) -> str:
    return number(float(f"{value:.{digits}g}"))


def allowed(least: float, fit: Fit, name: str) -> str:
    """Return the largest difference between groups: LEAST, or half as much again as the first model's."""
    return significant(max(least, 1.5 * fit.gaps.get(name, 0.0)))


def chance(n_rows: int) -> str:
    """Return by how much the difference of two models, a share of 1, moves by chance on N_ROWS: 0.01 to 0.1."""
    return significant(min(0.1, max(0.01, 0.5 / math.sqrt(max(n_rows, 1)))), 1)
