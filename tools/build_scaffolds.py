"""Build the cookiecutter side from copier.yml: a scaffold for each level and the menu at the root. `--check` only compares.

A scaffold asks copier.yml's questions and hands the answers to copier (tools/post_gen_project.py), so nothing is
rendered twice. A default that depends on another answer is left empty: copier derives it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
HOOK = Path(__file__).with_name("post_gen_project.py")
FOLDER = "{{ cookiecutter.__folder }}"  # what cookiecutter names the project's folder; copier is told a folder instead
FOLDER_NAME = (
    "{{ (cookiecutter.package_name or cookiecutter.project_name) | lower"
    " | slugify(replacements=[['ä', 'ae'], ['ö', 'oe'], ['ü', 'ue']]) or 'project' }}"
)


class CopierYaml(yaml.SafeLoader):
    """YAML with copier's `!include`, which is passed over: the included files hold no question for a person."""


CopierYaml.add_constructor("!include", lambda loader, node: None)


def read_questions() -> dict[str, dict[str, Any]]:
    """Return copier.yml's questions in order, without those that nobody is asked."""
    documents = yaml.load_all((ROOT / "copier.yml").read_text(encoding="utf-8"), CopierYaml)
    return {
        name: question
        for document in documents
        for name, question in (document or {}).items()
        if not name.startswith("_") and question.get("when") is not False
    }


def scaffold(questions: dict[str, dict[str, Any]], level: int) -> dict[str, Any]:
    """Return cookiecutter.json of LEVEL: one entry a question, the level itself fixed."""
    answers: dict[str, Any] = {}
    prompts: dict[str, Any] = {}
    derived = []
    for name, question in questions.items():
        if name == "level":
            continue
        answers[name], prompts[name] = question["default"], question["help"]
        if choices := question.get("choices"):
            answers[name] = sorted(choices.values(), key=lambda value: value != question["default"])  # first is default
            prompts[name] = {"__prompt__": question["help"], **{value: label for label, value in choices.items()}}
        elif "{%" in question["default"]:
            answers[name] = ""
            prompts[name] += " (empty: made of the answers above)"
            derived.append(name)
    return {**answers, "_level": level, "_derived": derived, "__folder": FOLDER_NAME, "__prompts__": prompts}


def build() -> dict[str, str]:
    """Return the text of every generated file by its path."""
    questions = read_questions()
    files, menu = {}, {}
    for label, level in questions["level"]["choices"].items():
        (folder,) = ROOT.glob(f"levels/{level}-*")
        path = folder.relative_to(ROOT).as_posix()
        title, _, description = label.partition(": ")
        menu[folder.name] = {"path": f"./{path}", "title": title, "description": description}
        files[f"{path}/cookiecutter.json"] = as_json(scaffold(questions, level))
        files[f"{path}/hooks/post_gen_project.py"] = HOOK.read_text(encoding="utf-8")
        files[f"{path}/{FOLDER}/.gitkeep"] = ""
    return {"cookiecutter.json": as_json({"templates": menu}), **files}


def as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    files = build()
    there = {"cookiecutter.json"}
    for pattern in ("cookiecutter.json", "hooks/*.py", "*cookiecutter.*/*"):
        there |= {file.relative_to(ROOT).as_posix() for file in ROOT.glob(f"levels/*/{pattern}")}
    changed = [name for name, text in files.items() if not (ROOT / name).is_file() or read(name) != text]
    changed += sorted(there - set(files))
    if "--check" in sys.argv[1:]:
        if changed:
            print(f"stale: {', '.join(changed)}; run `nox -s generate`", file=sys.stderr)
        return 1 if changed else 0
    for name in changed:
        if name in files:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(files[name], encoding="utf-8", newline="\n")
            print(f"wrote {name}")
        else:
            (ROOT / name).unlink()
            print(f"removed {name}")
    return 0


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
