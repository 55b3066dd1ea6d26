"""The two pages that compute: what a climb adds, and which level a project needs."""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from conftest import LEVELS, ROOT, Render, files_in, package_of

sys.path.insert(0, str(ROOT / "tools"))
import docs_explorer

NODE = shutil.which("node")


@pytest.mark.parametrize("level", LEVELS)
def test_explorer_has_the_files_of_each_level_with_owner_and_purpose(level: int, rendered: Render) -> None:
    folder = rendered(level)
    shown = {file.path for file in docs_explorer.files() if file.level <= level}
    assert {path.replace("src/flights/", f"src/{package_of(folder)}/") for path in shown} == files_in(folder)
    assert {file.owner for file in docs_explorer.files()} == {"yours", "template", "shared"}
    assert all(file.purpose for file in docs_explorer.files())


def ask(script: str, call: str) -> Any:
    """Return what CALL gives in a script of docs/assets, as node computes it."""
    text = f"console.log(JSON.stringify(require({json.dumps(str(ROOT / 'docs/assets' / script))}).{call}))"
    done = subprocess.run([str(NODE), "-e", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="no node here, so the scripts of the pages were NOT tried")
def test_explorer_shows_what_lies_between_two_levels() -> None:
    files = [["a/x.py", 0, "yours", "reads"], ["a/y.py", 1, "template", "serves"], ["b/z.yml", 2, "shared", "limits"]]
    assert [file[0] for file in ask("explorer.js", f"chosen({json.dumps(files)}, 0, 2, '')")] == ["a/y.py", "b/z.yml"]
    assert [file[0] for file in ask("explorer.js", f"chosen({json.dumps(files)}, null, 1, 'SERVES')")] == ["a/y.py"]
    assert ask("explorer.js", f"chosen({json.dumps(files)}, 2, 1, '')") == []


@pytest.mark.skipif(NODE is None, reason="no node here, so the scripts of the pages were NOT tried")
def test_which_level_is_the_highest_that_an_answer_asks_for() -> None:
    ticked = [{"level": 1, "why": "a"}, {"level": 3, "why": "b"}, {"level": 3, "why": "c"}]
    assert ask("which-level.js", f"needed({json.dumps(ticked)})") == {"level": 3, "why": ["b", "c"]}
    assert ask("which-level.js", "needed([])") == {"level": 0, "why": []}


def test_each_level_above_0_is_asked_for_by_two_questions_or_more() -> None:
    asked = re.findall(r'type="checkbox" value="(\d)"', (ROOT / "docs/which-level.md").read_text(encoding="utf-8"))
    assert all(asked.count(str(level)) >= 2 for level in LEVELS[1:])
