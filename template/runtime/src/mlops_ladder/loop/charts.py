"""Pages that need nothing from outside: their style, tables, and charts as inline SVG. For `monitor` and `dashboard`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from math import ceil, floor, isfinite, log10
from typing import Any

COLOURS = ("#2563a8", "#c2571a", "#2f8f5b", "#8a4fa3", "#8c6d1f", "#5f6b7a")  # told apart by those who see few colours
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 190, 52, 24
STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; margin: 0; background: #f4f5f7; color: #1c2430}
main {max-width: 1240px; margin: 0 auto; padding: 1.2rem 1.5rem 3rem}
h1 {font-size: 1.5rem; margin: .4rem 0} h2 {font-size: 1.1rem; margin: 0 0 .5rem} p {margin: .3rem 0}
section {background: #fff; border: 1px solid #dde1e6; border-radius: 8px; padding: .9rem 1.1rem; margin-top: 1rem; overflow-x: auto}
.grid {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 1rem; margin-top: 1rem}
.grid section {margin: 0} .tiles {display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem}
.tile {background: #fff; border: 1px solid #dde1e6; border-radius: 8px; padding: .6rem 1rem; min-width: 8rem}
.tile b {display: block; font-size: 1.35rem} .tile > span, .quiet {color: #5a6573}
table {border-collapse: collapse; width: 100%} th {text-align: left; font-weight: 600; color: #5a6573}
th, td {white-space: nowrap; border-top: 1px solid #e6e9ed; padding: .3rem 1.2rem .3rem 0; vertical-align: top} tr:first-child th {border-top: 0}
td.long {white-space: normal} td.n, th.n {text-align: right; font-variant-numeric: tabular-nums} .fired {color: #b3261e; font-weight: 600} .fine {color: #2f7d4f}
svg {display: block; width: 100%; height: auto} svg text {font: 11px system-ui, sans-serif; fill: #5a6573}
.legend span {margin-right: 1rem; white-space: nowrap} .legend i {display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem}
"""


class Html(str):
    """Text that is HTML already."""


