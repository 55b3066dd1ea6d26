"""The documentation says what is true: it builds, its commands exist, its links lead somewhere, its tutorial runs."""

import ast
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import CIS, LEVELS, ROOT, Render, commit, files_in, git, package_of, reads, sources
from test_climb import climb

HIGHEST = LEVELS[-1]
OWN_COMMAND = ROOT / "docs/how-to/own-command.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HELPS = """
import contextlib, io, json
from {package}.__main__ import PROJECT, main
from mlops_ladder.core import commands
helps = {{}}
for name in commands.known(PROJECT):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([name, "--help"])
    helps[name] = text.getvalue()
print(json.dumps(helps))
"""


@pytest.fixture(scope="session")
def helps(rendered: Render, environment: Render) -> Callable[[int], dict[str, str]]:
    """Return a function that gives, for a level, what each command answers to --help."""

    @functools.cache
    def get(level: int) -> dict[str, str]:
        folder = rendered(level)
        done = subprocess.run(
            [environment(level), "-c", HELPS.format(package=package_of(folder))],
            env={**os.environ, "PYTHONPATH": sources(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return get


def code(text: str) -> Iterator[str]:
    """Yield each line of the code blocks and each code span of a page, comments cut off."""
    for _, _, block in FENCE.findall(text):
        yield from (re.split(r"\s#\s", line)[0] for line in block.splitlines())
    yield from SPAN.findall(FENCE.sub("", text))


def unknown_commands(text: str, package: str, helps: dict[str, str], sessions: set[str]) -> list[str]:
    """Return the commands, options and nox sessions that a page names and that do not exist."""
    wrong = []
    for line in code(text):
        for name, rest in re.findall(rf"python -m (?:{package}|<package>) ([a-z][\w-]*)([^|;&]*)", line):
            if name not in helps:
                wrong.append(f"{name}: {line}")
            else:
                wrong += [f"{o}: {line}" for o in re.findall(r"--[a-z][\w-]*", rest) if o not in helps[name]]
        wrong += [
            f"{name}: {line}" for name in re.findall(r"nox (?:-s|-e) ([a-z][\w-]*)", line) if name not in sessions
        ]
    return wrong


def sessions(folder: Path) -> set[str]:
    """Return the names of the nox sessions in FOLDER: those of its noxfile and of each nox_*.py beside it."""
    found = set()
    for file in folder.glob("nox*.py"):
        for node in ast.parse(reads(file)).body:
            if isinstance(node, ast.FunctionDef) and "session" in (
                written := " ".join(map(ast.unparse, node.decorator_list))
            ):
                named = re.search(r"name='([^']+)'", written)
                found.add(named[1] if named else node.name)
    return found


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site],
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_site_builds_with_a_page_for_each_level(site: Path) -> None:
    for level in ROOT.glob("levels/[0-9]-*"):
        page = reads(site / f"levels/{level.name}.html")
        practices = yaml.safe_load(reads(level / "practices.yml"))
        assert [practice["id"] for practice in practices if practice["id"] not in page] == []


def test_site_does_not_build_with_a_broken_link(tmp_path: Path, snapshot: Path) -> None:
    copy = shutil.copytree(snapshot, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", "*.parquet"))
    (copy / "docs/index.md").write_text("[gone](gone.md)\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert "gone.md" in done.stderr


def test_reading_the_site_asks_no_other_server(site: Path) -> None:
    loaded: list[str] = []

    class Page(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag != "a":
                loaded.extend(value for key, value in attrs if key in ("src", "href", "action") and value)

    for page in site.rglob("*.html"):
        Page().feed(reads(page))
    assert loaded
    assert [address for address in loaded if "//" in address] == []


def test_search_needs_no_server(site: Path) -> None:
    """A browser runs no worker and fetches no JSON from a folder: the index is a script, and another one stands in for the worker."""
    assert reads(site / "search/search_index.js").startswith("var __index = {")
    for page in [site / "index.html", site / "reference/glossary.html"]:
        assert "assets/iframe-worker.js" in reads(page)


def test_table_of_levels_in_the_readme_is_current() -> None:
    done = subprocess.run([sys.executable, "tools/build_docs.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_levels_are_called_the_same_in_the_questions_and_in_the_documentation() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    import build_docs

    labels = list(build_docs.questions()["level"]["choices"])
    for label, level in zip(labels, build_docs.existing(), strict=True):
        assert label.startswith(f"{level['number']} {level['name']}: ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_named_in_a_page_exist(page: Path, helps: Callable[[int], dict[str, str]]) -> None:
    generated = sessions(ROOT / "template")
    known = helps(HIGHEST)
    if page == OWN_COMMAND:
        known = {**known, "punctuality": "--at-least"}  # the command that this page adds
    assert unknown_commands(reads(page), "flights", known, sessions(ROOT) | generated) == []


@pytest.mark.parametrize("level", LEVELS)
def test_commands_named_in_a_project_exist(
    level: int, rendered: Render, helps: Callable[[int], dict[str, str]]
) -> None:
    folder = rendered(level)
    for page in [folder / "README.md", *folder.glob("docs/**/*.md"), *folder.glob("docs/*.toml")]:
        wrong = unknown_commands(reads(page), package_of(folder), helps(level), sessions(folder))
        assert wrong == [], page.relative_to(folder)


def test_reference_of_the_commands_lists_the_options_that_help_lists(helps: Callable[[int], dict[str, str]]) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    import build_docs

    sections = re.split(r"^## ", build_docs.commands_reference(), flags=re.MULTILINE)[1:]
    told = {part.split()[0]: set(re.findall(r"^\| `(--[\w-]+)", part, re.MULTILINE)) for part in sections}
    options = {name: set(re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)) for name, text in helps(HIGHEST).items()}
    assert told == options


def test_a_command_that_does_not_exist_is_noticed() -> None:
    text = "```bash\nuv run python -m flights fly --high  # up\nuv run nox -s land\n```\nand `python -m flights score --far`"
    wrong = unknown_commands(text, "flights", {"score": "--output"}, {"tests"})
    assert [line.partition(":")[0] for line in wrong] == ["fly", "land", "--far"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=lambda page: page.name)
def test_links_of_the_pages_outside_the_site_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("ci", CIS)
@pytest.mark.parametrize("level", LEVELS)
def test_links_and_paths_in_a_project_lead_somewhere(level: int, ci: str, rendered: Render) -> None:
    folder = rendered(level, ci=ci)
    package = package_of(folder)
    for page in [folder / "README.md", *folder.glob("docs/**/*.md")]:
        assert broken_links(page) == [], page.relative_to(folder)
        named = [span for span in SPAN.findall(FENCE.sub("", reads(page))) if is_path(span, package)]
        absent = [path for path in named if not list(folder.glob(path.rstrip("/")))]
        assert absent == [], page.relative_to(folder)


def is_path(span: str, package: str) -> bool:
    return bool(re.fullmatch(rf"(src/{package}|conf|tests|docs|notebooks|\.github|data/sample)(/[\w.*-]*)+", span))


def broken_links(page: Path) -> list[str]:
    targets = [link.partition("#")[0] for link in LINK.findall(FENCE.sub("", reads(page)))]
    return [target for target in targets if target and ":" not in target and not (page.parent / target).exists()]


def test_each_generated_file_is_said_to_be_verified_and_how(rendered: Render) -> None:
    entries = yaml.safe_load(reads(ROOT / "docs/verified.yml"))
    for entry in entries:
        assert entry["how"] in ("executed", "validated", "not verified")
        assert [test for test in entry.get("tests", []) if not (ROOT / test).is_file()] == []
    folder = rendered(HIGHEST)
    package = package_of(folder)
    used = set()
    for path in files_in(folder):
        fits = [n for n, e in enumerate(entries) if any(fnmatch(path.replace(package, "*"), p) for p in e["files"])]
        assert fits, f"docs/verified.yml says nothing about {path}"
        used.add(fits[0])
    assert [entry["files"] for number, entry in enumerate(entries) if number not in used] == []


def script_of(text: str) -> str:
    """Return what a page has a person type, as a script: its bash blocks, each ended by a form feed, its diffs applied."""
    script = []
    for _, language, block in FENCE.findall(text):
        if language == "bash":
            script += [block, r"printf '\f'"]
        elif language == "diff":
            script.append(f"git apply <<'END'\n{block}END")
    return "\n".join(script)


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's script in FOLDER until something fails, with a free port in place of 8000."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free_port = server.getsockname()[1]
    text = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + script.replace("8000", str(free_port))
    words = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)


@pytest.mark.slow
def test_tutorial_runs_word_by_word(tmp_path: Path, snapshot: Path) -> None:
    git(tmp_path, "clone", "-q", str(snapshot), "mlops-ladder")
    page, expected = reads(ROOT / "docs/tutorial.md"), []
    for _, language, block in FENCE.findall(page):
        if language == "bash":
            expected.append("")
        elif language == "text":
            expected[-1] += block
    done = bash(script_of(page), tmp_path / "mlops-ladder")
    assert done.returncode == 0, done.stdout + done.stderr
    for shown, printed in zip(expected, done.stdout.split("\f"), strict=False):
        for line in filter(None, map(str.strip, shown.splitlines())):
            pattern = ".*".join(re.escape(part) for part in line.split("..."))
            assert re.search(pattern, printed), f"the tutorial shows {line!r}, printed was:\n{printed}"


@pytest.mark.slow
def test_how_to_use_cookiecutter_works(tmp_path: Path, snapshot: Path) -> None:
    git(tmp_path, "clone", "-q", str(snapshot), "mlops-ladder")
    ((_, _, command),) = FENCE.findall(reads(ROOT / "docs/how-to/cookiecutter.md"))
    words = ["bash", "-c", f"{command.strip()} --no-input"]
    done = subprocess.run(words, cwd=tmp_path / "mlops-ladder", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "level: 1" in reads(tmp_path / "flight-delays/.copier-answers.yml")


def modules_of_own() -> tuple[str, str]:
    """Return the command and the gate that a page shows."""
    command, gate = (block for _, language, block in FENCE.findall(reads(OWN_COMMAND)) if language == "python")
    return command, gate


def run_in(folder: Path, python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *words],
        env={**os.environ, "PYTHONPATH": sources(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_how_to_add_a_command_works(project: Render, environment: Render) -> None:
    folder = project(0)
    package = package_of(folder)
    commands = folder / f"src/{package}/commands"
    commands.mkdir()
    (commands / "punctuality.py").write_text(modules_of_own()[0])
    shutil.copytree(folder / "data/sample", folder / "data/raw")
    done = run_in(folder, environment(0), "-m", package, "punctuality", "--at-least", "1000")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(\w\w \d+\.\d%\n)+", done.stdout)
    listed = run_in(folder, environment(0), "-m", package, "--help").stdout
    assert re.search(r"^  punctuality +Print the share of late flights a carrier\.$", listed, re.MULTILINE)


# A version whose rows are the sample's, and which knows each flight's outcome, or takes it for the opposite.
JUDGED = """
from {package}.__main__ import PROJECT
from mlops_ladder.release.judgement import Candidate, gate_names, load_gate
assert "warning_list" in gate_names(PROJECT)
rows = PROJECT.data.read("data/sample")
for sign in 1, -1:
    candidate = Candidate(PROJECT, None, "late", "1")
    candidate.__dict__ |= {{"rows": rows, "predicted": sign * rows[PROJECT.data.TARGET].to_numpy("float64")}}
    (finding,) = load_gate(PROJECT, "warning_list").check(candidate, None)
    print("passed" if finding.passed else "refused", finding)
