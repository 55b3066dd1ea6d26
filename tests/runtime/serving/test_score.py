"""The scoring script is kept with the code and installed as a command."""

import importlib
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import skops.io
from flight_delays.__main__ import main
from mlops_ladder.core.errors import ProjectError
from mlops_ladder.data import joined, rows
from mlops_ladder.serving import score
from mlops_ladder.training import handoff
from projects import FLIGHTS, ROOT

PROJECT = ROOT


@pytest.mark.practice("scoring-script-version-control")
def test_the_scoring_script_is_in_git() -> None:
    script = "runtime/src/mlops_ladder/serving/score.py"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", script]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [script], f"run `git init` and commit: {done.stderr}"


@pytest.mark.practice("scoring-script-version-control", "scoring-script-tests")
def test_the_installed_command_scores_a_file_as_the_note_says(handed_over: Path) -> None:
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["flight_delays"].partition(":")
    command = getattr(importlib.import_module(module), name)
    note = rows.read_note(handoff.MODEL_FILE)
    pd.DataFrame([note["example"]["row"]] * 2).to_csv("rows.csv", index=False)
    assert command(["score", "rows.csv", "--output", "scored.parquet"]) == 0
    predicted = pd.read_parquet("scored.parquet")[note["output"]]
    assert list(predicted) == pytest.approx([note["example"]["prediction"]] * 2, rel=1e-9)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("carrier\nUA\n", "is missing"), ("", "cannot be read"), ("carrier\n", "has no rows")],
)
def test_a_file_that_cannot_be_scored_says_why(
    content: str, reason: str, handed_over: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.csv").write_text(content)
    assert main(["score", "rows.csv"]) == 1
    assert reason in capsys.readouterr().err


def test_each_wrong_cell_is_named(handed_over: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = rows.read_note(handoff.MODEL_FILE)
    row = note["example"]["row"]
    for name, rule in note["columns"].items():
        wrong = {"number": ["far", "inf"], "time": ["yesterday", f"{row[name]}Z"], "boolean": ["perhaps"]}
        for value in wrong.get(rule["type"], []) + ([] if rule.get("null") else [""]):
            pd.DataFrame([row, row | {name: value}]).to_csv("rows.csv", index=False)
            assert main(["score", "rows.csv"]) == 1
            assert f"row 1: {name} is " in capsys.readouterr().err


def test_a_text_stays_as_it_is_written(workdir: Path) -> None:
    """Neither 007 nor NA is a number or a gap; an empty cell is one."""
    columns = {"code": {"type": "text", "null": True}, "size": {"type": "number", "null": True}}
    Path("rows.csv").write_text("code,size\n007,1\nNA,2.5\n,\n")
    read = joined.as_rows(FLIGHTS, score.read_table(Path("rows.csv"), columns), columns)
    assert read["code"].tolist() == ["007", "NA", None]
    assert read["size"].tolist() == pytest.approx([1, 2.5, float("nan")], nan_ok=True)


CELLS = {"a": {"type": "number", "null": True}, "b": {"type": "number"}, "c": {"type": "number", "null": True}}


@pytest.mark.parametrize(
    "content",
    [
        "a,b,c\n1,2,3,\n4,5,6,\n",  # a comma at the end of each line
        "a,b,c,\n1,2,3,\n4,5,6,\n",
        "a,b,c\n1,2,3\n4,5,6,,\n",
        "\ufeff\r\na,b,c\r\n1,2,3\r\n\r\n4,5,6",
        ",a,b,c\n0,1,2,3\n1,4,5,6\n",  # with pandas' index
        '"a","b","c"\n"1",2,3\n4,"5",6\n',
    ],
)
def test_each_cell_belongs_to_the_name_above_it(content: str, workdir: Path) -> None:
    Path("rows.csv").write_text(content, encoding="utf-8", newline="")
    rows = joined.as_rows(FLIGHTS, score.read_table(Path("rows.csv"), CELLS), CELLS)
    assert rows.to_numpy().tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b,c\n1,2,3\n4,5,6,7\n", "line 3 has 4 cells, the header 3"),
        ("a,b,c\n1,2,3\n4,5\n", "line 3 has 2 cells, the header 3"),
        ("a,b,c\n1,2,3\na,b,c\n4,5,6\n", "line 3 is the header again"),
        ("a,b,c,b\n1,2,3,4\n", "column b stands twice in its header"),
        ("a;b;c\n1;2;3\n", "separated by ';', must be by commas"),
        ("a\tb\tc\n1\t2\t3\n", r"separated by '\\t', must be by commas"),
        ("\n\n", "it has no header"),
    ],
)
def test_a_file_whose_cells_do_not_fit_its_header_is_not_guessed_at(content: str, reason: str, workdir: Path) -> None:
    Path("rows.csv").write_text(content)
    with pytest.raises(ProjectError, match=reason):
        score.read_table(Path("rows.csv"), CELLS)


@pytest.mark.parametrize("cells", [[True, False], [True, None], ["1", "True"]])
@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_true_is_no_number(cells: list[object], name: str, workdir: Path) -> None:
    table = pd.DataFrame({"a": cells, "b": [1, 2], "c": [1, 2]})
    table.to_csv(name, index=False) if name.endswith("csv") else table.to_parquet(name)
    with pytest.raises(ProjectError, match="a is '?True'?, must be a finite number"):
        joined.as_rows(FLIGHTS, score.read_table(Path(name), CELLS), CELLS)


def damage_model(models: Path) -> None:
    (models / "model.skops").write_bytes((models / "model.skops").read_bytes()[:5000])


def hold_another_object(models: Path) -> None:
    skops.io.dump({"weights": [1, 2]}, models / "model.skops")


def damage_note(models: Path) -> None:
    (models / "HANDOFF.md").write_text("```json\n{}\n```\n")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(damage_model, "cannot be loaded"), (hold_another_object, "is no model"), (damage_note, "has no JSON block")],
)
def test_a_hand_off_that_is_damaged_says_so(
    damage: Callable[[Path], None], reason: str, handed_over: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.csv").write_text("carrier\nUA\n")
    damage(Path("models"))
    assert main(["score", "rows.csv"]) == 1
    assert reason in capsys.readouterr().err


def test_an_output_that_is_neither_csv_nor_parquet_is_a_usage_error(handed_over: Path) -> None:
    assert main(["score", "rows.csv", "--output", "scored.xlsx"]) == 2


def test_without_an_output_ten_rows_are_shown_and_all_are_counted(
    handed_over: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = rows.read_note(handoff.MODEL_FILE)
    table = pd.DataFrame([note["example"]["row"]] * 12)
    table.to_csv("rows.csv", index=False)
    assert main(["score", "rows.csv"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 11 and told.out.splitlines()[0].endswith(note["output"])
    assert "scored 12 rows" in told.err and "the first 10, --output FILE writes all" in told.err
    assert main(["score", "rows.csv", "--output", "-"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 13 and "--output" not in told.err
    table.head(10).to_csv("rows.csv", index=False)
    assert main(["score", "rows.csv"]) == 0
    assert "--output" not in capsys.readouterr().err
