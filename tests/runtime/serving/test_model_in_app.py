"""The real model file inside the running service: what it answers is what the file says, row by row."""

import asyncio
import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from flight_delays import data, features
from mlops_ladder.data.joined import as_rows
from mlops_ladder.data.rows import as_records, read_note
from mlops_ladder.serving.contract import Contract
from mlops_ladder.serving.score import load, score
from mlops_ladder.serving.servable import resolve
from projects import FLIGHTS

N_ROWS = 120  # held out; enough for missing values to occur, few enough to send each alone


@pytest.fixture
def held_out(workdir: Path) -> pd.DataFrame:
    """The last rows, the first third as they are, then with missing values, then with categories never seen."""
    rows = data.read("data/raw").tail(N_ROWS)[features.COLUMNS].reset_index(drop=True)
    third, rules = N_ROWS // 3, {name: data.SCHEMA[name] for name in features.COLUMNS}
    for name, rule in rules.items():
        if rule.get("null"):
            rows.loc[third : 2 * third, name] = np.nan if rule["type"] == "number" else None
        if rule["type"] in ("category", "text") and "values" not in rule:
            rows.loc[2 * third :, name] = "never seen"
    return rows


@pytest.mark.practice("basic-model-integration-test")
def test_service_reproduces_the_example_of_the_note(client: httpx.Client, models: Path) -> None:
    file = models / "model.skops"
    note = read_note(file)
    answer = client.post("/predict", json=note["example"]["row"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"] == note["output"]
    assert answer.json()["predictions"] == pytest.approx([note["example"]["prediction"]], rel=1e-9)
    assert answer.json()["model_version"] == hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@pytest.mark.practice("basic-model-integration-test")
def test_each_row_alone_gets_what_it_gets_in_the_batch(
    client: httpx.Client, models: Path, held_out: pd.DataFrame
) -> None:
    note = read_note(models / "model.skops")
    batch = score(FLIGHTS, held_out, load(FLIGHTS, models / "model.skops"), note)[note["output"]].tolist()
    rows = as_records(held_out)
    with ThreadPoolExecutor(8) as pool:  # several at once: the service predicts together what waits together
        alone = list(pool.map(lambda row: client.post("/predict", json=row).json()["predictions"][0], rows))
    together = client.post("/predict", json=rows).json()["predictions"]
    # 1e-12: a linear model may sum in another order; a wrong type or a lost value shows at 1e-3 and more
    assert all(math.isclose(one, other, rel_tol=1e-12) for one, other in zip(alone, batch, strict=True))
    assert all(math.isclose(one, other, rel_tol=1e-12) for one, other in zip(together, batch, strict=True))


@pytest.mark.practice("app-unit-tests")
def test_request_that_fails_or_is_given_up_leaves_the_others_alone(models: Path, held_out: pd.DataFrame) -> None:
    servable = resolve(FLIGHTS, str(models / "model.skops"))
    rows = servable.contract.parse(json.dumps(as_records(held_out)).encode())
    broken = {name: value for name, value in rows[0].items() if name != features.COLUMNS[0]}

    async def ask_at_once() -> list[Any]:
        asked = [asyncio.ensure_future(servable.predict(some)) for some in (rows[:1], rows[1:2], [broken], rows[2:])]
        await asyncio.sleep(0)  # all of them wait
        asked[1].cancel()
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), timeout=60)

    async def ask_two() -> list[float]:
        one, other = await asyncio.gather(servable.predict(rows[:1]), servable.predict(rows[2:]))
        return one + other

    first, given_up, failed, last = asyncio.run(ask_at_once())
    assert isinstance(given_up, asyncio.CancelledError) and isinstance(failed, KeyError)
    expected = pytest.approx([*servable.compute(rows[:1]), *servable.compute(rows[2:])], rel=1e-12)
    assert first + last == expected
    assert asyncio.run(ask_two()) == expected


@pytest.mark.practice("app-unit-tests")
def test_model_that_drops_rows_fails_those_requests_and_answers_the_next(
    models: Path, held_out: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = resolve(FLIGHTS, str(models / "model.skops"))
    rows = servable.contract.parse(json.dumps(as_records(held_out)).encode())
    whole = servable.compute

    async def ask() -> list[Any]:
        monkeypatch.setattr(servable, "compute", lambda rows: whole(rows)[1:])
        asked = asyncio.gather(servable.predict(rows[:3]), return_exceptions=True)
        [failed] = await asyncio.wait_for(asked, timeout=60)
        monkeypatch.setattr(servable, "compute", whole)
        return [failed, await asyncio.wait_for(servable.predict(rows[:3]), timeout=60)]

    failed, answered = asyncio.run(ask())
    assert "2 predictions for 3 rows" in str(failed)
    assert answered == pytest.approx(whole(rows[:3]).tolist(), rel=1e-12)


@pytest.mark.practice("basic-model-integration-test")
def test_requests_become_the_types_of_training(held_out: pd.DataFrame) -> None:
    columns = {name: data.SCHEMA[name] for name in features.COLUMNS}
    contract, rows = Contract(FLIGHTS, columns), as_records(held_out)
    served = contract.table(contract.parse(json.dumps(rows).encode()))
    pd.testing.assert_frame_equal(served, as_rows(FLIGHTS, pd.DataFrame(rows), columns))
    pd.testing.assert_frame_equal(served, as_rows(FLIGHTS, held_out, columns))
