"""The reference of conf/*.yml: each key with its type, default, unit and meaning, from the files and the runtime's shapes."""

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jinja2
import yaml
from docs_sources import ROOT, RUNTIME, TEMPLATE, added, existing, nodes, parsed, table

ANSWERS = {"project_name": "Flights", "package_name": "flights", "ci": "github", "runtime": "project", "level": 4}
PLAIN = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "`true` or `false`",
    "Path": "path",
    "Any": "any value",
    "PositiveInt": "whole number above 0",
    "NonNegativeInt": "whole number from 0",
    "PositiveFloat": "number above 0",
    "NonNegativeFloat": "number from 0",
    "Prefix": "path such as `/delay`",
}
PROBLEMS = ("classification", "regression")
BOUNDS = {"gt": "above {}", "ge": "from {}", "lt": "below {}", "le": "at most {}"}
UNITS = {  # by the end of a key's name
    "per_s": "requests a second",
    "fewer_rows": "share, 0 to 1",
    "_s": "seconds",
    "_ms": "milliseconds",
    "_h": "hours",
    "_mb": "MB",
    "_bytes": "bytes",
    "days": "days",
    "rows": "rows",
    "share": "share, 0 to 1",
    "shares": "share, 0 to 1",
    "requests": "requests",
    "labels": "labels",
    "connections": "connections",
    "retrainings": "retrainings",
}


class Key(NamedTuple):
    """One key of a file: its path there, what may stand there, what does, and the comment."""

    path: str
    kind: str
    default: str
    meaning: str

    @property
    def unit(self) -> str:
        last = self.path.rpartition(".")[2]
        if "number" not in self.kind and not last.startswith("share"):
            return ""
        if found := re.match(r"(minutes|seconds)\b", self.meaning):
            return found[1]
        return next((unit for end, unit in UNITS.items() if last == end.lstrip("_") or last.endswith(end)), "")


@functools.cache
def files() -> list[tuple[int, Path]]:
    """Return each file of conf/ with the level that brings it."""
    every = []
    for level in existing():
        for path in added(level):
            there = [*TEMPLATE.glob(f"{path}*"), *TEMPLATE.glob(f"{path}/*")] if path.startswith("conf/") else []
            every += [(level["number"], file) for file in sorted(there) if file.is_file()]
    return every


def name_of(file: Path) -> str:
    return file.relative_to(TEMPLATE).as_posix().removesuffix(".jinja")


def rendered(file: Path, problem: str) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = file.read_text(encoding="utf-8")
    return environment.from_string(text).render(ANSWERS, problem=problem) if file.suffix == ".jinja" else text


# the shapes


@functools.cache
def shapes() -> dict[tuple[str, str], ast.ClassDef]:
    """Return each class of the runtime by module and name."""
    return {
        (module.relative_to(RUNTIME).as_posix(), node.name): node
        for module in sorted(RUNTIME.rglob("*.py"))
        for node in parsed(module).body
        if isinstance(node, ast.ClassDef)
    }


def shape_of(file: str) -> tuple[str, ast.ClassDef]:
    """Return module and class that `read(project, NAME, SHAPE)` holds conf/NAME.yml to; raises KeyError without one."""
    return readers()[re.sub(r"conf/(environments/)?(.*)\.yml", lambda m: f"{m[1]}NAME" if m[1] else m[2], file)]


@functools.cache
def readers() -> dict[str, tuple[str, ast.ClassDef]]:
    """Return the shape of each configuration file that the runtime reads, by the name that it is read by."""
    every: dict[str, tuple[str, ast.ClassDef]] = {}
    for module in sorted(RUNTIME.rglob("*.py")):
        for node in nodes(module):
            if not isinstance(node, ast.Call) or len(node.args) < 3 or not ast.unparse(node.func).endswith("read"):
                continue
            name = node.args[1]
            given = name.value if isinstance(name, ast.Constant) else ""
            if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
                given = f"{name.values[0].value}NAME"
            if given and str(given) not in every:
                shape = ast.unparse(node.args[2]).rpartition(".")[2]
                every[str(given)] = found(module.relative_to(RUNTIME).as_posix(), shape)
    return every


@functools.cache
def found(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """Return the class NAME that MODULE means: its own, or the only other one that has fields."""
    if (module, name) in shapes():
        return module, shapes()[module, name]
    if name not in {other for _, other in shapes()}:
        raise LookupError(f"{module}: no class {name}")
    imported = [f"{part.replace('.', '/')}.py" for part in imports(parsed(RUNTIME / module), name)]
    for (where, other), node in shapes().items():
        if other == name and (not imported or any(where.endswith(end) for end in imported)):
            return where, node
    raise LookupError(f"{module}: no class {name}")


def imports(tree: ast.Module, name: str) -> list[str]:
    """Return the modules from which NAME is imported in TREE."""
    nodes = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module)
    return [str(node.module) for node in nodes if any(part.name == name for part in node.names)]


