"""What the tools of the documentation read: the questions, the levels, the runtime's modules; and how they write a table."""

import ast
import functools
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template"
RUNTIME = TEMPLATE / "runtime/src/mlops_ladder"
BAR = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)|\|")  # a code span, or a bar outside of one
EXAMPLE = {
    "project_name": "Flights",
    "package_name": "flights",
    "problem": "classification",
    "ci": "github",
    "runtime": "project",
}


class Documents(yaml.SafeLoader):
    """Reads copier.yml, whose `!include` stands for nothing that is shown here."""


Documents.add_constructor("!include", lambda loader, node: None)


@functools.cache
def questions() -> dict[str, dict[str, Any]]:
    """Return the questions of copier.yml by name, in the order in which they are asked."""
    found = {}
    for document in yaml.load_all((ROOT / "copier.yml").read_text(encoding="utf-8"), Documents):
        for name, value in (document or {}).items():
            if not name.startswith("_") and isinstance(value, dict) and "help" in value:
                found[name] = value
    return found


@functools.cache
def levels() -> list[dict[str, Any]]:
    """Return all levels, planned ones too: number, name, gains, `exists`; and for one that exists its `folder`."""
    offered = questions()["level"]["choices"].values()
    listed = yaml.safe_load((ROOT / "levels/levels.yml").read_text(encoding="utf-8"))
    return [
        {**level, "number": number, "exists": number in offered, "folder": next(ROOT.glob(f"levels/{number}-*"), None)}
        for number, level in enumerate(listed)
    ]


def existing() -> list[dict[str, Any]]:
    return [level for level in levels() if level["exists"]]


def added(level: dict[str, Any]) -> list[str]:
    """Return the paths in a level's files.yml, such as `conf/serving.yml`, without the leading slash."""
    return re.findall(r"^ +/(\S+)$", (level["folder"] / "files.yml").read_text(encoding="utf-8"), re.MULTILINE)


def commands(level: dict[str, Any]) -> dict[str, Path]:
    """Return the modules of the commands that a level registers, by the name that is typed."""
    for node in ast.walk(parsed(RUNTIME / f"levels/level_{level['number']}.py")):
        if isinstance(node, ast.keyword) and node.arg == "commands":
            registered = ast.literal_eval(node.value)
            return {name: source_of(registered[name]) for name in sorted(registered)}
    return {}


def source_of(module: str) -> Path:
    """Return the file of a module of the runtime, such as "training.train", also of one that is a folder."""
    path = RUNTIME / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def filled(node: ast.expr, own: dict[str, ast.expr]) -> str:
    """Return the text of a literal, an f-string of constants, a constant's name (a module's OWN first) or a Path of one."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.FormattedValue) else part for part in node.values)
        return "".join(filled(part, own) for part in parts)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path" and node.args:
        return filled(node.args[0], own)
    if isinstance(node, ast.Name) and (value := own.get(node.id) or constants().get(node.id)):
        return filled(value, own)
    return ast.unparse(node)


@functools.cache
def nodes(module: Path) -> list[ast.AST]:
    """Return every node of a module's syntax tree."""
    return list(ast.walk(parsed(module)))


@functools.cache
def constants() -> dict[str, ast.expr]:
    """Return what the capital names at the top of the runtime's modules stand for."""
    return {name: value for module in sorted(RUNTIME.rglob("*.py")) for name, value in capitals(parsed(module)).items()}


def capitals(tree: ast.Module) -> dict[str, ast.expr]:
    """Return what the capital names at the top of one module stand for."""
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped, but in code, where it would show."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(BAR.sub(escaped, cell) for cell in line) + " |\n" for line in lines)


def escaped(found: re.Match[str]) -> str:
    return found[0] if found[1] else "\\|"
