"""The runtime's layers: what pyproject.toml says of them holds, and what breaks it is noticed."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import act
import pytest
from conftest import LEVELS, ROOT, Render, reads

RUNTIME = ROOT / "template/runtime/src"
# What takes a tenth of a second and more to import, and what comes with it; a command that does not need it is not to wait.
SLOW = {
    *(
        "apprise",
        "cryptography",
        "distributed",
        "dvc",
        "dvc_data",
        "fairlearn",
        "great_expectations",
        "httpx",
        "joblib",
    ),
    *(
        "matplotlib",
        "mlflow",
        "onnx",
        "onnxruntime",
        "optuna",
        "pandas",
        "polars",
        "psutil",
        "pyarrow",
        "pytest",
        "ray",
    ),
    *("scipy", "skl2onnx", "sklearn", "sqlalchemy", "threadpoolctl", "uvicorn"),
}
EXCEPTIONS = {
    "mlops_ladder/serving/serve.py",  # sets a variable of the process that counts only before numpy is loaded
    "mlops_ladder/loop/impact.py",  # takes the shape of a file from a module that needs FastAPI
}


# Prints the modules that the levels which are here register.
REGISTERED = """
import importlib, pathlib
for file in pathlib.Path("runtime/src/mlops_ladder/levels").glob("level_*.py"):
    level = vars(importlib.import_module(f"mlops_ladder.levels.{file.stem}").LEVEL)
    for named in level.values():
        print(*(named.values() if isinstance(named, dict) else named if isinstance(named, tuple) else ()), sep="\\n")
"""


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    words = [act.tool("lint-imports"), "--no-cache", "--config", ROOT / "pyproject.toml"]
    environ = os.environ | {"PYTHONPATH": str(source)}
    return subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def late_imports(text: str) -> set[str]:
    """Return what a module imports inside its functions; what is the runtime's begins with a dot."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = set()
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").partition(".")[0])
    return found


def test_the_runtime_keeps_its_layers() -> None:
    done = lint(RUNTIME)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("data/store.py", "from ..loop import audit", "mlops_ladder.data is not allowed to import mlops_ladder.loop"),
        ("loop/prediction_log.py", "from . import feedback", "No circles, within a layer neither BROKEN"),
        ("levels/level_1.py", "from ..data import ingest", "What a level registers is named, not imported BROKEN"),
        ("loop/audit.py", "from ..levels import level_4", "Levels are found by their number BROKEN"),
        ("extras/colours.py", "", "mlops_ladder.extras"),  # a folder that is in no layer
    ],
)
def test_what_breaks_the_layers_is_noticed(module: str, line: str, said: str, tmp_path: Path) -> None:
    shutil.copytree(RUNTIME, tmp_path / "src")
    file = tmp_path / "src/mlops_ladder" / module
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").touch()
    with file.open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")
    done = lint(tmp_path / "src")
    assert done.returncode == 1, done.stdout + done.stderr
    assert said in " ".join(done.stdout.split())


def test_inside_functions_only_what_is_slow_is_imported() -> None:
    found = {path.relative_to(RUNTIME).as_posix(): late_imports(reads(path)) - SLOW for path in RUNTIME.rglob("*.py")}
    assert {name for name, late in found.items() if late} == EXCEPTIONS
    assert found["mlops_ladder/serving/serve.py"] == {".app", ".servable"}
    assert found["mlops_ladder/loop/impact.py"] == {"..serving"}


def test_an_import_that_could_stand_at_the_top_is_noticed() -> None:
    text = "import os\n\n\ndef run() -> None:\n    import json\n\n    import polars\n    from ..core import files\n"
    assert late_imports(text) == {"json", "polars", "..core"}


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_has_every_module_of_the_runtime_that_it_imports_or_registers(level: int, rendered: Render) -> None:
    """Nothing else would say so: to mypy a module that is missing is a library that is not installed."""
    folder = rendered(level)
    source = folder / "runtime/src"
    environ = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wanted = {(f"mlops_ladder.{module}", "registered") for module in done.stdout.split()}
    for path in source.rglob("*.py"):
        wanted |= {(module, path.name) for module in imported(path, source)}
    missing = {(module, by) for module, by in wanted if not is_module(source / module.replace(".", "/"))}
    assert not missing
    assert {("mlops_ladder.serving.score", "registered"), ("mlops_ladder.core.project", "levels.py")} <= wanted


def imported(path: Path, source: Path) -> set[str]:
    """Return the modules of the runtime that a module of it names in relative imports, wherever they stand."""
    package = path.relative_to(source).parent.parts
    found = set()
    for node in ast.walk(ast.parse(reads(path))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])])
            folder = (source / base.replace(".", "/")).is_dir()
            found |= {f"{base}.{alias.name}" for alias in node.names} if folder else {base}
    return found


def is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
