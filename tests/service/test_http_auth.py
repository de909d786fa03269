"""Keys over HTTP: how they are presented, what is said without one, the routes that make them."""

import logging

import pytest

from service.tenants import SCOPES, parse_token
from tests.service import http_fakes, policy_fakes
from tests.service.policy_fakes import bearer

pytestmark = pytest.mark.anyio


@pytest.fixture
def records():
    """Where the keys lie."""
    return policy_fakes.MemoryRecords()


@pytest.fixture
def behind(records):
    """Everything behind the routes; keys are required."""
    with http_fakes.services(keys=policy_fakes.key_ring(records, required=True)) as services:
        yield services


@pytest.fixture
async def admin(behind):
    """A client with all scopes."""
    _, token = await behind.keys.create("default", SCOPES)
    async with http_fakes.client(behind, headers=bearer(token)) as client:
        yield client


@pytest.fixture
async def stranger(behind):
    """A client without a key."""
    async with http_fakes.client(behind) as client:
        yield client


async def test_without_a_key_it_is_401_with_a_challenge(stranger):
    """Before the body is looked at, and the same for unknown addresses below a route."""
    for method, path in [("GET", "/tasks"), ("POST", "/tasks/a/predict"), ("POST", "/admin/keys")]:
        answer = await stranger.request(method, path, content=b"{")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="protuning"'
        assert answer.json()["type"].endswith(":unauthenticated")


async def test_the_first_key_of_an_open_server_is_an_administrators(records):
    """Another would lock everybody out, whoever makes it included."""
    with http_fakes.services(keys=policy_fakes.key_ring(records, required=False)) as services:
        await services.keys._policies.refresh()
        async with http_fakes.client(services) as client:
            refused = await client.post("/admin/keys", json={"tenant": "acme"})
            assert refused.status_code == 422
            assert "scope admin" in refused.json()["detail"]
            wanted = {"tenant": "default", "scopes": ["admin"]}
            first = await client.post("/admin/keys", json=wanted)
            assert first.status_code == 201
            as_admin = bearer(first.json()["key"])
            second = await client.post("/admin/keys", json={"tenant": "acme"}, headers=as_admin)
            assert second.status_code == 201


async def test_a_key_is_taken_from_either_header(behind, stranger):
    """`Authorization: Bearer` and `X-API-Key`; another scheme is no key."""
    _, token = await behind.keys.create("acme", frozenset({"predict"}))
    for headers in (bearer(token), {"X-API-Key": str(token)}, {"authorization": f"bearer {token}"}):
        assert (await stranger.get("/tasks", headers=headers)).status_code == 200
    basic = {"authorization": f"Basic {token}"}
    assert (await stranger.get("/tasks", headers=basic)).status_code == 401


async def test_the_key_decides_whose_tasks_are_meant(behind, admin, stranger):
    """The same name is another task for another tenant, and theirs cannot be seen."""
    files = [("task_id", (None, "flowers")), ("checkpoint", ("a", b"x"))]
    await admin.post("/tasks", files=files)
    _, token = await behind.keys.create("acme", frozenset({"predict", "manage"}))
    own = bearer(token)
    assert (await stranger.get("/tasks", headers=own)).json()["items"] == []
    foreign = await stranger.get("/tasks/flowers", headers=own)
    missing = await stranger.get("/tasks/flowerz", headers=own)
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json()["detail"].replace("flowers", "flowerz") == missing.json()["detail"]


async def test_a_missing_scope_is_403_and_says_which(behind, stranger):
    """The key is named by its id."""
    key, token = await behind.keys.create("acme", frozenset({"predict"}))
    answer = await stranger.delete("/tasks/flowers", headers=bearer(token))
    assert answer.status_code == 403
    assert answer.json()["type"].endswith(":forbidden")
    assert "manage" in answer.json()["detail"]
    assert key.id in answer.json()["detail"]
    assert token.secret not in answer.text


async def test_keys_are_created_listed_and_revoked(admin, stranger):
    """The secret stands in the first answer only."""
    created = await admin.post(
        "/admin/keys", json={"tenant": "acme", "scopes": ["predict"], "name": "ci"}
    )
    assert created.status_code == 201
    assert created.headers["cache-control"] == "no-store"
    key = created.json()
    own = bearer(key["key"])
    assert (await stranger.get("/tasks", headers=own)).status_code == 200
    listed = await admin.get("/admin/keys?tenant=acme")
    assert listed.json()["items"] == [{name: key[name] for name in key if name != "key"}]
    assert parse_token(key["key"]).secret not in (await admin.get("/admin/keys")).text
    revoked = await admin.delete(f"/admin/keys/{key['id']}")
    assert revoked.json()["revoked_at"] is not None
    assert (await stranger.get("/tasks", headers=own)).status_code == 401


async def test_keys_are_listed_page_by_page(admin):
    """Every key once."""
    for _ in range(4):
        await admin.post("/admin/keys", json={})
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = (await admin.get("/admin/keys", params=query)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len({*seen}) == 5


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"scopes": []}', 422),
        (b'{"scopes": ["root"]}', 422),
        (b'{"tenant": "NOT A TENANT"}', 422),
        (b'{"surprise": 1}', 422),
        (b'{"name": "' + b"x" * 200 + b'"}', 422),
        (b"[", 422),
        (b"\xff", 422),
        (b" " * 70_000, 413),
    ],
    ids=["no-scope", "bad-scope", "bad-tenant", "field", "name", "json", "utf8", "large"],
)
async def test_a_wrong_body_makes_no_key(admin, records, body, status):
    """It is bounded, parsed strictly, and not repeated."""
    before = len(records.written)
    json = {"content-type": "application/json"}
    answer = await admin.post("/admin/keys", content=body, headers=json)
    assert answer.status_code == status
    assert len(records.written) == before
    assert (await admin.post("/admin/keys", content=body)).status_code == 415


async def test_while_the_store_is_gone_known_keys_work_and_strangers_wait(admin, stranger, records):
    """503 with Retry-After instead of a 401 that might be wrong."""
    records.gone = True
    assert (await admin.get("/tasks")).status_code == 200
    other = policy_fakes.bearer("pt_" + "0" * 16 + "_" + "x" * 43)
    answer = await stranger.get("/tasks", headers=other)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert (await admin.post("/admin/keys", json={})).status_code == 503


async def test_the_log_names_the_key_and_never_holds_it(behind, stranger, caplog):
    """Tenant and id in the line of the request; no secret anywhere."""
    caplog.set_level(logging.INFO)
    key, token = await behind.keys.create("acme", frozenset({"predict"}))
    await stranger.get("/tasks", headers=bearer(token))
    await stranger.delete("/tasks/a", headers={"X-API-Key": str(token)})
    await stranger.get("/tasks", headers=bearer(f"{token}x"))
    assert f"key_id='{key.id}'" in caplog.text
    assert "tenant='acme'" in caplog.text
    assert token.secret not in caplog.text


async def test_what_operators_need_before_anybody_has_a_key_stays_open(stranger):
    """Health, the page and the description of the interface."""
    for path in ("/health/live", "/health/ready", "/", "/openapi.json"):
        assert (await stranger.get(path)).status_code == 200


async def test_openapi_says_how_to_present_a_key(stranger):
    """Both headers, on every route that needs one."""
    document = (await stranger.get("/openapi.json")).json()
    assert len(document["components"]["securitySchemes"]) == 2
    assert document["paths"]["/tasks"]["get"]["security"]
    assert "security" not in document["paths"]["/health/live"]["get"]
