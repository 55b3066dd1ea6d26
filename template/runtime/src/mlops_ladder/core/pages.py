"""Pages for people, all of one look: they need nothing from outside, run nothing, and suit a phone, the dark and a keyboard."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

LONG = 30  # characters of a cell from which on it is broken into lines
STYLE = """
:root {color-scheme: light dark; --page: #f4f5f7; --card: #fff; --line: #dde1e6; --faint: #e6e9ed; --ink: #1c2430; --quiet: #55606e;
 --bad: #b3261e; --good: #22703f; --c0: #2563a8; --c1: #c2571a; --c2: #2f8f5b; --c3: #8a4fa3; --c4: #8c6d1f; --c5: #5f6b7a}
@media (prefers-color-scheme: dark) {:root {--page: #14181d; --card: #1c2229; --line: #333d48; --faint: #2a323c; --ink: #e4e8ec;
 --quiet: #a3aebb; --bad: #ff8f85; --good: #7fd19b; --c0: #6ea8e8; --c1: #f0945a; --c2: #67c78f; --c3: #c493da; --c4: #d4b35a; --c5: #a3afbd}}
* {box-sizing: border-box}
body {font: 15px/1.5 system-ui, sans-serif; margin: 0; background: var(--page); color: var(--ink)}
main {max-width: 1280px; margin: 0 auto; padding: 1.2rem 1.5rem 3rem}
h1 {font-size: 1.5rem; line-height: 1.25; margin: .4rem 0; overflow-wrap: anywhere} h2 {font-size: 1.05rem; margin: 0 0 .5rem}
p {margin: .3rem 0; overflow-wrap: anywhere} code {font: .92em ui-monospace, monospace; overflow-wrap: anywhere}
section {background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem; margin-top: 1rem; min-width: 0}
.lead {font-size: 1.12rem; max-width: 52rem} .quiet {color: var(--quiet)} .bad {color: var(--bad); font-weight: 600} .good {color: var(--good)}
.grid {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 370px), 1fr)); gap: 1rem; margin-top: 1rem} .grid section {margin: 0}
.tiles {display: grid; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); gap: .8rem; margin-top: 1rem}
.tile {background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; overflow-wrap: anywhere}
.tile b {display: block; font-size: 1.3rem} .tile > span {display: block; color: var(--quiet); font-size: .88rem; line-height: 1.3}
.wide {overflow-x: auto} .wide:focus-visible, summary:focus-visible {outline: 2px solid var(--c0); outline-offset: 2px}
table {border-collapse: collapse; width: 100%} th {text-align: left; font-weight: 600; color: var(--quiet)}
th, td {white-space: nowrap; border-top: 1px solid var(--faint); padding: .3rem 1.2rem .3rem 0; vertical-align: top} thead th {border-top: 0}
td.long {white-space: normal; min-width: 15rem} td.n, th.n {text-align: right; font-variant-numeric: tabular-nums}
details {margin-top: .3rem; color: var(--quiet)} summary {cursor: pointer; font-size: .88rem} details .wide {max-height: 16rem; overflow-y: auto}
svg {display: block; width: 100%; height: auto} svg text {font: 11.5px system-ui, sans-serif; fill: var(--quiet)}
.rule {stroke: var(--faint)} .limit {stroke: var(--bad); stroke-dasharray: 5 4} .event {stroke: var(--quiet); stroke-dasharray: 2 3}
.line {fill: none; stroke-width: 2} .s0 {stroke: var(--c0)} .s1 {stroke: var(--c1)} .s2 {stroke: var(--c2)} .s3 {stroke: var(--c3)}
.s4 {stroke: var(--c4)} .s5 {stroke: var(--c5)} .f0 {fill: var(--c0)} .f1 {fill: var(--c1)} .f2 {fill: var(--c2)} .f3 {fill: var(--c3)}
.f4 {fill: var(--c4)} .f5 {fill: var(--c5)} .legend {font-size: .88rem} .legend span {margin-right: 1rem} .legend svg {display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem}
@media (max-width: 1100px) {.tiles {grid-template-columns: repeat(min(var(--n), 4), minmax(0, 1fr))}}
@media (max-width: 600px) {main {padding: .6rem .8rem 2rem} section {padding: .7rem .8rem} svg text {font-size: 13.5px}
 .tiles {grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem} h1 {font-size: 1.25rem}
 .cards thead {display: none} .cards tr {display: block; border-top: 1px solid var(--line); padding: .4rem 0}
 .cards td, .cards td.long {display: block; position: relative; white-space: normal; overflow-wrap: anywhere; min-width: 0; text-align: left;
 border: 0; padding: .1rem 0 .1rem 8rem}
 .cards td::before {content: attr(data-head); position: absolute; left: 0; width: 7.6rem; white-space: nowrap; color: var(--quiet)} .cards td:empty {display: none}}