"""


def test_how_to_add_a_gate_works(project: Render, environment: Render) -> None:
    folder = project(3)
    gates = folder / f"src/{package_of(folder)}/gates"
    gates.mkdir()
    (gates / "warning_list.py").write_text(modules_of_own()[1])
    done = run_in(folder, environment(3), "-c", JUDGED.format(package=package_of(folder)))
    assert done.returncode == 0, done.stderr
    passed, refused = done.stdout.splitlines()
    assert passed.startswith("passed ")
    assert refused == "refused warning_list: first 3,000 flights: late 0.00 times as often, must be 1.5 or more"


# The sections of a level's page that are typed after the climb, and how lines that this prints begin, in this order.
AFTER_THE_CLIMB = {
    2: (["After the climb"], [r"trained on [\d,]+ rows, .* registered .* version 1"]),
    3: (
        ["After the climb", "See it work"],
        [
            r"trained on [\d,]+ rows, .* registered .* version 1",
            r".* version 1 passed: .* of 8 gates hold,",
            r".* test: .* version 1 deployed \(before: none\), by ada@example.org:",
            r".* version 1 is approved for prod by ada@example.org:",
            r".* prod: .* version 1 deployed \(before: none\),",
            r"response +request \S+ was answered by version 1",
            r"commit +\w+",
            r"source +flights-2013-12.parquet, .* as the raw data:",
            r".* registered .* version 2",
            r".* version 2 passed:",
            r".* prod: .* version 2 deployed \(before: 1\),",
            r'.*"model_version": ?"2"',
            r".* prod: .* version 1 .* \(before: 2\), by ada@example.org: the desk cannot use it yet",
            r'.*"model_version": ?"1"',
            r"[\d,]+ rows with predictions of version 1 are in data/scored;",
        ],
    ),
    4: (
        ["After the climb", "See it work"],
        [
            r"trained on [\d,]+ rows, .* registered .* version 1",
            r".* version 1 passed: .* of 10 gates hold,",
            r".* version 1 is approved for prod by reviewer@example.org:",
            r".* prod: .* version 1 deployed \(before: none\), by ada@example.org:",
            r"version 1 alone -> the loop",
            r"2013-0[4-7] +[\d,]+ rows  roc_auc [\d.]+ -> [\d.]+",
            r".* retraining 1 \(.*\): version 2, (promoted|refused|aborted|on trial)",
            r".* canary \w+: version \d+ against 1,",
            r"[\d,]+ predictions from ",
            r'.*"version": ?"\d+"',
            r".*reports/dashboard.html: 1 model,",
            r"[\d,]+ lines, each as it was written",
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("level", AFTER_THE_CLIMB)
def test_after_the_climb_the_page_of_the_level_is_all_that_is_left_to_do(level: int, project: Render) -> None:
    folder = project(level - 1)
    features = folder / f"src/{package_of(folder)}/features.py"
    features.write_text(reads(features).replace("NUMBERS = [", "# my own idea\nNUMBERS = ["), encoding="utf-8")
    with (folder / "README.md").open("a", encoding="utf-8") as file:
        file.write("Mine.\n")
    git(folder, "config", "user.email", "ada@example.org")
    commit(folder)
    climb(folder, level)
    assert "# my own idea" in reads(features) and reads(folder / "README.md").endswith("Mine.\n")
    page, (titles, lines) = reads(next(folder.glob(f"docs/levels/{level}-*.md"))), AFTER_THE_CLIMB[level]
    typed = "\n".join(script_of(page.partition(f"## {title}\n")[2].partition("\n## ")[0]) for title in titles)
    done = bash(typed, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.replace("\f", "\n")
    for line in lines:
        found = re.search(rf"^{line}", printed, re.MULTILINE)
        assert found, f"no line {line!r} in its place, printed was:\n{done.stdout}"
        printed = printed[found.end() :]
