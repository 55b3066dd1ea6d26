"""Charts as inline SVG for the pages of `monitor`, `dashboard` and `simulate`, each with its numbers as a table."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from math import ceil, floor, isfinite, log10
from typing import Any

from ..core.pages import Html, details, mark, quiet, table

N_COLOURS = 6  # told apart by those who see few colours
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 200, 50, 14, 16, 26
N_LISTED = 400  # rows of the numbers beneath a chart
Series = Mapping[str, Sequence[tuple[datetime | float, float]]]


def signals(measured: Iterable[dict[str, Any]]) -> Html:
    """Return a table of signals as conf/monitoring.yml and the report have them."""
    head = ["signal", "of", "value", "from", "to", "threshold", "state", "owner", "what to do"]
    rows = []
    for one in measured:
        place, state = (
            one.get("column") or one.get("slice") or "",
            mark("fired", True) if one["fired"] else mark("fine"),
        )
        numbers = [None if one.get(key) is None else float(one[key]) for key in ("value", "low", "high", "threshold")]
        state = state if one["value"] is not None else one.get("why", "not measured")
        rows.append([one["name"], place, *numbers, state, one["owner"], one["runbook"]])
    return table(head, rows, "signals")


def legend(names: Iterable[str]) -> Html:
    """Return which colour is whose."""
    box = '<svg viewBox="0 0 8 8" aria-hidden="true"><rect width="8" height="8" class="f{}"/></svg>'
    spans = [f"<span>{box.format(i % N_COLOURS)}{escape(name)}</span> " for i, name in enumerate(names)]
    return Html(f'<p class="legend quiet">{"".join(spans)}</p>')


def lines(
    series: Series,
    limit: float | None = None,
    zero: bool = True,
    events: Mapping[datetime, str] | None = None,
    name: str = "",
) -> Html:
    """Return lines over time, or over a number, one a name; LIMIT is a dashed line across, each of EVENTS one upright.

    ZERO: the axis starts at 0. A single moment makes no line: it is told.
    """
    drawn = {key: [(x, y) for x, y in points if y is not None and isfinite(y)] for key, points in series.items()}
    drawn = {key: sorted(points, key=lambda one: number(one[0])) for key, points in drawn.items() if points}
    if not drawn:
        return quiet("nothing yet")
    flat = [point for points in drawn.values() for point in points]
    moments = sorted({x for x, _ in flat}, key=number)
    if len(moments) == 1:
        return quiet(
            f"only {written(moments[0])} so far: "
            + ", ".join(f"{key} {points[0][1]:.4g}" for key, points in drawn.items())
        )
    low, high = bounds([y for _, y in flat] + ([limit] if limit is not None else []), zero)
    first, span = number(moments[0]), number(moments[-1]) - number(moments[0])

    def across(x: Any) -> float:
        return LEFT + (number(x) - first) / span * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (high - y) / (high - low) * (HEIGHT - BOTTOM - TOP)

    parts = axes(low, high, [(label(x, span), across(x)) for x in spread(moments)])
    if limit is not None:
        parts.append(across_line(down(limit)))
    parts += upright(
        {across(when): title for when, title in (events or {}).items() if 0 <= number(when) - first <= span}
    )
    for i, (key, points) in enumerate(drawn.items()):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" class="line s{i % N_COLOURS}"/>')
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="{2.5 if len(points) < 40 else 1.2}" class="f{i % N_COLOURS}">'
            f"<title>{escape(key)} {written(x)}: {y:.4g}</title></circle>"
            for x, y in points
        ]
    by_moment = {key: dict(points) for key, points in drawn.items()}
    rows = [[written(x), *(values.get(x) for values in by_moment.values())] for x in moments[-N_LISTED:]]
    head = ["when" if isinstance(moments[0], datetime) else "at", *drawn]
    return Html(drawing(parts, name) + (legend(drawn) if len(drawn) > 1 else "") + numbers(head, rows))


def bars(
    values: Mapping[str, Sequence[float]], names: Sequence[str] = (), limit: float | None = None, name: str = ""
) -> Html:
    """Return a group of bars a key of VALUES, a colour each of NAMES; LIMIT is a dashed line."""
    if not values:
        return quiet("nothing yet")
    every = [value for group in values.values() for value in group]
    low, high = min(*every, 0.0), max(*every, limit or 0.0, 1e-9) * 1.06
    wide = (WIDTH - LEFT - RIGHT) / len(values)

    def down(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - BOTTOM - TOP)

    shown = [(key, LEFT + wide * (i + 0.5)) for i, key in enumerate(values)]
    parts = axes(low, high, shown if len(shown) < 9 else [shown[i] for i in spread(range(len(shown)))])
    for (key, middle), group in zip(shown, values.values(), strict=True):
        each = wide * 0.8 / len(group)
        for i, value in enumerate(group):
            x, y, tall = middle - wide * 0.4 + i * each, down(max(value, 0.0)), abs(down(value) - down(0))
            title = f"{key}{' ' + names[i] if names else ''}: {value:.4g}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(each - 1, 0.5):.1f}" height="{tall:.1f}" class="f{i % N_COLOURS}">'
                f"<title>{escape(title)}</title></rect>"
            )
    if limit is not None:
        parts.append(across_line(down(limit)))
    head = ["of", *(names or ["value"])]
    rows = [[key, *map(float, group)] for key, group in values.items()]
    return Html(drawing(parts, name) + (legend(names) if len(names) > 1 else "") + numbers(head, rows))


def bounds(values: Sequence[float], zero: bool) -> tuple[float, float]:
    """Return where an axis begins and ends so that VALUES have some room; with ZERO it holds 0."""
    low, high = min(*values, 0.0) if zero else min(values), max(values)
    high += (high - low) * 0.08 or abs(high) * 0.1 or 1
    return low - (0 if zero else (high - low) * 0.08), high


def numbers(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """Return what a chart shows for those who cannot see it, or want to read a value off."""
    return details("as numbers", table(head, rows, "numbers of the chart"))


def across_line(y: float) -> str:
    return f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="limit"/>'


def upright(events: Mapping[float, str]) -> list[str]:
    """Return a line down the chart at each x of EVENTS, its name on top where there is room."""
    parts, end = list[str](), 0.0
    for x, title in sorted(events.items()):
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 2}" y2="{HEIGHT - BOTTOM}" class="event"><title>{escape(title)}</title></line>'
        )
        half = 3.4 * len(title)
        middle = min(max(x, LEFT + half), WIDTH - 4 - half)
        if middle - half >= end:
            parts.append(f'<text x="{middle:.1f}" y="11" text-anchor="middle">{escape(title)}</text>')
            end = middle + half + 5
    return parts


def axes(low: float, high: float, marks: Iterable[tuple[str, float]]) -> list[str]:
    """Return the lines and names of round numbers between LOW and HIGH, and MARKS: (name, x) below."""
    size = 10 ** floor(log10((high - low) / 5))
    step = next(size * n for n in (1, 2, 5, 10) if size * n >= (high - low) / 5)
    parts = []
    for i in range(ceil(low / step), floor(high / step) + 1):
        y = TOP + (high - i * step) / (high - low) * (HEIGHT - BOTTOM - TOP)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{brief(i * step)}</text>')
    end = 0.0
    for title, x in marks:
        half = 3.9 * len(title)  # of its width: a letter takes some 7 units, on a phone
        x = min(max(x, LEFT + min(half, 14)), WIDTH - half)
        if x - half < end:
            continue  # it would stand on its neighbour
        end = x + half + 6
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="middle">{escape(title)}</text>')
    return parts


def drawing(parts: Iterable[str], name: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name or "chart")}">{"".join(parts)}</svg>'
    )


def spread(values: Sequence[Any]) -> list[Any]:
    """Return up to five of VALUES, evenly, the first and the last among them."""
    n = min(5, len(values))
    return [values[round(i * (len(values) - 1) / max(n - 1, 1))] for i in range(n)]


def number(x: datetime | float) -> float:
    return x.timestamp() if isinstance(x, datetime) else float(x)


def label(x: datetime | float, span: float) -> str:
    """Return X as it stands below an axis that is SPAN long, of time in seconds."""
    if not isinstance(x, datetime):
        return f"{x:.3g}"
    if span < timedelta(days=2).total_seconds():
        return f"{x:%H:%M}"
    return f"{x.day} {x:%b}" if span < timedelta(days=300).total_seconds() else f"{x:%b %Y}"


def written(x: datetime | float) -> str:
    """Return X in full: a time to the minute, noon as the day that it stands for."""
    if not isinstance(x, datetime):
        return f"{x:.4g}"
    return f"{x:%Y-%m-%d}" if (x.hour, x.minute) == (12, 0) else f"{x:%Y-%m-%d %H:%M}"


def brief(value: float) -> str:
    size, unit = next(
        ((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= size), (1, "")
    )
    return f"{value / size:.3g}{unit}"
