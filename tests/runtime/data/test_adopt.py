"""`adopt`: tables of strangers in all their dialects, what is made of them, and what is refused."""

import ast
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlops_ladder.core import commands
from mlops_ladder.core.project import Project
from mlops_ladder.data.adopt import first_fit, modules, swap
from projects import ROOT

PACKAGE = "flight_delays"
Adopt = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project as it was rendered, of which nothing was edited."""
    for name in ("src", "conf", "tests", "contracts"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runtime", "acceptance")
        )
    (tmp_path / "data/sample").mkdir(parents=True)
    for file in sorted((ROOT / "data/sample").iterdir())[:3]:
        shutil.copy(file, tmp_path / "data/sample")
    for name in ("README.md", "data/catalog.yml", ".copier-answers.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def adopt(folder: Path, capsys: pytest.CaptureFixture[str]) -> Adopt:
    """Run `adopt` and return what it printed; `exit_code` is what it must end with."""

    def adopt(*words: str, exit_code: int = 0) -> str:
        capsys.readouterr()
        project = Project(PACKAGE, source=folder / "src" / PACKAGE, folder=folder)
        code = commands.main(project, ["adopt", *words])
        printed = capsys.readouterr()
        assert code == exit_code, printed.err
        return printed.out + printed.err

    return adopt


def orders(n: int = 400) -> pd.DataFrame:
    """Return rows whose column `returned` depends on weight and colour."""
    random = np.random.default_rng(0)
    weight, color = random.normal(5, 1, n).round(3), random.choice(["red", "green", "blue"], n)
    chance = 1 / (1 + np.exp(-(2 * (weight - 5) + (color == "red"))))
    return pd.DataFrame(
        {
            "ordered": pd.date_range("2023-01-01", periods=n, freq="17h"),
            "weight": weight,
            "color": color,
            "returned": np.where(random.random(n) < chance, "yes", "no"),
        }
    )


def read(folder: Path) -> tuple[Any, pd.DataFrame]:
    """Return the adopted data.py and the sample as it reads it; features.build is held to what it says, too."""
    with first_fit.imported(folder / "src" / PACKAGE) as used:
        rows = used["data"].read(folder / "data/sample")
        inputs = used["features"].build(rows)
        assert list(inputs) == used["features"].CATEGORIES + used["features"].NUMBERS
        return used["data"], rows


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_table_with_a_time_becomes_modules_a_sample_and_settings(folder: Path, adopt: Adopt) -> None:
    orders().to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "returned", "--time", "ordered")
    assert "400 rows of orders adopted" in printed and "next: " in printed
    data, rows = read(folder)
    assert (data.TARGET, data.TIME, data.SLICES) == ("returned", "ordered", ["color"])
    assert set(rows) == set(data.SCHEMA) and rows["returned"].dtype == bool
    assert rows["row_key"].is_unique
    assert len(list((folder / "data/sample").glob("orders-2023-*.parquet"))) >= 3
    assert not list((folder / "data/sample").glob("flights*"))
    assert "masked: []" in (folder / "conf/environments/prod.yml").read_text()
    assert "late" not in (folder / "conf/success.yml").read_text()
    assert "orders" in (folder / "README.md").read_text()
    assert {"weight", "color"} <= set(
        json.loads((folder / "contracts/model.schema.json").read_text())["input"]["properties"]
    )


def test_the_same_table_gives_the_same_files(folder: Path, adopt: Adopt) -> None:
    orders().to_csv(folder / "orders.csv", index=False)
    adopt("orders.csv", "--target", "returned", "--time", "ordered")
    first = snapshot(folder)
    adopt("orders.csv", "--target", "returned", "--time", "ordered")
    assert snapshot(folder) == first


def semicolons(rows: pd.DataFrame, file: Path) -> None:
    rows.assign(city="Köln").assign(city=lambda table: table["city"].where(table.index % 2 == 0, "Bonn")).to_csv(
        file, sep=";", decimal=",", index=False, encoding="latin-1"
    )


def trailing_commas(rows: pd.DataFrame, file: Path) -> None:
    file.write_text(rows.to_csv(index=False).replace("\n", ",\n"))


WRITERS = {
    "orders.csv": lambda rows, file: rows.to_csv(file),  # with an index column
    "semicolons.csv": semicolons,
    "trailing.csv": trailing_commas,
    "tabs.tsv": lambda rows, file: rows.to_csv(file, sep="\t", index=False),
    "orders.jsonl": lambda rows, file: rows.to_json(file, orient="records", lines=True, date_format="iso"),
    "orders.parquet": lambda rows, file: rows.to_parquet(file),
    "zoned.parquet": lambda rows, file: rows.assign(
        ordered=rows["ordered"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    ).to_parquet(file),
    "zoned.csv": lambda rows, file: rows.assign(
        ordered=rows["ordered"].dt.strftime("%Y-%m-%dT%H:%M:%S") + "+00:00"
    ).to_csv(file, index=False),
    "german.csv": lambda rows, file: rows.assign(ordered=rows["ordered"].dt.strftime("%d.%m.%Y %H:%M")).to_csv(
        file, index=False
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_dialect_gives_the_same_rows(name: str, folder: Path, adopt: Adopt) -> None:
    WRITERS[name](orders(), folder / name)
    adopt(name, "--target", "returned", "--time", "ordered")
    _, rows = read(folder)
    expected = orders()
    assert rows["ordered"].tolist() == expected["ordered"].tolist()
    assert rows["weight"].tolist() == expected["weight"].tolist()
    assert rows["returned"].tolist() == (expected["returned"] == "yes").tolist()
    if name == "semicolons.csv":
        assert set(rows["city"]) == {"Köln", "Bonn"}


def test_a_workbook_is_read_or_names_the_library(folder: Path, adopt: Adopt) -> None:
    try:
        orders().to_excel(folder / "orders.xlsx", index=False)
    except ImportError:
        (folder / "orders.xlsx").write_bytes(b"PK")
        assert "uv add openpyxl" in adopt("orders.xlsx", "--target", "returned", exit_code=1)
    else:
        adopt("orders.xlsx", "--target", "returned", "--time", "ordered")
        assert len(read(folder)[1]) == 400


def test_a_table_of_sqlite_is_read_and_its_name_must_be_given(folder: Path, adopt: Adopt) -> None:
    connection = sqlite3.connect(folder / "shop.db")
    orders().to_sql("orders", connection, index=False)
    connection.close()
    adopt("sqlite:///shop.db#orders", "--target", "returned", "--time", "ordered")
    assert len(read(folder)[1]) == 400
    assert "which table" in adopt("sqlite:///shop.db", "--target", "returned", exit_code=2)
    assert "cannot be read" in adopt("sqlite:///shop.db#sales", "--target", "returned", exit_code=1)


def test_a_folder_of_files_is_one_table(folder: Path, adopt: Adopt) -> None:
    (folder / "months").mkdir()
    orders().head(200).to_csv(folder / "months/a.csv", index=False)
    orders().tail(200).to_csv(folder / "months/b.csv", index=False)
    adopt("months", "--target", "returned", "--time", "ordered")
    assert len(read(folder)[1]) == 400
    orders().drop(columns="color").to_csv(folder / "months/c.csv", index=False)
    assert "differ in column color" in adopt("months", "--target", "returned", exit_code=1)


def test_numbers_are_regressed(folder: Path, adopt: Adopt) -> None:
    rows = orders().drop(columns="returned").assign(price=lambda table: 100 * table["weight"] + np.arange(400) % 50)
    rows.to_csv(folder / "prices.csv", index=False)
    adopt("prices.csv", "--target", "price", "--time", "ordered")
    data, rows = read(folder)
    assert data.PROBLEM == "regression" and rows["price"].dtype == "float64"
    assert "rmse" in (folder / "conf/success.yml").read_text()
    assert "minutes" not in "".join(
        (folder / f"conf/{name}.yml").read_text() for name in ("release", "monitoring", "retraining", "experiment")
    )


def test_what_is_personal_constant_or_tells_the_target_is_left_out_and_named(folder: Path, adopt: Adopt) -> None:
    rows = orders()
    refund = (rows["returned"] == "yes") * (10 + rows["weight"])
    mail = [f"a{number}@example.org" for number in range(400)]
    people = [f"Allen, Miss. Anna B{number}" for number in range(400)]
    rows.assign(refund=refund, contact=mail, buyer=people, shop="one").to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "returned", "--time", "ordered")
    assert "refund: it alone gives the target away" in printed
    assert "contact: personal data: e-mail addresses" in printed
    assert "buyer: personal data: names of people" in printed
    assert "shop: it has one value" in printed
    data, _ = read(folder)
    assert data.LEAKS == ["returned", "refund"]
    sample = pd.concat(map(pd.read_parquet, (folder / "data/sample").iterdir()))
    assert not {"contact", "buyer", "shop", "refund"} & set(sample)
    assert "example.org" not in (folder / ".adopted.json").read_text()


@pytest.mark.parametrize(
    ("words", "complaint", "exit_code"),
    [
        (["nothing.csv", "--target", "returned"], "there is no nothing.csv", 2),
        (["orders.csv", "--target", "retuned"], "do you mean 'returned'?", 2),
        (["orders.csv", "--target", "returned", "--time", "color"], "--time color: it holds", 2),
        (["orders.csv", "--target", "returned", "--key", "color"], "--key color: it must have a value", 2),
        (["orders.csv", "--target", "color", "--problem", "regression"], "must hold numbers", 2),
        (["orders.csv", "--target", "color", "--problem", "classification"], "--problem multiclass takes more", 2),
        (["orders.csv", "--target", "color", "--problem", "multiclass", "--positive", "red"], "is for two labels", 2),
        (["orders.csv", "--target", "ordered"], "gather them in fewer labels", 3),
        (["orders.csv", "--target", "returned", "--positive", "maybe"], "--positive maybe", 2),
        (["orders.csv", "--target", "returned", "--problem", "ranking"], "--problem ranking", 2),
        (["orders.csv"], "which table, and what is to be predicted?", 2),
        (["--refresh"], "nothing was adopted yet", 2),
        (["headless.csv", "--target", "returned"], "no header", 1),
        (["few.csv", "--target", "returned", "--time", "ordered"], "must be 100 or more", 3),
    ],
)
def test_what_cannot_be_adopted_is_named_and_leaves_all_as_it_was(
    words: list[str], complaint: str, exit_code: int, folder: Path, adopt: Adopt
) -> None:
    orders().to_csv(folder / "orders.csv", index=False)
    orders(50).to_csv(folder / "few.csv", index=False)
    orders().to_csv(folder / "headless.csv", index=False, header=False)
    before = snapshot(folder)
    printed = adopt(*words, exit_code=exit_code)
    assert complaint in printed and printed.count("error:") == 1
    assert snapshot(folder) == before


def test_labels_that_say_nothing_need_the_positive_one(folder: Path, adopt: Adopt) -> None:
    orders().replace({"returned": {"yes": "back", "no": "kept"}}).to_csv(folder / "orders.csv", index=False)
    assert "--positive" in adopt("orders.csv", "--target", "returned", "--time", "ordered", exit_code=2)
    adopt("orders.csv", "--target", "returned", "--time", "ordered", "--positive", "back")
    assert read(folder)[1]["returned"].mean() == pytest.approx((orders()["returned"] == "yes").mean())


def test_an_edited_file_is_shown_and_kept_until_force(folder: Path, adopt: Adopt) -> None:
    orders().to_csv(folder / "orders.csv", index=False)
    features = folder / "src" / PACKAGE / "features.py"
    features.write_text(features.read_text() + "# mine\n")
    before = snapshot(folder)
    printed = adopt("orders.csv", "--target", "returned", "--time", "ordered", exit_code=1)
    assert "-# mine" in printed and "--force" in printed
    after = snapshot(folder)
    assert {path: after[path] for path in before} == before
    adopt("orders.csv", "--target", "returned", "--time", "ordered", "--force")
    assert "# mine" not in features.read_text()


def test_refresh_writes_what_a_level_brought_and_nothing_else(folder: Path, adopt: Adopt) -> None:
    behaviour, release = folder / "src" / PACKAGE / "behaviour.py", folder / "conf/release.yml"
    texts = {file: file.read_text() for file in (behaviour, release)}
    for file in texts:
        file.unlink()  # a level that has not got them
    orders().to_csv(folder / "orders.csv", index=False)
    adopt("orders.csv", "--target", "returned", "--time", "ordered")
    model = folder / "src" / PACKAGE / "model.py"
    model.write_text(model.read_text() + "# mine\n")
    for file, text in texts.items():
        file.write_text(text)
    printed = adopt("--refresh")
    assert "wrote conf/release.yml" in printed
    assert "direction_of_weight" in behaviour.read_text() and "visibility" not in behaviour.read_text()
    assert model.read_text().endswith("# mine\n")
    assert "nothing new" in adopt("--refresh")


def test_an_interruption_leaves_all_as_it_was(folder: Path, adopt: Adopt, monkeypatch: pytest.MonkeyPatch) -> None:
    orders().to_csv(folder / "orders.csv", index=False)
    before, moves, replace = snapshot(folder), [], os.replace

    def interrupted(old: Path, new: Path) -> None:
        moves.append(new)
        if len(moves) == 12:
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(swap.os, "replace", interrupted)
    adopt("orders.csv", "--target", "returned", "--time", "ordered", exit_code=130)
    assert snapshot(folder) == before


def test_of_a_large_table_a_sample_is_committed_and_all_rows_are_gathered(folder: Path, adopt: Adopt) -> None:
    orders(21_000).assign(ordered=pd.date_range("2023-01-01", periods=21_000, freq="30min")).to_parquet(
        folder / "orders.parquet"
    )
    printed = adopt("orders.parquet", "--target", "returned", "--time", "ordered")
    assert "21,000 rows of orders adopted, 20,000 of them the sample" in printed
    assert len(read(folder)[1]) == 20_000
    whole = pd.concat(map(pd.read_parquet, (folder / "data/adopted").glob("*.parquet")))
    assert len(whole) == 21_000
    assert "url: data/adopted" in (folder / "conf/data.yml").read_text()
    assert "path: data/adopted" in (folder / "data/catalog.yml").read_text()


@pytest.mark.parametrize(
    ("form", "is_one"), [("${:,.2f}", True), ("{:.1f} %", True), ("{:.3f} kg", True), ("A{:.2f}X", False)]
)
def test_numbers_that_are_written_as_texts_are_named(form: str, is_one: bool, folder: Path, adopt: Adopt) -> None:
    rows = orders()
    rows.assign(price=[form.format(1_000 * value) for value in rows["weight"]]).to_csv(folder / "o.csv", index=False)
    printed = adopt("o.csv", "--target", "returned", "--time", "ordered")
    assert ("price: numbers written as" in printed) == is_one and "price" in printed


def test_a_table_with_a_column_of_the_keys_name_keeps_both(folder: Path, adopt: Adopt) -> None:
    orders().rename(columns={"weight": "row_key"}).to_csv(folder / "orders.csv", index=False)
    adopt("orders.csv", "--target", "returned", "--time", "ordered")
    data, rows = read(folder)
    assert data.KEY == "row_key_" and rows["row_key_"].is_unique and rows["row_key"].dtype == "float64"


@pytest.mark.parametrize("name", ['it\'s "so"', 'say "x"', "it's", 'a\\b"c"', '"\\"', "''\"\"", 'ü\n"x"'])
def test_a_name_with_quotes_is_written_as_ruff_formats_it(name: str) -> None:
    line = f"x = {modules.quoted(name)}\n"
    assert ast.literal_eval(modules.quoted(name)) == name
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-"], input=line, capture_output=True, text=True, check=True
    )
    assert done.stdout == line


def test_an_infinite_number_is_a_missing_one(folder: Path, adopt: Adopt) -> None:
    rows = orders()
    rows.loc[:9, "weight"] = np.inf
    rows.to_csv(folder / "orders.csv", index=False)
    adopt("orders.csv", "--target", "returned", "--time", "ordered")
    data, read_again = read(folder)
    assert data.SCHEMA["weight"]["null"] is True and data.SCHEMA["weight"]["max"] < 100
    assert read_again["weight"].isna().sum() == 10


def test_a_time_in_numbers_is_refused_as_it_is_written(folder: Path, adopt: Adopt) -> None:
    orders().assign(ordered=range(1_579_046_400, 1_579_046_800)).to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "returned", "--time", "ordered", exit_code=2)
    assert "--time ordered: it holds 1579046400, must hold dates" in printed


def test_several_columns_name_a_row_together(folder: Path, adopt: Adopt) -> None:
    rows = orders().drop(columns="ordered")
    rows.insert(0, "shop", [3, 4] * 200)
    rows.insert(1, "day", pd.date_range("2023-01-01", periods=200).repeat(2))
    rows.to_csv(folder / "orders.csv", index=False)
    twice = adopt("orders.csv", "--target", "returned", "--key", "day", exit_code=2)
    assert "--key day: it must have a value in each row, and none twice" in twice
    adopt("orders.csv", "--target", "returned", "--key", "shop", "day")
    data, whole = read(folder)
    assert (data.KEY, {"shop", "day"} <= set(data.SCHEMA)) == ("row_key", True)
    assert whole["row_key"].is_unique and "3-2023-01-01T00:00:00" in set(whole["row_key"])
    one = whole.head(1).drop(columns="row_key").assign(returned="yes")
    (folder / "alone").mkdir()
    one.assign(shop=one["shop"].astype(int)).to_parquet(folder / "alone/one.parquet")
    assert data.read(folder / "alone")["row_key"].tolist() == whole["row_key"].head(1).tolist()
    assert "max_repeated" not in (folder / "conf/validation.yml").read_text()


def test_a_table_without_time_key_or_category_is_adopted(folder: Path, adopt: Adopt) -> None:
    rows = orders()[["weight", "returned"]]
    pd.concat([rows, rows.assign(returned=None)]).to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "returned")
    assert "400 rows without a returned" in printed
    data, rows = read(folder)
    assert (data.TIME, data.KEY, data.SLICES) == (None, "row_key", [])
    assert rows["row_key"].is_unique and len(rows) == 400
    limit = float((folder / "conf/validation.yml").read_text().partition("max_repeated: ")[2].split()[0])
    share = rows.drop(columns="row_key").duplicated().mean()
    assert share < limit < 2 * share + 0.06, "a made key tells the rows of a file that came twice apart"
    page = (folder / "README.md").read_text()
    assert "adopt --refresh" in page and "flights" not in page.replace(PACKAGE, "")


def kinds(n: int = 400) -> pd.DataFrame:
    """Return orders of which the weight tells the kind: one of three, and of a few rows two more."""
    rows = orders(n).drop(columns="returned")
    rows["kind"] = pd.cut(rows["weight"], [-9, 4.5, 5.5, 99], labels=["light", "middle", "heavy"]).astype(str)
    return rows.assign(kind=rows["kind"].mask(rows.index % 25 == 0, "lost").mask(rows.index % 25 == 12, "broken"))


def test_several_labels_are_classes_and_rare_ones_are_one_together(folder: Path, adopt: Adopt) -> None:
    kinds().to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "kind", "--time", "ordered")
    assert "multiclass of kind" in printed and "kind broken, lost: too few rows" in printed
    data, rows = read(folder)
    classes = ["heavy", "light", "middle", "other"]
    assert (data.PROBLEM, data.SCHEMA["kind"]["values"]) == ("multiclass", classes)
    assert (rows["kind"] == "other").sum() == 32
    with first_fit.imported(folder / "src" / PACKAGE) as used:
        features, model = used["features"], used["model"]
        without = rows[rows["kind"] != "other"]
        fitted = model.make("linear").fit(features.build(without), without["kind"])
        predicted = model.predict(fitted, features.build(rows))
        assert predicted.shape == (400, 4) and predicted.sum(axis=1) == pytest.approx(1) and not predicted[:, 3].any()
        measured = model.metrics(rows["kind"], predicted)
        trivial = model.metrics(rows["kind"], model.baseline(rows["kind"], 400))
    assert measured.keys() == model.HIGHER_IS_BETTER.keys() and measured["macro_f1"] > trivial["macro_f1"]
    for name in ("success", "release", "retraining"):
        text = (folder / f"conf/{name}.yml").read_text()
        assert "macro_f1" in text and "roc_auc" not in text
    answer = json.loads((folder / "contracts/model.schema.json").read_text())["output"]
    assert "predicted_kind_light" in json.dumps(answer)


def test_a_class_that_a_part_of_the_rows_lacks_is_left_out_and_named(folder: Path, adopt: Adopt) -> None:
    rows = kinds().assign(kind=lambda table: table["kind"].mask(table.index > 360, "new"))
    rows.to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "kind", "--time", "ordered")
    assert "other" in read(folder)[0].SCHEMA["kind"]["values"] and "new" in printed
    rows = rows[~rows["kind"].isin(["lost", "broken"])]
    rows.to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "kind", "--time", "ordered")
    assert "kind new: too few rows to be in each part of a split, so left out" in printed
    assert set(read(folder)[1]["kind"]) == {"heavy", "light", "middle"}


def test_few_numbers_are_classes_unless_they_count(folder: Path, adopt: Adopt) -> None:
    orders().assign(stars=lambda table: table["weight"].round().clip(3, 7)).to_csv(folder / "orders.csv", index=False)
    assert "if it counts, --problem regression" in adopt("orders.csv", "--target", "stars", "--drop", "returned")
    assert set(read(folder)[0].SCHEMA["stars"]["values"]) == {"4", "5", "6", "7", "other"}, "few rows have a 3"
    adopt("orders.csv", "--target", "stars", "--drop", "returned", "--problem", "regression")
    assert read(folder)[1]["stars"].dtype == "float64"


def test_what_stands_for_a_missing_value_is_found_declared_and_read_so(folder: Path, adopt: Adopt) -> None:
    gaps = np.arange(400) % 20 == 0
    rows = orders().assign(
        weight=lambda table: table["weight"].mask(gaps, 9999),
        color=lambda table: table["color"].mask(gaps, " ? "),
        price=lambda table: table["weight"].round(1).astype(str).mask(gaps, "unknown"),
        code=lambda table: "0" + (table.index % 7).astype(str),
    )
    rows.to_csv(folder / "orders.csv", index=False)
    printed = adopt("orders.csv", "--target", "returned", "--time", "ordered")
    assert "missing where it says 9999" in printed and "missing where it says ?" in printed
    data, rows = read(folder)
    assert data.MISSING == {"weight": [9999], "color": ["?"], "price": ["unknown"]}
    (folder / "spoilt").mkdir()
    spoilt = pd.read_parquet(next((folder / "data/sample").glob("*.parquet"))).assign(price="broken")
    spoilt.to_parquet(folder / "spoilt/a.parquet")
    found = data.read(folder / "spoilt")["price"]  # the check of SCHEMA names the column, where an error here would not
    assert set(found) == {"broken"}
    assert rows["weight"].isna().sum() == rows["color"].isna().sum() == rows["price"].isna().sum() == 20
    assert data.SCHEMA["weight"]["max"] < 100 and data.SCHEMA["weight"]["null"]
    assert data.SCHEMA["code"]["type"] == "category", "01 is no number"
    raw = pd.read_parquet(next((folder / "data/sample").glob("*.parquet"))).head(2)
    (folder / "new").mkdir()
    raw.assign(weight=[9999.0, 5.0], price=["unknown", "4.5"], color=["?", "red"]).to_parquet(folder / "new/a.parquet")
    with first_fit.imported(folder / "src" / PACKAGE) as used:
        new = used["data"].read(folder / "new")
    assert new[["weight", "price", "color"]].isna().to_numpy().tolist() == [[True] * 3, [False] * 3]
    assert new["price"].dtype == "float64"


def test_free_text_counts_by_its_words(folder: Path, adopt: Adopt) -> None:
    random, rows = np.random.default_rng(0), orders()
    words = np.array(["box", "came", "late", "torn", "well", "packed", "with", "a", "note", "inside"])
    good = rows["returned"] == "no"
    said = [" ".join(random.choice(words, 9)) + (" lovely" if fine else " awful") for fine in good]
    rows.assign(comment=said).to_csv(folder / "orders.csv", index=False)
    assert "its words" in adopt("orders.csv", "--target", "returned", "--time", "ordered")
    data, rows = read(folder)
    assert data.SCHEMA["comment"] == {"type": "text"}
    with first_fit.imported(folder / "src" / PACKAGE) as used:
        features, model = used["features"], used["model"]
        assert (features.TEXTS, features.CATEGORIES) == (["comment"], ["color", "comment"])
        inputs = features.build(rows)
        for family in model.SEARCH_SPACE:
            fitted = model.make(family).fit(inputs.head(300), rows["returned"].head(300))
            predicted = model.predict(fitted, inputs.tail(100))
            assert model.metrics(rows["returned"].tail(100), predicted)["roc_auc"] > 0.95
            model.save(fitted, folder / "model.skops")
            assert np.array_equal(model.predict(model.load(folder / "model.skops"), inputs.tail(100)), predicted)


def test_names_that_are_no_identifiers_and_many_columns_work(folder: Path, adopt: Adopt) -> None:
    random = np.random.default_rng(0)
    names = ["class", "in", "größe (cm)", "a.b", "c[0]", 'the "x"', "version", "prediction"]
    many = pd.DataFrame(random.normal(size=(150, 300)), columns=[*names, *(f"x{n}" for n in range(292))])
    many["label"] = np.where(many["in"] + random.normal(size=150) / 4 > 0, "yes", "no")
    many.assign(day="2024-02-29", id=range(150)).to_csv(folder / "many.csv", index=False)
    adopt("many.csv", "--target", "label")
    data, rows = read(folder)
    assert len(rows) == 150 and data.KEY == "id" and set(names) < set(data.SCHEMA)
    with first_fit.imported(folder / "src" / PACKAGE) as used:
        assert used["features"].NUMBERS[: len(names)] == names
        assert used["model"].OUTPUT == "label_probability"
