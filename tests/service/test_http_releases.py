"""The routes of a release."""

import pytest

from tests import makers
from tests.service import http_fakes

pytestmark = pytest.mark.anyio
PNG = makers.encode(makers.picture())


@pytest.fixture
def behind():
    """Everything behind the routes; no key is needed."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
async def client(behind):
    """A client, and a task with two versions, the second one active."""
    async with http_fakes.client(behind) as client:
        for _ in range(2):
            await _register(client)
        yield client


async def _register(client, **fields):
    files = [("task_id", (None, "flowers")), ("checkpoint", ("a", b"x"))]
    return await client.post(
        "/tasks", files=[*files, *((name, (None, text)) for name, text in fields.items())]
    )


async def _show(client):
    return (await client.get("/tasks/flowers")).json()


async def test_a_canary_is_started_changed_shown_and_ended(client):
    """The task's own page says which version it is and how much it gets."""
    assert (await _show(client))["canary"] is None
    for percent in (10, 37.5):
        answer = await client.post(f"/tasks/flowers/canary?version=1&percent={percent}")
        assert answer.json() == {"version": 1, "percent": percent}
        assert (await _show(client))["canary"] == answer.json()
    assert (await client.delete("/tasks/flowers/canary")).status_code == 204
    assert (await _show(client))["canary"] is None


@pytest.mark.parametrize(
    "query", ["", "version=1", "percent=10", "version=0&percent=1", "version=1&percent=0",
              "version=1&percent=101", "version=1&percent=nan"],
)  # fmt: skip
async def test_half_a_canary_is_refused(client, query):
    """Both parameters, within their bounds."""
    assert (await client.post(f"/tasks/flowers/canary?{query}")).status_code == 422
    assert (await _show(client))["canary"] is None


async def test_activate_with_an_expectation(client):
    """409 where another version is active than the caller believes."""
    wrong = await client.post("/tasks/flowers/activate?version=1&expected=1")
    assert wrong.status_code == 409
    assert (await client.post("/tasks/flowers/activate?version=1&expected=2")).json() == {
        "task": "flowers",
        "version": 1,
    }
    assert (await _show(client))["active_version"] == 1
    assert (await client.post("/tasks/flowers/activate?version=7")).status_code == 404


async def test_retire(client):
    """204, then it is gone; the active one stays."""
    assert (await client.delete("/tasks/flowers/versions/2")).status_code == 409
    await client.post("/tasks/flowers/activate?version=1")
    assert (await client.delete("/tasks/flowers/versions/2")).status_code == 204
    assert (await client.delete("/tasks/flowers/versions/2")).status_code == 404


async def test_warm_and_pin(client, behind):
    """Loaded at once; pinned until it is not."""
    assert (await client.post("/tasks/flowers/warm")).json()["version"] == 2
    assert behind.residency.warmed
    assert (await client.post("/tasks/flowers/pin")).status_code == 204
    assert (await _show(client))["pinned"]
    assert (await client.delete("/tasks/flowers/pin")).status_code == 204
    assert not (await _show(client))["pinned"]
    assert (await client.post("/tasks/nothing/pin")).status_code == 404


async def test_registering_without_activating(client):
    """The pointer stays; anything but true and false is refused."""
    assert (await _register(client, activate="false")).json()["version"] == 3
    assert (await _show(client))["active_version"] == 2
    assert (await _register(client, activate="true")).status_code == 201
    assert (await _show(client))["active_version"] == 4
    assert (await _register(client, activate="perhaps")).status_code == 422


async def test_the_canary_key_reaches_the_prediction(client, behind):
    """From the header, on one task, on several, and on the Open Inference Protocol's route."""
    headers = {"content-type": "image/png", "X-Canary-Key": "user-7"}
    await client.post("/tasks/flowers/predict", content=PNG, headers=headers)
    await client.post("/predict?tasks=flowers,birds", content=PNG, headers=headers)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}
    infer = await client.post(
        "/v2/models/flowers/infer", json={"inputs": [tensor]}, headers={"X-Canary-Key": "user-7"}
    )
    assert infer.status_code == 200, infer.text
    assert [asked["canary_key"] for asked in behind.predictor.asked] == ["user-7"] * 4
    headers["X-Canary-Key"] = "x" * 257
    long = await client.post("/tasks/flowers/predict", content=PNG, headers=headers)
    assert long.status_code == 422