def page(title: str, *parts: str) -> str:
    """Return a whole page; it asks for nothing, and may run nothing."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    )
    return "\n".join([head, f"<body><main><h1>{escape(title)}</h1>", *parts, "</main></body></html>", ""])


def section(title: str, *parts: str) -> Html:
    return Html(f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>")


def grid(parts: Iterable[tuple[str, str]]) -> Html:
    return Html(f'<div class="grid">{"".join(section(title, part) for title, part in parts)}</div>')


def tiles(told: Mapping[str, Any]) -> Html:
    """Return big numbers with what they are beneath."""
    one = "".join(
        f'<div class="tile"><b>{cell(value)}</b><span>{escape(name)}</span></div>' for name, value in told.items()
    )
    return Html(f'<div class="tiles">{one}</div>')


def quiet(text: str) -> Html:
    return Html(f'<p class="quiet">{escape(text)}</p>')


def mark(text: str, fired: bool = False) -> Html:
    return Html(f'<span class="{"fired" if fired else "fine"}">{escape(text)}</span>')


def cell(value: Any) -> str:
    if value is None or isinstance(value, Html):
        return value or ""
    return (
        f"{value:.4g}" if isinstance(value, float) else escape(f"{value:,}" if isinstance(value, int) else str(value))
    )


def table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> Html:
    """Return a table; a column of numbers stands to the right."""
    cells = [list(row) for row in rows]
    if not cells:
        return quiet("none")
    numeric = [all(isinstance(row[i], int | float | None) for row in cells) for i in range(len(head))]
    how = [' class="n"' if one else "" for one in numeric]
    lines = ["".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(head, how, strict=True))]
    for row in cells:
        kinds = [' class="long"' if len(str(value)) > 30 else kind for value, kind in zip(row, how, strict=True)]
        lines.append("".join(f"<td{kind}>{cell(value)}</td>" for value, kind in zip(row, kinds, strict=True)))
    return Html(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")


def signals(told: Iterable[dict[str, Any]]) -> Html:
    """Return a table of signals as conf/monitoring.yml and the report have them."""
    head = ["signal", "of", "value", "from", "to", "threshold", "", "owner", "what to do"]
    rows = []
    for one in told:
        place, state = (
            one.get("column") or one.get("slice") or "",
            mark("fired", True) if one["fired"] else mark("fine"),
        )
        numbers = [None if one.get(key) is None else float(one[key]) for key in ("value", "low", "high", "threshold")]
        state = state if one["value"] is not None else quiet(one.get("why", "not measured"))
        rows.append([one["name"], place, *numbers, state, one["owner"], one["runbook"]])
    return table(head, rows)


def legend(names: Iterable[str]) -> Html:
    spans = [f'<span><i style="background:{COLOURS[i % 6]}"></i>{escape(name)}</span>' for i, name in enumerate(names)]
    return Html(f'<p class="legend quiet">{"".join(spans)}</p>')


def lines(
    series: Mapping[str, Sequence[tuple[datetime | float, float]]], limit: float | None = None, zero: bool = True
) -> Html:
    """Return lines over time, or over a number, one a name; LIMIT is a dashed line. ZERO: the axis starts at 0."""
    drawn = {name: [(x, y) for x, y in points if y is not None and isfinite(y)] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return quiet("nothing yet")
    flat = [point for points in drawn.values() for point in points]
    xs = [number(x) for x, _ in flat]
    ys = [y for _, y in flat] + ([limit] if limit is not None else [])
    low, high = min(*ys, 0.0) if zero else min(ys), max(ys)
    high += (high - low) * 0.06 or abs(high) * 0.1 or 1
    low -= 0 if zero else (high - low) * 0.06
    first, span = min(xs), max(xs) - min(xs)
    first, span = (first, span) if span else (first - 0.5, 1)  # a single moment stands in the middle
    brief_day = (
        isinstance(flat[0][0], datetime) and 1 < span < 86400
    )  # all on one day or two: its hours tell them apart

    def at(x: Any, y: float) -> tuple[float, float]:
        right, down = WIDTH - LEFT - 14, HEIGHT - BOTTOM - 8
        return LEFT + (number(x) - first) / span * right, 8 + (high - y) / (high - low) * down

    parts = axes(low, high, [(label(x, brief_day), at(x, low)[0]) for x in spread(sorted({x for x, _ in flat}))])
    if limit is not None:
        y = at(flat[0][0], limit)[1]
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 14}" y1="{y:.1f}" y2="{y:.1f}" stroke="#b3261e" stroke-dasharray="5 4"/>'
        )
    for i, (name, points) in enumerate(drawn.items()):
        colour, places = COLOURS[i % 6], [(at(x, y), x, y) for x, y in sorted(points, key=lambda one: number(one[0]))]
        path = " ".join(f"{x:.1f},{y:.1f}" for (x, y), _, _ in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.5 if len(places) < 40 else 1.2}" fill="{colour}"><title>{escape(name)} {label(when, brief_day)}: {value:.4g}</title></circle>'
            for (x, y), when, value in places
        ]
    return Html(drawing(parts) + (legend(drawn) if len(drawn) > 1 else ""))


def bars(told: Mapping[str, Sequence[float]], names: Sequence[str] = (), limit: float | None = None) -> Html:
    """Return a group of bars a key of TOLD, a colour each of NAMES; LIMIT is a dashed line."""
    if not told:
        return quiet("nothing yet")
    values = [value for group in told.values() for value in group]
    low, high = min(*values, 0.0), max(*values, limit or 0.0, 1e-9) * 1.06
    wide = (WIDTH - LEFT - 14) / len(told)

    def down(value: float) -> float:
        return 8 + (high - value) / (high - low) * (HEIGHT - BOTTOM - 8)

    shown = [(key, LEFT + wide * (i + 0.5)) for i, key in enumerate(told)]
    parts = axes(low, high, shown if len(shown) < 9 else [shown[i] for i in spread(range(len(shown)))])
    for (key, middle), group in zip(shown, told.values(), strict=True):
        each = wide * 0.8 / len(group)
        for i, value in enumerate(group):
            x, y, tall = middle - wide * 0.4 + i * each, down(max(value, 0.0)), abs(down(value) - down(0))
            title = f"{key}{' ' + names[i] if names else ''}: {value:.4g}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(each - 1, 0.5):.1f}" height="{tall:.1f}" fill="{COLOURS[i % 6]}">'
                f"<title>{escape(title)}</title></rect>"
            )
    if limit is not None:
        y = down(limit)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 14}" y1="{y:.1f}" y2="{y:.1f}" stroke="#b3261e" stroke-dasharray="5 4"/>'
        )
    return Html(drawing(parts) + (legend(names) if len(names) > 1 else ""))


def axes(low: float, high: float, marks: Iterable[tuple[str, float]]) -> list[str]:
    """Return the lines and names of round numbers between LOW and HIGH, and MARKS: (name, x) below."""
    size = 10 ** floor(log10((high - low) / 5))
    step = next(size * n for n in (1, 2, 5, 10) if size * n >= (high - low) / 5)
    parts = []
    for i in range(ceil(low / step), floor(high / step) + 1):
        y = 8 + (high - i * step) / (high - low) * (HEIGHT - BOTTOM - 8)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 14}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e6e9ed"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{brief(i * step)}</text>')
    end = 0.0
    for text, x in marks:
        x = min(max(x, LEFT + 14), WIDTH - 34)
        half = 3.2 * len(text)  # of its width: a letter takes some 6 units
        if x - half < end:
            continue  # it would stand on its neighbour
        end = x + half + 6
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(text)}</text>')
    return parts


def drawing(parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def spread(values: Sequence[Any]) -> list[Any]:
    """Return up to five of VALUES, evenly, the first and the last among them."""
    n = min(5, len(values))
    return [values[round(i * (len(values) - 1) / max(n - 1, 1))] for i in range(n)]


def number(x: datetime | float) -> float:
    return x.timestamp() if isinstance(x, datetime) else float(x)


def label(x: datetime | float, within_day: bool = False) -> str:
    if isinstance(x, datetime):
        return f"{x:%H:%M}" if within_day else f"{x:%Y-%m-%d}"
    return f"{x:.3g}"


def brief(value: float) -> str:
    size, unit = next(
        ((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= size), (1, "")
    )
    return f"{value / size:.3g}{unit}"
