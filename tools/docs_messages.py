"""Each error message that a user can meet, taken from where the runtime raises it, with what to do about it."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from docs_sources import ROOT, RUNTIME, capitals, constants, nodes, parsed, table

AREAS = {  # by the folder or module of the runtime that begins so, the first that fits
    "data/adopt": "Bring a table",
    "data/ingest": "Gather data",
    "data/sources": "Gather data",
    "data/store": "Gather data",
    "data": "Rows, columns and data versions",
    "training": "Train, compare and register",
    "serving": "Score and serve",
    "release": "Judge, release and trace",
    "loop": "Predictions, monitoring and retraining",
    "levels": "Any command",
    "core": "Any command",
}
SERVICE = ("Unanswerable", "Turned", "HTTPException")  # what the service answers: a status, then the sentence
VERBS = [
    "add",
    "answer",
    "ask",
    "bring",
    "change",
    "check",
    "choose",
    "climb",
    "commit",
    "delete",
    "deploy",
    "drop",
    "export",
    "fetch",
    "gather",
    "get",
    "give",
    "hand",
    "install",
    "keep",
    "leave",
    "log",
    "look",
    "lower",
    "make",
    "mend",
    "move",
    "name",
    "open",
    "put",
    "raise",
    "read",
    "remove",
    "rename",
    "replace",
    "restart",
    "restore",
    "run",
    "say",
    "send",
    "set",
    "start",
    "take",
    "train",
    "try",
    "unset",
    "use",
    "wait",
    "write",
]
IMPERATIVE = re.compile(rf"(?:[:;,.] |^)(?:then |or |and )?((?:{'|'.join([*VERBS, *map(str.title, VERBS)])})\b[^;]*)$")
COMMAND = re.compile(r"`([^`]+)` (?:\w+s\b|anew)|: `([^`]+)`$")  # `ingest` makes it anew; it needs X: `uv add x`


class Message(NamedTuple):
    """One message: where it is raised, the exit code or HTTP status, the text with its variable parts in capitals."""

    module: str
    code: str
    text: str

    @property
    def area(self) -> str:
        return next(area for start, area in AREAS.items() if self.module.startswith(start))


@functools.cache
def exit_codes() -> dict[str, str]:
    """Return the exit code of each error of the runtime: those of core/errors.py and what is derived from them."""
    codes = {"ProjectError": "1"}
    classes = [node for file in modules() for node in parsed(file).body if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # as deep as they are derived
        for node in classes:
            for base in (ast.unparse(base).rpartition(".")[2] for base in node.bases):
                if base in codes:
                    own = [ast.unparse(item.value) for item in node.body if isinstance(item, ast.Assign)]
                    codes[node.name] = own[0] if own else codes[base]
    return codes


def modules() -> list[Path]:
    return sorted(RUNTIME.rglob("*.py"))


@functools.cache
def messages() -> list[Message]:
    """Return each message once, by area and text."""
    every = {message for module in modules() for message in raised(module)}
    return sorted(every, key=lambda one: (list(AREAS.values()).index(one.area), one.text.lower(), one.code))


def raised(module: Path) -> Iterator[Message]:
    name, codes = module.relative_to(RUNTIME).as_posix(), exit_codes()
    for node in nodes(module):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        error = ast.unparse(node.func).rpartition(".")[2]
        if error in codes:
            yield from (Message(name, codes[error], text) for text in texts(node.args[0], module) if is_text(text))
        elif error in SERVICE and len(node.args) > 1:
            status = ast.unparse(node.args[0])
            yield from (Message(name, status, text) for text in texts(node.args[1], module) if is_text(text))


def is_text(text: str) -> bool:
    """Return whether anything but what a library says is left of a message."""
    return len(re.findall(r"[a-z]{2,}", text)) >= 2


def texts(node: ast.expr, module: Path, depth: int = 0) -> list[str]:
    """Return the texts that an expression can be; none where it only passes on what another says."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else placed(part) for part in node.values)]
    if isinstance(node, ast.IfExp):
        return [*texts(node.body, module, depth), *texts(node.orelse, module, depth)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [
            a + b
            for a in texts(node.left, module, depth) or ["..."]
            for b in texts(node.right, module, depth) or ["..."]
        ]
    if isinstance(node, ast.Call):
        words = ast.unparse(node.func)
        if words.endswith(".join") and isinstance(node.args[0], ast.List):
            return [f"{text} ..." for text in texts(node.args[0].elts[0], module, depth)]
        if depth < 2 and (function := functions().get(words.rpartition(".")[2])):
            where, returned = function
            return [text for value in returned for text in texts(value, where, depth + 1)]
    if isinstance(node, (ast.Name, ast.Attribute)) and depth < 2:
        name = ast.unparse(node).rpartition(".")[2]
        if value := capitals(parsed(module)).get(name) or constants().get(name):
            return texts(value, module, depth + 1)
        return [text for value in assigned(module, name) for text in texts(value, module, depth + 1)]
    return []


@functools.cache
def functions() -> dict[str, tuple[Path, list[ast.expr]]]:
    """Return what the functions that give text return, by name; one whose name stands twice is none of them."""
    every: dict[str, tuple[Path, list[ast.expr]]] = {}
    names: list[str] = []
    for module in modules():
        for node in parsed(module).body:
            if isinstance(node, ast.FunctionDef):
                names.append(node.name)
                if node.returns is not None and ast.unparse(node.returns) == "str":
                    inner = [item.value for item in ast.walk(node) if isinstance(item, ast.Return) and item.value]
                    every[node.name] = module, inner
    return {name: value for name, value in every.items() if names.count(name) == 1}


@functools.cache
def assigned(module: Path, name: str) -> list[ast.expr]:
    """Return what a module assigns to NAME, where that is text."""
    return [
        node.value
        for node in nodes(module)
        if isinstance(node, ast.Assign)
        and any(ast.unparse(target) == name for target in node.targets)
        and isinstance(node.value, (ast.JoinedStr, ast.Constant, ast.IfExp))
    ]


def placed(part: ast.expr) -> str:
    """Return the capitals that stand for a part of an f-string; a constant is itself."""
    if not isinstance(part, ast.FormattedValue):
        return "..."
    word = word_of(part.value)
    return f"'{word}'" if part.conversion == ord("r") else word


def word_of(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        value = constants().get(node.id)
        if node.id.isupper() and isinstance(value, ast.Constant):
            return str(value.value)
        return node.id.strip("_").upper()
    if isinstance(node, ast.Attribute):
        return "ERROR" if node.attr == "__name__" else node.attr.upper()
    if isinstance(node, ast.Subscript):
        known = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
        return str(node.slice.value).upper() if known else word_of(node.value)  # type: ignore[attr-defined]
    if isinstance(node, ast.Call):
        if ast.unparse(node.func) == "len" or ast.unparse(node.func).endswith(".sum"):
            return "N"
        inner = [*node.args[-1:], *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
        return next((word for arg in inner if (word := word_of(arg)) != "..."), "...")
    return "..."


@functools.cache
def written() -> dict[str, str]:
    """Return what docs/troubleshooting.yml says to do, by message."""
    return yaml.safe_load((ROOT / "docs/troubleshooting.yml").read_text(encoding="utf-8"))


def advice(text: str) -> str:
    """Return what a message itself says to do; empty when it does not."""
    if match := IMPERATIVE.search(text.removesuffix(" ...")):
        return f"{match[1][0].upper()}{match[1][1:]}."
    if re.search(r"\bmust (be|have|hold|say|end|give)\b|\bat most\b", text):
        return "Change it to what the message says it must be."
    if re.search(r"\bthere are:? [A-Z.]|\bis none of\b", text, re.IGNORECASE):
        return "Use one of those that the message lists."
    if re.search(r"\bneeds (a |two |--)|\bgo(es)? with\b|\bsay either\b|\bname either\b", text):
        return "Give the words that the message asks for."
    if match := COMMAND.search(text):
        return f"Run `{match[1] or match[2]}`."
    return ""


def what_to_do(text: str) -> str:
    return written().get(text) or advice(text)


def unexplained() -> list[str]:
    """Return the messages of which nothing says what to do, and what is written down for a message that is gone."""
    every = {message.text: message for message in messages()}
    silent = [
        f"docs/troubleshooting.yml lacks {text!r} of {one.module}"
        for text, one in every.items()
        if not what_to_do(text)
    ]
    return silent + [f"docs/troubleshooting.yml has {text!r}, which is gone" for text in written() if text not in every]


def reference() -> str:
    """Return a table an area: the message, how the command ends or what the service answers, what to do."""
    parts = []
    for area in dict.fromkeys(AREAS.values()):
        mine = [one for one in messages() if one.area == area]
        for title, some in (
            (area, [m for m in mine if len(m.code) == 1]),
            (f"{area}: answers of the service", [m for m in mine if len(m.code) > 1]),
        ):
            if some:
                rows = [[f"`` {one.text.replace(chr(10), ' ')} ``", one.code, what_to_do(one.text)] for one in some]
                parts.append(
                    f"## {title}\n\n{table(['message', 'exit' if title == area else 'status', 'what to do'], rows)}"
                )
    return "\n".join(parts)
