"""The routes about tasks: register, list, page, download, roll back, delete."""

import httpx
import pytest

from adapters.errors import NotACheckpoint, ProofFailed, WrongBackbone
from tests.service import http_fakes

pytestmark = pytest.mark.anyio


@pytest.fixture
def behind():
    """Everything behind the routes."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
async def client(behind):
    """A client in this process."""
    async with http_fakes.client(behind) as client:
        yield client


async def _register(client: httpx.AsyncClient, task: str, data: bytes = b"checkpoint"):
    return await client.post(
        "/tasks", files=[("task_id", (None, task)), ("checkpoint", ("a.safetensors", data))]
    )


async def test_registering_gives_201_and_the_version(client):
    """With its place, from which the same bytes come back."""
    answer = await _register(client, "flowers", bytes(range(256)))
    assert answer.status_code == 201
    assert answer.json() == {
        "task": "flowers",
        "version": 1,
        "digest": "d" * 64,
        "state": "ready",
        "size": 256,
        "metadata": {"classes": 4},
        "created_at": 1.0,
        "renewed_at": 1.0,
    }
    download = await client.get(answer.headers["location"])
    assert download.content == bytes(range(256))
    assert download.headers["content-type"] == "application/octet-stream"
    assert "flowers-1.safetensors" in download.headers["content-disposition"]


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([("task_id", (None, "flowers"))], 422),
        ([("checkpoint", ("a", b"x"))], 422),
        ([("task_id", (None, "NO TASK")), ("checkpoint", ("a", b"x"))], 422),
        ([("task_id", (None, "é")), ("checkpoint", ("a", b"x"))], 422),
        ([("task_id", (None, "a")), ("task_id", (None, "b")), ("checkpoint", ("a", b"x"))], 422),
        ([("task_id", (None, "a")), ("checkpoint", ("a", b"x")), ("other", (None, "1"))], 422),
    ],
    ids=["no-checkpoint", "no-id", "bad-id", "not-ascii", "twice", "unknown-field"],
)
async def test_incomplete_registrations_are_refused(client, behind, files, status):
    """Each field once, nothing else, and a task id that is one."""
    answer = await client.post("/tasks", files=files)
    assert answer.status_code == status
    assert answer.json()["type"].endswith(":invalid-request")
    assert behind.manager.versions_of == {}


async def test_a_registration_is_a_form(client):
    """JSON and raw bytes are 415."""
    for kind in ("application/json", "application/octet-stream"):
        answer = await client.post("/tasks", content=b"x", headers={"content-type": kind})
        assert answer.status_code == 415


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotACheckpoint("That is not a checkpoint. Send one."), 422),
        (ProofFailed("The logits differ. Check the weights."), 422),
        (WrongBackbone("Made for another one. Train it again."), 409),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_refused_checkpoints_say_why(client, behind, error, status):
    """The message of the error is the detail."""
    behind.manager.error = error
    answer = await _register(client, "flowers")
    assert answer.status_code == status
    assert answer.json()["detail"] == str(error)


async def test_tasks_are_listed_page_by_page(client):
    """Every task once, in order, whatever the size of the pages."""
    names = [f"task-{number}" for number in range(5)]
    for name in reversed(names):
        await _register(client, name)
    for limit in (1, 2, 5, 1_000):
        seen, cursor = [], None
        while True:
            query = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
            page = (await client.get("/tasks", params=query)).json()
            assert len(page["items"]) <= limit
            seen += [item["task"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == names


async def test_versions_are_listed_page_by_page(client):
    """The cursor goes on where the page before ended."""
    for _ in range(3):
        await _register(client, "flowers")
    first = (await client.get("/tasks/flowers/versions?limit=2")).json()
    assert [item["version"] for item in first["items"]] == [1, 2]
    cursor = first["next_cursor"]
    second = (await client.get(f"/tasks/flowers/versions?limit=2&cursor={cursor}")).json()
    assert [item["version"] for item in second["items"]] == [3]
    assert second["next_cursor"] is None


async def test_a_task_shows_the_version_that_is_active_here(client):
    """Rolling back changes it, and at the first version there is nothing to roll back to."""
    await _register(client, "flowers")
    await _register(client, "flowers")
    assert (await client.get("/tasks/flowers")).json()["active_version"] == 2
    back = await client.post("/tasks/flowers/rollback?expected=2")
    assert back.json() == {"task": "flowers", "version": 1}
    assert (await client.get("/tasks/flowers")).json()["active_version"] == 1
    assert (await client.post("/tasks/flowers/rollback")).status_code == 409


async def test_deleting_is_final(client):
    """204 without content, then 404."""
    await _register(client, "flowers")
    answer = await client.delete("/tasks/flowers")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.delete("/tasks/flowers")).status_code == 404
    assert (await client.get("/tasks/flowers")).status_code == 404
    assert (await client.get("/tasks/flowers/versions")).status_code == 404


async def test_an_unknown_version_is_404(client):
    """The task is there, the version is not."""
    await _register(client, "flowers")
    answer = await client.get("/tasks/flowers/versions/2/checkpoint")
    assert answer.status_code == 404
    assert answer.json()["type"].endswith(":unknown-version")