@media print {body {background: #fff} section, .tile {break-inside: avoid}}
"""


class Html(str):
    """Text that is HTML already."""


def page(title: str, *parts: str) -> str:
    """Return a whole page; it asks for nothing, and may run nothing."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    )
    return "\n".join([head, f"<body><main><h1>{escape(title)}</h1>", *parts, "</main></body></html>", ""])


def section(title: str, *parts: str) -> Html:
    return Html(f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>")


def grid(parts: Iterable[tuple[str, str]]) -> Html:
    return Html(f'<div class="grid">{"".join(section(title, part) for title, part in parts)}</div>')


def tiles(shown: Mapping[str, Any]) -> Html:
    """Return big numbers with what they are beneath, in one row or in equal ones."""
    each = "".join(
        f'<div class="tile"><b>{cell(value)}</b><span>{text(name)}</span></div>' for name, value in shown.items()
    )
    return Html(f'<div class="tiles" style="--n: {len(shown)}">{each}</div>')


def lead(sentence: str) -> Html:
    """Return what the page comes to, for those who read no further."""
    return Html(f'<p class="lead">{text(sentence)}</p>')


def quiet(sentence: str) -> Html:
    return Html(f'<p class="quiet">{text(sentence)}</p>')


def mark(word: str, bad: bool = False) -> Html:
    return Html(f'<span class="{"bad" if bad else "good"}">{escape(word)}</span>')


def text(plain: str) -> Html:
    """Return PLAIN as HTML, what stands between backticks as code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(plain)))


def cell(value: Any) -> str:
    if value is None or isinstance(value, Html):
        return value or ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else text(str(value))


def table(head: Sequence[str], rows: Iterable[Iterable[Any]], title: str = "table") -> Html:
    """Return a table; a column of numbers stands to the right.

    On a phone one of words becomes a card a row; one of numbers is moved sideways, by the arrow keys too.
    """
    cells = [list(row) for row in rows]
    if not cells:
        return quiet("none")
    numeric = [all(isinstance(row[i], int | float | None) for row in cells) for i in range(len(head))]
    how = [' class="n"' if one else "" for one in numeric]
    heads = "".join(f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(head, how, strict=True))
    lines = [f"<thead><tr>{heads}</tr></thead>"]
    for row in cells:
        each = zip(row, how, head, strict=True)
        lines.append(f"<tr>{''.join(data_cell(value, kind, name) for value, kind, name in each)}</tr>")
    kind = "" if 2 * sum(numeric) > len(head) else ' class="cards"'
    box = f'<div class="wide" role="region" tabindex="0" aria-label="{escape(title)}">'
    return Html(f"{box}<table{kind}>{''.join(lines)}</table></div>")


def data_cell(value: Any, kind: str, name: str) -> str:
    """Return a cell of class KIND of the column NAME."""
    if len(str(value)) > LONG and not isinstance(value, Html):
        kind = ' class="long"'
    return f'<td{kind} data-head="{escape(name)}">{cell(value)}</td>'


def details(title: str, *parts: str) -> Html:
    """Return what is shown to those who open it, by mouse or by keyboard."""
    return Html(f"<details><summary>{text(title)}</summary>{''.join(parts)}</details>")
