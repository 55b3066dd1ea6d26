"""When is a model good enough? conf/success.yml as agreed before it was trained, and the judgement by it."""

from typing import Self

from pydantic import Field, model_validator

from ..core import settings
from ..core.project import Project


class Criterion(settings.Settings, frozen=True):
    """What one metric must reach: bounds, both included, and how much better than the baseline it must be."""

    min: float | None = None
    max: float | None = None
    margin: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def asks_something(self) -> Self:
        if self.min is None and self.max is None and self.margin is None:
            raise ValueError("asks for nothing: give it min, max or margin")
        return self


class Success(settings.Settings, frozen=True):
    metrics: dict[str, Criterion] = Field(min_length=1)


def read(project: Project) -> dict[str, Criterion]:
    """Return the criterion of each metric in conf/success.yml."""
    return settings.read(project, "success", Success).metrics


def asked(criteria: dict[str, Criterion]) -> str:
    """Return what CRITERIA ask for, with their limits, as it follows "must be"."""
    return "; ".join(f"{name} {wanted(one)}" for name, one in criteria.items())


def wanted(criterion: Criterion) -> str:
    """Return the limits of one criterion."""
    bounds = [(criterion.min, "or more"), (criterion.max, "or less")]
    limits = [f"{value:g} {which}" for value, which in bounds if value is not None]
    if criterion.margin is not None:
        limits.append(f"better than the baseline by {criterion.margin:g}" + " or more" * (criterion.margin > 0))
    return ", ".join(limits)


def measured_beside(metrics: dict[str, float], baseline: dict[str, float], criteria: dict[str, Criterion]) -> str:
    """Return what is held against CRITERIA: each metric, beside the baseline's where that counts."""
    nan = float("nan")
    return ", ".join(
        f"{name} {metrics.get(name, nan):.4f}"
        + (f" (baseline {baseline.get(name, nan):.4f})" if one.margin is not None else "")
        for name, one in criteria.items()
    )


def missed_criteria(
    project: Project, metrics: dict[str, float], baseline: dict[str, float], criteria: dict[str, Criterion]
) -> list[str]:
    """Return what METRICS miss, one sentence a criterion; an empty list means good enough.

    A metric that is absent or not a number misses its criterion.
    """
    missed = []
    for name, asked in criteria.items():
        value, trivial = metrics.get(name, float("nan")), baseline.get(name, float("nan"))
        higher = project.model.HIGHER_IS_BETTER.get(name, True)
        gain = value - trivial if higher else trivial - value
        if asked.min is not None and not value >= asked.min:
            missed.append(f"{name} is {value:.4f}, must be {asked.min:g} or more")
        if asked.max is not None and not value <= asked.max:
            missed.append(f"{name} is {value:.4f}, must be {asked.max:g} or less")
        if asked.margin is not None and not gain >= asked.margin:
            missed.append(f"{name} is {value:.4f}, baseline {trivial:.4f}: must be better by {asked.margin:g} or more")
    return missed
