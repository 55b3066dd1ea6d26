"""The reference is made of the source: each key, route, metric and variable is there, and a new one that nothing explains fails."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LEVELS, ROOT, Render, reads

sys.path.insert(0, str(ROOT / "tools"))
import docs_configuration
import docs_messages
import docs_service


@pytest.fixture
def copy(tmp_path: Path, snapshot: Path) -> Path:
    return shutil.copytree(snapshot, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", "*.parquet", "bench"))


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Return what `tools/build_docs.py --check` says in FOLDER."""
    words = [sys.executable, "tools/build_docs.py", "--check"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def leaves(values: object, path: str = "") -> set[str]:
    """Return the paths of the values in nested tables, such as `quality.rows`."""
    if not isinstance(values, dict) or not values:
        return {path}
    return {leaf for name, value in values.items() for leaf in leaves(value, f"{path}.{name}".lstrip("."))}


@pytest.mark.parametrize("problem", docs_configuration.PROBLEMS)
def test_reference_of_the_configuration_has_each_key_of_a_project(problem: str, rendered: Render) -> None:
    folder = rendered(LEVELS[-1], problem=problem)
    sections = dict(part.split("\n", 1) for part in docs_configuration.reference().split("## ")[1:])
    for file in sorted(folder.glob("conf/**/*.yml")):
        text = sections[file.relative_to(folder).as_posix()]
        every = leaves(yaml.safe_load(reads(file)))
        missing = [path for path in every if not any(f"| `{path[:n]}` |" in text for n in range(1, len(path) + 1))]
        assert missing == [], file


def test_reference_says_type_default_and_unit() -> None:
    text = docs_configuration.reference()
    assert "| `receive_s` | number above 0 | `15` | seconds | for a request to arrive whole" in text
    assert '| `as_of` | `newest`, `today` | `newest` |  | what "now" is' in text
    assert "| `margin` | number from 0 | `0.01`; regression: `1.0` |" in text
    assert "{%" not in text and "{{" not in text


def test_a_key_that_nothing_explains_is_named(copy: Path) -> None:
    assert check(copy).returncode == 0
    file = copy / "template/conf/limits.yml"
    file.write_text(f"{reads(file)}queue: 5\n")
    done = check(copy)
    assert (done.returncode, done.stderr) == (1, "conf/limits.yml: queue\n")


def test_a_variable_that_nothing_explains_is_named(copy: Path) -> None:
    file = copy / "template/noxfile.py"
    file.write_text(f'{reads(file)}\nFRESH = os.environ.get("FRESH_NAME")\n')
    done = check(copy)
    assert (done.returncode, done.stderr) == (1, "docs/reference.yml: environment lacks FRESH_NAME\n")


def test_metrics_that_the_alerts_ask_for_are_in_the_reference() -> None:
    known = {metric.name for metric in docs_service.metrics()}
    rules = reads(ROOT / "template/deploy/monitoring/rules.yml")
    assert len(known) > 20
    assert {name for name in known if name in rules} >= {
        "http_requests_total",
        "monitoring_fired",
        "prediction_log_away",
    }
    assert "`outcome`" in docs_service.metrics_table()


def test_routes_of_each_level_are_in_the_reference() -> None:
    text = docs_service.routes_table()
    assert "| 1 | `POST /predict` | Predict one row" in text
    assert "| 4 | `POST /feedback` |" in text


def test_each_error_message_says_what_to_do_on_the_page() -> None:
    assert len(docs_messages.messages()) > 300
    assert docs_messages.unexplained() == []
    page = docs_messages.reference()
    assert (
        "| `` no uv.lock: a run names its environment. Run `uv lock` and commit the file `` | 1 | Run `uv lock`" in page
    )
    assert "| `` the key of NAME is for predictions, this asks for one of scope admin `` | 403 | Use a key" in page


def test_a_message_of_which_nothing_says_what_to_do_is_named(copy: Path) -> None:
    file = copy / "template/runtime/src/mlops_ladder/core/files.py"
    file.write_text(
        f'{reads(file)}\n\ndef fail(name: str) -> None:\n    raise ProjectError(f"{{name}} is odd in some way")\n'
    )
    done = check(copy)
    assert (done.returncode, done.stderr) == (
        1,
        "docs/troubleshooting.yml lacks 'NAME is odd in some way' of core/files.py\n",
    )
