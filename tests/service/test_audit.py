"""The audit log: who changed what, from where, and how it ended; never a secret, never content."""

import io
import json
import logging

import pytest

from service import audit, logs
from service.errors import LogUnavailable
from service.tenants import SCOPES, Principal, parse_token
from tests.service import http_fakes, policy_fakes

pytestmark = pytest.mark.anyio


@pytest.fixture
def events(tmp_path):
    """The events of the audit file so far; only errors are logged otherwise."""
    path = tmp_path / "audit.json"
    stream = io.StringIO()
    logs.configure("error", "json", stream, audit_log=path)
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    assert stream.getvalue() == path.read_text()
    for handler in logging.getLogger(logs.AUDIT).handlers[:]:
        logging.getLogger(logs.AUDIT).removeHandler(handler)
        handler.close()


@pytest.fixture
def behind():
    """Everything behind the routes; keys are required."""
    with http_fakes.services(keys=policy_fakes.key_ring(required=True)) as services:
        yield services


def _told(event, *names):
    return {name: event.get(name) for name in names}


async def test_a_change_is_written_down_with_who_what_and_where(behind, events):
    """The key by its id, the request by its id, the address, the version that came of it."""
    key, token = await behind.keys.create("acme", SCOPES)
    files = [("task_id", (None, "flowers")), ("checkpoint", ("a", b"checkpoint"))]
    headers = {**policy_fakes.bearer(token), "X-Request-Id": "r-1"}
    async with http_fakes.client(behind, headers=headers) as client:
        await client.post("/tasks", files=files)
        await client.get("/tasks")
        await client.delete("/tasks/flowers")
        await client.delete("/tasks/flowers")
    registered, deleted, again = events()
    wanted = {
        "event": "version_registered",
        "tenant": "acme",
        "key_id": key.id,
        "address": "127.0.0.1",
        "request_id": "r-1",
        "task": "flowers",
        "version": 1,
        "outcome": "done",
    }
    assert _told(registered, *wanted) == wanted
    assert registered["timestamp"].endswith("Z")
    assert _told(deleted, "event", "task", "outcome") == {
        "event": "task_deleted",
        "task": "flowers",
        "outcome": "done",
    }
    assert again["outcome"] == "UnknownTask"


async def test_a_version_is_a_number_wherever_it_comes_from(behind, events):
    """From the body's answer, the query or the path; what is no number is nothing."""
    _, token = await behind.keys.create("acme", SCOPES)
    async with http_fakes.client(behind, headers=policy_fakes.bearer(token)) as client:
        for content in (b"one", b"two"):
            files = [("task_id", (None, "flowers")), ("checkpoint", ("a", content))]
            await client.post("/tasks", files=files)
        await client.post("/tasks/flowers/canary?version=1&percent=2.5")
        await client.post("/tasks/flowers/activate?version=1&expected=2")
        await client.delete("/tasks/flowers/versions/2")
        await client.post("/tasks/flowers/activate?version=new")
        await client.post("/tasks/flowers/canary?version=1&percent=nan")
    told = [_told(event, "event", "version", "percent", "expected") for event in events()]
    assert [tuple(each.values()) for each in told] == [
        ("version_registered", 1, None, None),
        ("version_registered", 2, None, None),
        ("canary_started", 1, 2.5, None),
        ("version_activated", 1, None, 2),
        ("version_retired", 2, None, None),
        ("version_activated", None, None, None),
        ("canary_started", 1, None, None),
    ]


async def test_what_administrators_do_names_whom_it_was_done_to(behind, events):
    """A new key by its id and scopes, limits by their values, and no secret in any of it."""
    _, token = await behind.keys.create("default", SCOPES)
    async with http_fakes.client(behind, headers=policy_fakes.bearer(token)) as client:
        created = (await client.post("/admin/keys", json={"tenant": "acme"})).json()
        await client.put("/admin/tenants/acme", json={"weight": 3})
        await client.delete(f"/admin/keys/{created['id']}")
    made, limited, revoked = events()
    assert _told(made, "event", "tenant", "of", "created", "scopes") == {
        "event": "key_created",
        "tenant": "default",
        "of": "acme",
        "created": created["id"],
        "scopes": ["predict"],
    }
    assert _told(limited, "event", "of", "limits") == {
        "event": "tenant_limited",
        "of": "acme",
        "limits": {"weight": 3.0},
    }
    assert revoked["revoked"] == created["id"]
    for secret in (token.secret, parse_token(created["key"]).secret):
        assert secret not in json.dumps(events())


async def test_refusals_are_written_down_if_somebody_known_was_refused(behind, events):
    """A lacking scope is; a request without a key could be anybody's and changes nothing."""
    _, token = await behind.keys.create("acme", frozenset({"predict"}))
    async with http_fakes.client(behind) as client:
        await client.delete("/tasks/flowers")
        await client.delete("/tasks/flowers", headers=policy_fakes.bearer(token))
    (refused,) = events()
    assert _told(refused, "event", "outcome") == {"event": "task_deleted", "outcome": "Forbidden"}


def test_the_server_itself_has_no_key(events):
    """What it does of its own is told apart from anybody's request."""
    audit.record("version_activated", None, task="flowers")
    audit.record("task_deleted", Principal("default", SCOPES, None), address="::1", task="a")
    own, open_door = events()
    assert (own["tenant"], own["key_id"], own["address"]) == (None, None, None)
    assert (open_door["tenant"], open_door["key_id"]) == ("default", None)


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    """Before anything is served: an audit log with a hole is none."""
    with pytest.raises(LogUnavailable, match=r"nowhere/audit\.json.*--audit-log"):
        logs.configure("error", "json", io.StringIO(), audit_log=tmp_path / "nowhere/audit.json")
