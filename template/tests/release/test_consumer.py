"""What your consumers rely on, as tests over HTTP. Yours to edit: add what breaks them when it changes.

`deploy` runs this folder against the candidate at SERVICE_URL, which takes SERVICE_KEY, and refuses a version that
fails here. In the project's own suite the same tests run against the model file that the notebook would hand over.
"""

import os
from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    if "SERVICE_URL" not in os.environ:
        yield request.getfixturevalue("client")
    else:
        keys = {"Authorization": f"Bearer {os.environ['SERVICE_KEY']}"}
        with httpx.Client(base_url=os.environ["SERVICE_URL"], headers=keys, timeout=30) as client:
            yield client


def test_a_list_is_answered_in_its_order_by_one_version(service: httpx.Client) -> None:
    told = service.get("/model").json()
    answer = service.post("/predict", json=[told["example"]["row"]] * 3)
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"] == told["output"]
    expected = told["example"]["prediction"]  # a number or, of several classes, a label
    assert (
        answer.json()["predictions"]
        == [expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-4)] * 3
    )
    assert answer.json()["model_version"] == told["version"]


def test_what_the_feed_gets_wrong_is_named_and_never_guessed(service: httpx.Client) -> None:
    row = service.get("/model").json()["example"]["row"]
    column = next(iter(row))
    answer = service.post("/predict", json=[row, {name: row[name] for name in row if name != column}])
    assert answer.status_code == 422
    assert [(problem["row"], problem["column"]) for problem in answer.json()["problems"]] == [(1, column)]
