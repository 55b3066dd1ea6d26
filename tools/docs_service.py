"""The reference of the service: its routes and metrics, the signals and alerts, and the environment variables."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import docs_configuration
import yaml
from docs_sources import ROOT, RUNTIME, TEMPLATE, added, capitals, constants, existing, filled, nodes, parsed, table

KINDS = ("Counter", "Gauge", "Histogram", "GaugeMetricFamily")


class Metric(NamedTuple):
    name: str
    kind: str
    labels: list[str]
    meaning: str
    level: int


def level_of(module: Path) -> int:
    """Return the level that brings a module of the runtime."""
    name = module.relative_to(TEMPLATE).as_posix()
    return max(
        level["number"] for level in existing() if any(name == at or name.startswith(f"{at}/") for at in added(level))
    )


def routes_table() -> str:
    rows = []
    for module in sorted(RUNTIME.rglob("*.py")):
        for node in nodes(module):
            for made in node.decorator_list if isinstance(node, ast.AsyncFunctionDef) else []:
                if isinstance(made, ast.Call) and re.fullmatch(r"app\.(get|post)", ast.unparse(made.func)):
                    path = "".join(str(part.value) for part in ast.walk(made.args[0]) if isinstance(part, ast.Constant))
                    method, says = ast.unparse(made.func)[4:].upper(), str(ast.get_docstring(node)).splitlines()[0]
                    rows.append([level_of(module), path, method, says])
    rows.sort(key=lambda row: (row[0], row[1]))
    return table(
        ["level", "route", "what it does"], [[str(n), f"`{verb} {path}`", says] for n, path, verb, says in rows]
    )


def metrics() -> list[Metric]:
    """Return the metrics that the runtime defines, by level and name."""
    return sorted(
        (metric for module in sorted(RUNTIME.rglob("*.py")) for metric in defined(module)),
        key=lambda metric: (metric.level, metric.name),
    )


def defined(module: Path) -> Iterator[Metric]:
    """Yield each metric of a module; one in a comprehension over a dict of names is one of each name."""
    tree = parsed(module)
    local = dict(assigned(tree))
    loops = {call: loop for loop in nodes(module) if isinstance(loop, ast.DictComp) for call in ast.walk(loop.value)}
    for node in nodes(module):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        kind = ast.unparse(node.func).rpartition(".")[2]
        if kind not in KINDS or (kind != "GaugeMetricFamily" and "prometheus." not in ast.unparse(node.func)):
            continue
        given = next(
            (word.value for word in node.keywords if word.arg == "labels"), node.args[2] if node.args[2:] else None
        )
        if isinstance(given, ast.Name):
            given = local.get(given.id) or constants().get(given.id)
        labels = [filled(label, {}) for label in given.elts] if isinstance(given, ast.List) else []
        names = {filled(node.args[0], {}): filled(node.args[1], {})}
        if node in loops:
            source = local[re.match(r"\w+", ast.unparse(loops[node].generators[0].iter))[0]]  # type: ignore[index]
            names = {f"model_{name}": text for name, text in ast.literal_eval(source).items()}
        for name, text in names.items():
            end = "_total" if kind == "Counter" else ""
            yield Metric(name + end, kind.removesuffix("MetricFamily").lower(), labels, text, level_of(module))


def assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield each name that stands for a list or a dict, and what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for name, given in zip(target.elts, value.elts, strict=False) if both else [(target, value)]:  # type: ignore[attr-defined]
                if isinstance(name, ast.Name) and isinstance(given, (ast.List, ast.Dict)):
                    yield name.id, given


def metrics_table() -> str:
    rows = [
        [str(one.level), f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.meaning]
        for one in metrics()
    ]
    return table(["level", "metric", "type", "labels", "meaning"], rows)


def signals_table() -> str:
    """Return the signals of conf/monitoring.yml, those of both problems."""
    file, seen = TEMPLATE / "conf/monitoring.yml.jinja", {}
    for problem in docs_configuration.PROBLEMS:
        values = yaml.safe_load(docs_configuration.rendered(file, problem))["signals"]
        for key in docs_configuration.keys(file, problem):
            name = key.path.removeprefix("signals.")
            if name in values:
                text = docs_configuration.meaning("conf/monitoring.yml", key)
                seen.setdefault(name, {})[problem] = values[name] | {"meaning": text}
    return table(
        ["signal", "measured on", "threshold", "fires", "owner", "leads to", "meaning"],
        [signal_row(name, by_problem) for name, by_problem in seen.items()],
    )


def signal_row(name: str, by_problem: dict[str, dict[str, str]]) -> list[str]:
    first, limits = next(iter(by_problem.values())), {problem: one["threshold"] for problem, one in by_problem.items()}
    shown = "; ".join(f"{limit} ({problem})" for problem, limit in limits.items())
    if len(limits) == 2 and len(set(limits.values())) == 1:
        shown = str(first["threshold"])
    section = first["runbook"].partition("#")[2]
    cells = [
        first["source"],
        shown,
        first.get("fires", "above"),
        first["owner"],
        f"`{first['action']}`, runbook `{section}`",
    ]
    return [f"`{name}`", *cells, first["meaning"]]


def triggers_table() -> str:
    """Return what conf/retraining.yml says of each trigger and brake: its keys at the top and their meaning."""
    file = TEMPLATE / "conf/retraining.yml.jinja"
    rows = [
        [
            f"`{key.path}`",
            f"`{key.default}`" if key.default else "",
            docs_configuration.meaning("conf/retraining.yml", key),
        ]
        for key in docs_configuration.keys(file)
        if key.path.partition(".")[0] in TRIGGERS
    ]
    return table(["key", "as it comes", "meaning"], rows)


TRIGGERS = ("signals", "new_data", "age", "schedule", "least_rows", "cooldown_h", "budget", "give_up_after", "tries")


def alerts_table() -> str:
    rules = yaml.safe_load((TEMPLATE / "deploy/monitoring/rules.yml").read_text(encoding="utf-8"))
    rows = []
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        notes, labels = rule["annotations"], rule["labels"]
        owner = labels.get("owner", "that of the signal")
        summary = re.sub(r"\{\{ (?:\$labels\.)?\$?(\w+).*?\}\}", lambda found: found[1].upper(), notes["summary"])
        rows.append(
            [f"`{rule['alert']}`", summary, f"`{rule['expr']}`", rule.get("for", "at once"), labels["severity"], owner]
        )
    return table(["alert", "says", "expression", "for", "severity", "owner"], rows)


def variables() -> dict[str, set[str]]:
    """Return the environment variables that the project's code looks up, and in which files."""
    found: dict[str, set[str]] = {}
    for module in sorted([*RUNTIME.rglob("*.py"), *TEMPLATE.glob("*.py")]):
        own = capitals(parsed(module))
        for node in nodes(module):
            name = looked_up(node)
            if name is not None and re.fullmatch(r"[A-Z][A-Z0-9_]+", text := filled(name, own)):
                found.setdefault(text, set()).add(module.relative_to(TEMPLATE).as_posix())
    for workflow in sorted((TEMPLATE / ".github").rglob("*.yml*")):
        for name in re.findall(r"\$\{\{ (?:secrets|vars)\.([A-Z_]+)", workflow.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(workflow.relative_to(TEMPLATE).as_posix())
    return found


def looked_up(node: ast.AST) -> ast.expr | None:
    """Return the name in `os.environ[NAME]`, `os.environ.get(NAME)` or `NAME in os.environ`."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
        return node.slice if isinstance(node.ctx, ast.Load) else None
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("environ.get", "environ.setdefault")):
        return node.args[0]
    if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]).endswith("os.environ"):
        return node.left
    return None


@functools.cache
def explained() -> dict[str, dict[str, str]]:
    """Return what docs/reference.yml says, by section and name."""
    return yaml.safe_load((ROOT / "docs/reference.yml").read_text(encoding="utf-8"))


def unexplained() -> list[str]:
    """Return the names that docs/reference.yml lacks, and those that it has and the source has not."""
    there = {"environment": set(variables()), "sources": set(sources()), "log_tables": set(log_tables())}
    wrong = []
    for section, names in there.items():
        said = set(explained()[section])
        wrong += [f"docs/reference.yml: {section} lacks {name}" for name in sorted(names - said)]
        wrong += [f"docs/reference.yml: {section} has {name}, which is gone" for name in sorted(said - names)]
    return wrong


def sources() -> list[str]:
    """Return what a signal can be measured on."""
    for node in parsed(RUNTIME / "loop/signals.py").body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "MEASURES"
            and isinstance(node.value, ast.Dict)
        ):
            return [ast.literal_eval(key) for key in node.value.keys if key]
    raise LookupError("loop/signals.py has no MEASURES")


def sources_table() -> str:
    return table(["source", "what is measured"], [[f"`{name}`", explained()["sources"][name]] for name in sources()])


def log_tables() -> dict[str, list[str]]:
    """Return the columns of each table in the prediction log's database, each with its type."""
    tables = {}
    for module in (RUNTIME / "loop/prediction_log.py", RUNTIME / "loop/triggers.py"):
        for node in parsed(module).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("sql.Table("):
                columns = [arg for arg in node.value.args if ast.unparse(arg).startswith("sql.Column(")]  # type: ignore[attr-defined]
                tables[ast.literal_eval(node.value.args[0])] = [column_of(column) for column in columns]  # type: ignore[attr-defined]
    return tables


def column_of(node: ast.expr) -> str:
    name, kind = (ast.unparse(arg) for arg in node.args[:2])  # type: ignore[attr-defined]
    plain = re.sub(r"\(.*", "", kind.removeprefix("sql.")).replace("_number", "BigInteger").replace("String", "Text")
    return f"`{ast.literal_eval(name)}` {plain.lower()}"


def log_tables_table() -> str:
    rows = [
        [f"`{name}`", explained()["log_tables"][name], ", ".join(columns)] for name, columns in log_tables().items()
    ]
    return table(["table", "what it holds", "columns"], rows)


def variables_table() -> str:
    where = variables()
    rows = [
        [f"`{name}`", meaning, "<br>".join(f"`{short(file)}`" for file in sorted(where.get(name, [])))]
        for name, meaning in explained()["environment"].items()
    ]
    return table(["variable", "meaning", "read by"], rows)


def short(file: str) -> str:
    return file.removeprefix("runtime/src/mlops_ladder/")
