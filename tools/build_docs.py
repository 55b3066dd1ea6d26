"""What the documentation takes from the sources: the hook of `mkdocs build`, and the table of levels in README.md.

    python tools/build_docs.py            write the table into README.md
    python tools/build_docs.py --check    only compare

A page asks for a part with a line `<!-- generated: NAME -->`; PARTS lists the names. The page of a level is made whole:
the page that stands in the generated project, then its practices with their evidence.
"""

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import yaml

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template"
RUNTIME = TEMPLATE / "runtime/src/mlops_ladder"
EXAMPLE = {
    "project_name": "Flights",
    "package_name": "flights",
    "problem": "classification",
    "ci": "github",
    "runtime": "project",
}
README_TABLE = re.compile(r"(?<=<!-- levels -->\n).*?(?=<!-- /levels -->)", re.DOTALL)


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
            files = {name: RUNTIME / f"{registered[name].replace('.', '/')}.py" for name in sorted(registered)}
            return {
                name: file if file.is_file() else file.with_suffix("") / "__init__.py" for name, file in files.items()
            }
    return {}


@functools.cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def page_of(level: dict[str, Any]) -> str:
    """Return the page of a level, as it stands in a project called flights, and its practices."""
    source = next((TEMPLATE / "docs/levels").glob(f"{level['number']}-*.md.jinja"))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(source.read_text(encoding="utf-8")).render(EXAMPLE, level=level["number"])
    return f"{text.rstrip()}\n\n## Practices\n\n{practices_table(level)}"


def practices_table(level: dict[str, Any]) -> str:
    practices = yaml.safe_load((level["folder"] / "practices.yml").read_text(encoding="utf-8"))
    rows = []
    for practice in practices:
        evidence = [f"`{test}`" for test in practice.get("tests", [])]
        evidence += ["`{}`, “{}”".format(*page.split("#")) for page in practice.get("pages", [])]
        evidence += [f"no `{path}`" for path in practice.get("absent", [])]
        until = f" (until level {practice['ends_at']})" if "ends_at" in practice else ""
        rows.append([f"`{practice['id']}`", practice["title"] + until, "; ".join(evidence)])
    intro = (
        f"The {len(rows)} practices of this level. In a project, `uv run python -m flights maturity` runs the tests named here,"
        " looks the headings up and checks that what is named with “no” is not there yet.\n\n"
    )
    return intro + table(["practice", "what it says", "evidence in the project"], rows)


def levels_table() -> str:
    rows = []
    for level in levels():
        new = ", ".join(f"`{name}`" for name in commands(level)) if level["exists"] else "planned"
        rows.append([f"**{level['number']} {level['name']}**", level["gains"], new])
    there = [str(level["number"]) for level in levels() if level["exists"]]
    planned = [str(level["number"]) for level in levels() if not level["exists"]]
    state = f"There {'are levels' if there[1:] else 'is level'} {counted(there)}"
    state += f"; {counted(planned)} {'are' if planned[1:] else 'is'} planned." if planned else "."
    return f"{table(['level', 'what you gain', 'commands it adds'], rows)}\n{state}\n"


