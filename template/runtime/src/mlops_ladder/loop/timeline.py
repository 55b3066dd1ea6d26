"""The model's time: a replay lives through a year in minutes, and what happened then is shown when it was for the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from ..core import files
from ..core.errors import ProjectError
from ..core.project import Project

FILE = Path("reports/simulation/timeline.json")  # what each replay of `simulate` adds itself to
AROUND = timedelta(days=1)  # before and after a replay its clock holds: then its model is made, and looked at
START = datetime(1970, 1, 1)
Moments = list[tuple[datetime, datetime]]  # (on this machine, for the model), both in UTC without a zone


@dataclass(frozen=True)
class Replay:
    """Seconds since 1970, both rising: when it was on this machine, and when it was for the model."""

    real: np.ndarray
    model: np.ndarray


class Timeline:
    """What the time was for the model at each moment of this machine: the same but around a replay."""

    def __init__(self, replays: list[Moments]) -> None:
        around = AROUND.total_seconds()
        self.replays: list[Replay] = []
        for moments in replays:
            real, model = np.array([[seconds(here), seconds(there)] for here, there in moments]).T
            ends = np.array([-around, around])
            self.replays.append(
                Replay(np.insert(real[[0, -1]] + ends, 1, real), np.insert(model[[0, -1]] + ends, 1, model))
            )

    def shift(self, moments: np.ndarray) -> np.ndarray:
        """Return MOMENTS of this machine, seconds since 1970, as those of the model."""
        shifted, known = moments.astype("float64"), np.zeros(len(moments), dtype=bool)
        for one in self.replays:
            begun = np.where(known, one.real[1], one.real[0])  # what follows another replay is that one's
            inside = (moments >= begun) & (moments <= one.real[-1])
            shifted[inside] = np.interp(moments[inside], one.real, one.model)
            known |= inside
        return shifted

    def at(self, moment: datetime) -> datetime:
        """Return MOMENT of this machine as that of the model."""
        return START + timedelta(seconds=float(self.shift(np.array([seconds(moment)]))[0])) if self.replays else moment

    def here(self, since: datetime, until: datetime) -> tuple[datetime, datetime]:
        """Return the span on this machine outside of which nothing is between SINCE and UNTIL for the model."""
        spans = [(seconds(since), seconds(until))]
        for one in self.replays:
            if one.model[0] <= spans[0][1] and spans[0][0] <= one.model[-1]:
                spans.append((one.real[0], one.real[-1]))
        first, last = min(span[0] for span in spans), max(span[1] for span in spans)
        return START + timedelta(seconds=first), START + timedelta(seconds=last)


def seconds(moment: datetime) -> float:
    return (moment - START).total_seconds()


def read(project: Project) -> Timeline:
    """Return the timeline of PROJECT; raises ProjectError where its file is none."""
    return Timeline(stored(project))


def stored(project: Project) -> list[Moments]:
    file = project.path(FILE)
    if not file.is_file():
        return []
    try:
        return [
            [(datetime.fromisoformat(here), datetime.fromisoformat(there)) for here, there in moments]
            for moments in files.read_json(file)["replays"]
        ]
    except (ValueError, KeyError, TypeError):
        raise ProjectError(
            f"{file} is no timeline of replays: delete it, dates are then those of this machine"
        ) from None


def add(project: Project, moments: Moments) -> None:
    """Keep that a replay went by: MOMENTS, oldest first."""
    told = [[[str(here), str(there)] for here, there in one] for one in [*stored(project), moments] if one]
    project.path(FILE).parent.mkdir(parents=True, exist_ok=True)
    files.replaced(project.path(FILE), json.dumps({"replays": told}).encode())