@functools.cache
def fields(module: str, node: ast.ClassDef) -> dict[str, tuple[str, ast.expr, ast.expr | None]]:
    """Return the fields of a shape, those of its bases first: the module, the annotation and the value."""
    every: dict[str, tuple[str, ast.expr, ast.expr | None]] = {}
    for base in node.bases:
        if (name := ast.unparse(base)) != "Settings" and "." not in name:
            every |= fields(*found(module, name))
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id[0] != "_":
            name = next(
                (ast.literal_eval(word.value) for word in keywords(item.value) if word.arg == "alias"), item.target.id
            )
            every[name] = module, item.annotation, item.value
    return every


def keywords(value: ast.expr | None) -> list[ast.keyword]:
    return value.keywords if isinstance(value, ast.Call) else []


def told(kind: ast.expr, value: ast.expr | None, module: str) -> str:
    """Return a type in words: `number above 0`, `text or empty`, `a list of text`."""
    text = ast.unparse(kind)
    last = text.rpartition(".")[2]
    if isinstance(kind, ast.BinOp):
        parts = [told(side, None, module) for side in (kind.left, kind.right) if ast.unparse(side) != "None"]
        words = " or ".join(parts) + (" or empty" if text.endswith("None") else "")
    elif isinstance(kind, ast.Subscript):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        outer = ast.unparse(kind.value).rpartition(".")[2]
        if outer == "Literal":
            words = ", ".join(f"`{ast.literal_eval(one)}`" for one in inner)
        elif outer == "Annotated":
            words = told(inner[0], inner[1] if isinstance(inner[1], ast.Call) else None, module)
        elif outer == "list":
            words = f"list of {told(inner[0], None, module)}"
        else:
            words = f"{told(inner[1], None, module)} by name"
    elif (words := PLAIN.get(last, "")) == "":
        alias = own_alias(module, last)
        shape = functools.partial(found, module, last)
        words = told(alias, None, module) if alias is not None else f"keys `{'`, `'.join(fields(*shape()))}`"
    limits = [
        BOUNDS[word.arg].format(ast.unparse(word.value)) for word in keywords(value) if word.arg in BOUNDS and word.arg
    ]
    return f"{words} {' and '.join(limits)}".strip() if not words.startswith(("`", "keys")) else words


@functools.cache
def own_alias(module: str, name: str) -> ast.expr | None:
    """Return what a name such as `Action = Literal[...]` stands for, in MODULE or where it is imported from."""
    for tree in (parsed(RUNTIME / module), *map(parsed, sorted(RUNTIME.rglob("*.py")))):
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and not is_new_type(node.value):
                return node.value
    return None


def is_new_type(node: ast.expr) -> bool:
    return not isinstance(node, ast.Subscript)


# the files


@functools.cache
def keys(file: Path, problem: str = "classification") -> list[Key]:
    """Return the keys of a file in their order, those of the tables within it too."""
    text = rendered(file, problem)
    lines, root = text.splitlines(), yaml.compose(text, yaml.SafeLoader)
    module, shape = shape_of(name_of(file))
    return list(walk(root, "", (module, shape), lines))


def walk(
    node: yaml.MappingNode, prefix: str, shape: tuple[str, ast.ClassDef] | None, lines: list[str]
) -> Iterator[Key]:
    known = fields(*shape) if shape else {}
    for name, value in node.value:
        path = f"{prefix}{name.value}"
        module, kind, given = known.get(name.value, ("", None, None))
        inner = within(module, kind) if kind is not None else None
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if comment := comment_of(name, value, lines):
                yield Key(path, told(kind, given, module) if inner and inner[0] == "many" and kind else "", "", comment)
            if inner and inner[0] == "one":
                yield from walk(value, f"{path}.", inner[1], lines)
            else:
                words = told_inner(module, kind)
                yield from named(value, path, inner[1] if inner else None, words if words[:4] != "keys" else "", lines)
        else:
            words = told(kind, given, module) if kind is not None else "any value"
            yield Key(path, words, default_of(value, lines), comment_of(name, value, lines))


def named(
    node: yaml.MappingNode, path: str, shape: tuple[str, ast.ClassDef] | None, words: str, lines: list[str]
) -> Iterator[Key]:
    """Yield the entries of a mapping whose names are the user's, such as the signals."""
    for name, value in node.value:
        if shape and isinstance(value, yaml.MappingNode) and not value.flow_style:
            if comment := comment_of(name, value, lines):
                yield Key(f"{path}.{name.value}", "", "", comment)
            yield from walk(value, f"{path}.{name.value}.", shape, lines)
        else:
            yield Key(f"{path}.{name.value}", words, default_of(value, lines), comment_of(name, value, lines))


def within(module: str, kind: ast.expr) -> tuple[str, tuple[str, ast.ClassDef] | None]:
    """Return ("one" or "many", the shape that an annotation names within)."""
    many = isinstance(kind, ast.Subscript)
    last = kind.slice.elts[-1] if isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Tuple) else kind
    if isinstance(last, ast.BinOp):
        last = last.left
    try:
        return "many" if many else "one", found(module, ast.unparse(last).rpartition(".")[2])
    except LookupError:
        return "many", None