def counted(words: list[str]) -> str:
    """Return WORDS as a person lists them: `2, 3 and 4`."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def questions_table() -> str:
    rows = []
    for name, question in questions().items():
        choices = "<br>".join(f"`{value}` {label}" for label, value in question.get("choices", {}).items())
        default = str(question.get("default", ""))
        shown = "made from `project_name`" if "{" in default else f"`{default}`" if default else "none"
        rows.append([f"`{name}`", question["help"], choices or "text", shown])
    return table(["question", "it asks", "answers", "default"], rows)


def commands_reference() -> str:
    parts = []
    for level in existing():
        for name, module in commands(level).items():
            tree = parsed(module)
            first, *rest = str(ast.get_docstring(tree)).replace("{package}", "flights").split("\n\n")
            first, _, words = first.partition("\n")
            parts.append(f"## {name}\n\nLevel {level['number']}. {first} {words}".rstrip() + "\n")
            parts += [f"```text\n{text}\n```\n" if is_code(text) else f"{text}\n" for text in rest]
            rows = [[f"`{', '.join(words)}`", help] for words, help in arguments(tree)]
            parts.append(table(["argument", "what it is"], rows) if rows else "It takes no arguments.\n")
    return "\n".join(parts)


def is_code(paragraph: str) -> bool:
    return re.match(r"([A-Z_]+=\S+ )?(python|curl) ", paragraph) is not None


def arguments(tree: ast.Module) -> Iterator[tuple[list[str], str]]:
    """Yield the names and the help of each `parser.add_argument(...)` in a module, constants filled in."""
    own = capitals(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            given = {keyword.arg: filled(keyword.value, own) for keyword in node.keywords if keyword.arg}
            shown = given.get("help", "").replace("%(default)s", f"`{given.get('default', '')}`")
            yield [filled(word, own) for word in node.args], shown


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


def configuration_reference() -> str:
    parts = []
    for level in existing():
        for path in added(level):
            found = [*TEMPLATE.glob(f"{path}*"), *TEMPLATE.glob(f"{path}/*")] if path.startswith("conf/") else []
            for file in sorted(file for file in found if file.is_file()):  # the path may be that of a folder
                title = file.relative_to(TEMPLATE).as_posix().removesuffix(".jinja")
                text = file.read_text(encoding="utf-8").rstrip()
                parts.append(f"## {title}\n\nLevel {level['number']}.\n\n```yaml\n{text}\n```\n")
    return "\n".join(parts) or "No level that exists has a configuration file yet.\n"


def exit_codes_table() -> str:
    rows = [["0", "done"]]
    for node in parsed(RUNTIME / "core/errors.py").body:
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "exit_code":
                rows.append([ast.unparse(item.value), f"{ast.get_docstring(node)} (`{node.name}`)"])
    return table(["code", "meaning"], rows)


def user_owned_list() -> str:
    """Return the files that are written once and never touched again, from copier.yml."""
    for document in yaml.load_all((ROOT / "copier.yml").read_text(encoding="utf-8"), Documents):
        if "_skip_if_exists" in (document or {}):
            return "".join(f"- `{path.lstrip('/')}`\n" for path in document["_skip_if_exists"])
    raise LookupError("copier.yml has no _skip_if_exists")


def verified_table() -> str:
    rows = []
    for entry in yaml.safe_load((ROOT / "docs/verified.yml").read_text(encoding="utf-8")):
        files = "<br>".join(f"`{pattern}`" for pattern in entry["files"])
        tests = "<br>".join(f"`{test}`" for test in entry.get("tests", []))
        rows.append([files, f"**{entry['how']}**", entry["what"], tests])
    return table(["files", "how", "what that means", "where"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "levels": levels_table,
    "questions": questions_table,
    "commands": commands_reference,
    "configuration": configuration_reference,
    "exit-codes": exit_codes_table,
    "user-owned": user_owned_list,
    "verified": verified_table,
}


# the hook that mkdocs.yml names


def on_config(config: Any) -> None:
    """Put the pages of the levels into the navigation, where it says `Levels`."""
    for entry in config["nav"]:
        if "Levels" in entry:
            entry["Levels"] = [{f"{level['number']} {level['name']}": address(level)} for level in existing()]


def on_files(files: Any, config: Any) -> None:
    from mkdocs.structure.files import File

    for level in existing():
        files.append(File.generated(config, address(level), content=page_of(level)))
    files.append(File.generated(config, "changes.md", content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"<!-- generated: ([\w-]+) -->", lambda found: PARTS[found[1]](), markdown)


def address(level: dict[str, Any]) -> str:
    return str(PurePosixPath("levels") / f"{level['folder'].name}.md")


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    built = README_TABLE.sub(lambda _: f"\n{levels_table()}\n", text)
    if "--check" in sys.argv[1:]:
        if text != built:
            print("the table of levels in README.md is stale: run `nox -s generate`", file=sys.stderr)
            return 1
        return 0
    readme.write_text(built, encoding="utf-8")
    print("wrote the table of levels in README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
