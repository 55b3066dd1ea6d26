"""What the documentation takes from the sources: the hook of `mkdocs build`, and the table of levels in README.md.

    python tools/build_docs.py            write the table into README.md
    python tools/build_docs.py --check    only compare, and name what the reference does not explain

A page asks for a part with a line `<!-- generated: NAME -->`; PARTS lists the names. The page of a level is made whole:
the page that stands in the generated project, then its practices with their evidence.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import docs_configuration
import docs_explorer
import docs_messages
import docs_service
import yaml
from docs_sources import (
    ROOT,
    RUNTIME,
    Documents,
    capitals,
    commands,
    existing,
    filled,
    levels,
    parsed,
    questions,
    table,
)

README_TABLE = re.compile(r"(?<=<!-- levels -->\n).*?(?=<!-- /levels -->)", re.DOTALL)


def page_of(level: dict[str, Any]) -> str:
    """Return the page of a level, as it stands in a project called flights, and its practices."""
    return f"{docs_explorer.page(level).rstrip()}\n\n## Practices\n\n{practices_table(level)}"


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
    """Return a table of all commands, level by level, then a section a command with its arguments."""
    parts = [table(["level", "command", "what it does"], list(command_rows()))]
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


def command_rows() -> Iterator[list[str]]:
    for level in existing():
        for name, module in commands(level).items():
            first = str(ast.get_docstring(parsed(module))).splitlines()[0].replace("{package}", "flights")
            yield [str(level["number"]), f"[`{name}`](#{name})", first]


def is_code(paragraph: str) -> bool:
    return re.match(r"([A-Z_]+=\S+ )?(python|curl) ", paragraph) is not None


def arguments(tree: ast.Module) -> Iterator[tuple[list[str], str]]:
    """Yield the names and the help of each `parser.add_argument(...)` in a module, constants filled in."""
    own = capitals(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            given = {keyword.arg: filled(keyword.value, own) for keyword in node.keywords if keyword.arg}
            shown = given.get("help", "").replace("%(default)s", f"`{given.get('default', '')}`")
            if listed := re.findall(r"'([^']+)'", given.get("choices", "")):
                shown = f"{shown or 'choice'}: {', '.join(f'`{one}`' for one in listed)}"
            yield [filled(word, own) for word in node.args], shown


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


PARTS: dict[str, Callable[[], str]] = {
    "levels": levels_table,
    "questions": questions_table,
    "commands": commands_reference,
    "configuration": docs_configuration.reference,
    "explorer": docs_explorer.data,
    "level-names": docs_explorer.level_names,
    "messages": docs_messages.reference,
    "routes": docs_service.routes_table,
    "metrics": docs_service.metrics_table,
    "alerts": docs_service.alerts_table,
    "signals": docs_service.signals_table,
    "sources": docs_service.sources_table,
    "triggers": docs_service.triggers_table,
    "environment": docs_service.variables_table,
    "log-tables": docs_service.log_tables_table,
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
        wrong = [line for part in (docs_configuration, docs_service, docs_messages) for line in part.unexplained()]
        if text != built:
            wrong.append("the table of levels in README.md is stale: run `nox -s generate`")
        print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
        return 1 if wrong else 0
    readme.write_text(built, encoding="utf-8")
    print("wrote the table of levels in README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
