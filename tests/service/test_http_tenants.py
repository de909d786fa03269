"""Limits over HTTP: set by administrators, told to clients, and refused beyond."""

import pytest

from service.errors import QuotaExceeded, RateLimited
from service.tenants import SCOPES
from service.types import Allowance
from tests import makers
from tests.service import http_fakes, policy_fakes

pytestmark = pytest.mark.anyio

PNG = makers.encode(makers.picture())
IMAGES = Allowance("images", 100, 10, 64, 12.3)
REQUESTS = Allowance("requests", 50, 10, 0, 0.2)


@pytest.fixture
def behind():
    """Everything behind the routes; no key is needed."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
async def client(behind):
    """A client in this process."""
    async with http_fakes.client(behind) as client:
        yield client


async def _predict(client):
    return await client.post(
        "/tasks/flowers/predict", content=PNG, headers={"content-type": "image/png"}
    )


async def test_an_answer_says_what_is_left(client, behind):
    """In the fields of the IETF draft; without limits there are none."""
    assert "ratelimit" not in (await _predict(client)).headers
    behind.predictor.allowances = (REQUESTS, IMAGES)
    answer = await _predict(client)
    assert answer.headers["ratelimit-policy"] == '"requests";q=50;w=10, "images";q=100;w=10'
    assert answer.headers["ratelimit"] == '"requests";r=0;t=1, "images";r=64;t=13'
    many = await client.post(
        "/predict?tasks=flowers,birds", content=PNG, headers={"content-type": "image/png"}
    )
    assert many.headers["ratelimit"] == answer.headers["ratelimit"]


async def test_a_refusal_says_when_to_come_back(client, behind):
    """429 with Retry-After in whole seconds, and what is left."""
    behind.predictor.error = RateLimited("Wait.", retry_after=3.2, allowances=(REQUESTS,))
    answer = await _predict(client)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "4"
    assert answer.headers["ratelimit"] == '"requests";r=0;t=1'
    assert answer.json()["type"].endswith(":rate-limited")


async def test_a_full_quota_is_no_matter_of_waiting(client, behind):
    """403 without Retry-After."""
    behind.manager.error = QuotaExceeded("You have 5 tasks. Delete one.")
    answer = await client.post(
        "/tasks", files=[("task_id", (None, "a")), ("checkpoint", ("a", b"x"))]
    )
    assert answer.status_code == 403
    assert answer.json()["type"].endswith(":quota-exceeded")
    assert "retry-after" not in answer.headers


async def test_limits_are_set_shown_and_reset(client, behind):
    """What is not named takes the default again."""
    assert (await client.get("/admin/tenants/acme")).json()["overridden"] == []
    set_to = await client.put("/admin/tenants/acme", json={"weight": 4, "tasks": None})
    assert set_to.json()["limits"]["weight"] == 4
    assert set_to.json()["overridden"] == ["tasks", "weight"]
    again = await client.put("/admin/tenants/acme", json={"images_per_second": 50})
    assert again.json()["overridden"] == ["images_per_second"]
    assert again.json()["limits"]["weight"] == 1
    assert behind.quotas.limits("acme").images_per_second == 50
    listed = (await client.get("/admin/tenants")).json()
    assert [each["tenant"] for each in listed["items"]] == ["acme"]
    reset = await client.delete("/admin/tenants/acme")
    assert reset.json()["overridden"] == []
    assert (await client.get("/admin/tenants")).json()["items"] == []


async def test_what_a_tenant_has_stored_is_shown(client):
    """Tasks and bytes of that tenant only."""
    files = [("task_id", (None, "a")), ("checkpoint", ("a", b"12345"))]
    await client.post("/tasks", files=files)
    mine = (await client.get("/admin/tenants/default")).json()
    assert (mine["tasks"], mine["stored_bytes"]) == (1, 5)
    other = (await client.get("/admin/tenants/acme")).json()
    assert (other["tasks"], other["stored_bytes"]) == (0, 0)


@pytest.mark.parametrize(
    "body", [{"weight": 0}, {"weight": "a"}, {"priority": 9}, {"surprise": 1}, [], 3], ids=str
)
async def test_wrong_limits_change_nothing(client, behind, body):
    """422 that names the field."""
    answer = await client.put("/admin/tenants/acme", json=body)
    assert answer.status_code == 422
    assert behind.quotas.overridden() == {}


async def test_only_administrators_set_limits():
    """A tenant's own key does not."""
    with http_fakes.services(keys=policy_fakes.key_ring(required=True)) as behind:
        _, token = await behind.keys.create("acme", SCOPES - {"admin"})
        async with http_fakes.client(behind, headers=policy_fakes.bearer(token)) as client:
            answer = await client.put("/admin/tenants/acme", json={"weight": 100})
            assert answer.status_code == 403
        assert behind.quotas.overridden() == {}