def told_inner(module: str, kind: ast.expr | None) -> str:
    if isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Tuple):
        return told(kind.slice.elts[-1], None, module)
    return "any value"


def default_of(value: yaml.Node, lines: list[str]) -> str:
    """Return what stands in the file, as it is written there."""
    first, last = value.start_mark, value.end_mark
    if first.line == last.line:
        return lines[first.line][first.column : last.column].strip()
    return " ".join(line.strip() for line in lines[first.line : last.line + 1])[:200].strip()


def comment_of(name: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """Return the comment beside a key, else the lines of comment above it; an example put aside there is none."""
    nested = isinstance(value, yaml.MappingNode) and not value.flow_style
    for row in {name.start_mark.line, name.start_mark.line if nested else value.end_mark.line}:
        if row < len(lines) and (mark := re.search(r"(?:^|\s)#\s?(.*)$", lines[row])):
            return mark[1].strip()
    above = list(itertools.takewhile(lambda line: re.match(r"\s*#", line), reversed(lines[: name.start_mark.line])))
    if len(above) == name.start_mark.line:  # it is that of the whole file
        return ""
    return " ".join(line.strip()[2:] for line in reversed(above) if not line.strip().startswith("#  "))


def reference() -> str:
    """Return a section a file: what it is for, then a table of its keys."""
    return "\n".join(section(level, file) for level, file in files())


def section(level: int, file: Path) -> str:
    name, both = name_of(file), {problem: {key.path: key for key in keys(file, problem)} for problem in PROBLEMS}
    head = re.match(r"(?:#.*\n)*", rendered(file, PROBLEMS[0]))
    purpose = " ".join(line.lstrip("# ") for line in head[0].splitlines()) if head else ""
    rows = [
        row_of(name, *(both[problem].get(path) for problem in PROBLEMS))
        for path in both[PROBLEMS[0]] | both[PROBLEMS[1]]
    ]
    rows += [[f"`{path}`", kind, "", "", explained(name).get(path, "")] for path, kind in absent(file).items()]
    return f"## {name}\n\nLevel {level}. {purpose}\n\n{table(['key', 'type', 'default', 'unit', 'meaning'], rows)}"


def row_of(name: str, key: Key | None, other: Key | None) -> list[str]:
    """Return the row of a key as it comes for classification, KEY, and for regression, OTHER."""
    shown = key or other
    assert shown is not None
    default = f"`{shown.default}`" if shown.default else ""
    if key is None or other is None:
        default += f" ({PROBLEMS[key is None]})"
    elif other.default != key.default:
        default += f"; {PROBLEMS[1]}: `{other.default}`"
    return [f"`{shown.path}`", shown.kind, default, shown.unit, meaning(name, shown)]


@functools.cache
def written() -> dict[str, dict[str, str]]:
    """Return what docs/configuration.yml says of the keys that have no comment, by file and key."""
    return yaml.safe_load((ROOT / "docs/configuration.yml").read_text(encoding="utf-8"))


def explained(name: str) -> dict[str, str]:
    return written().get(name, {})


def absent(file: Path) -> dict[str, str]:
    """Return the keys that a file may have and comes without, and their types: those written down for it."""
    there = {key.path for problem in PROBLEMS for key in keys(file, problem)}
    shapes_within = {
        f"{path}.NAME.{name}": told(kind, value, where)
        for path, (module, annotation, _) in fields(*shape_of(name_of(file))).items()
        if (inner := within(module, annotation))[0] == "many" and inner[1]
        for name, (where, kind, value) in fields(*inner[1]).items()
    }
    return {
        path: kind for path, kind in shapes_within.items() if path in explained(name_of(file)) and path not in there
    }


def meaning(name: str, key: Key) -> str:
    """Return the comment of a key, else what docs/configuration.yml says, else what dev.yml says of its sister."""
    if text := key.meaning or explained(name).get(key.path, ""):
        return text
    if name.startswith("conf/environments/"):
        dev = {one.path: one for one in keys(TEMPLATE / "conf/environments/dev.yml")}
        return dev[key.path].meaning if key.path in dev else ""
    return ""


def unexplained() -> list[str]:
    """Return the keys of which nothing says what they mean, and the explained ones that are no keys."""
    every = {
        name_of(file): {key.path: key for problem in PROBLEMS for key in keys(file, problem)} for _, file in files()
    }
    silent = [f"{name}: {path}" for name in every for path, key in every[name].items() if not meaning(name, key)]
    shapes_within = {name_of(file): absent(file) for _, file in files()}
    gone = [
        f"{name}: {path} is no key"
        for name, said in written().items()
        for path in said
        if path not in every.get(name, {}) and path not in shapes_within.get(name, {})
    ]
    return silent + gone
