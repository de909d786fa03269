"""What every index must do with whole tasks: out of one, into another, nothing lost."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from adapters.errors import NothingToRollBackTo, UnknownTask
from adapters.store.index import Index, Replay, TaskKey, Usage, Verdict, Version
from adapters.store.sqlite import SqliteIndex

FLOWERS = TaskKey(task="flowers")
RESNET, SWIN = "a" * 64, "b" * 64
Register = Callable[..., Awaitable[Version]]
MakeActive = Callable[..., Awaitable[Version]]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Index]:
    """Another index."""
    other = SqliteIndex(tmp_path / "other.db")
    yield other
    await other.close()


async def everything(index: Index) -> dict[TaskKey, object]:
    """All dumps, read two by two."""
    found, after = {}, None
    while page := await index.dump(after, limit=2):
        found.update({task.key: task for task in page})
        after = page[-1].key
    return found


async def test_a_task_comes_out_as_it_went_in(
    index: Index, other: Index, register: Register, make_active: MakeActive
) -> None:
    """States, numbers, times, pointers and histories of several tenants, there and back."""
    for number in (1, 2, 3):
        await make_active(number)
    await index.rollback(FLOWERS, RESNET, expected=3, now=1.5)
    await make_active(4, fingerprint=SWIN)
    await register(FLOWERS, 5, now=1764109843.1234567)
    await register(TaskKey(tenant="a-b", task="flowers"), 6)
    await register(TaskKey(tenant="a", task="a.b"), 6)
    await make_active(7, key=TaskKey(task="gone"))
    await index.delete_task(TaskKey(task="gone"), now=2)
    dumps = await everything(index)
    assert len(dumps) == 4
    for task in dumps.values():
        await other.restore(task, now=3)
    assert await everything(other) == dumps
    for key in list(dumps)[::-1]:
        await index.restore(dumps[key], now=4)
    assert await everything(index) == dumps


async def test_a_restored_task_is_alive(index: Index, make_active: MakeActive) -> None:
    """It resolves, rolls back, counts on, waits for proofs and keeps its blobs, as before."""
    for number in (1, 2):
        await make_active(number)
    await index.register(
        FLOWERS, "9" * 64, fingerprint=RESNET, size=1, metadata={"a": [None]}, now=5
    )
    (task,) = (await everything(index)).values()
    await index.delete_task(FLOWERS, now=6)
    events = await index.last_change()
    await index.restore(task, now=7)
    assert [event.kind for event in await index.changes(events, limit=9)] == ["registered"]
    assert (await index.resolve(FLOWERS, RESNET)).version == 2
    assert [version.version for version in await index.list_pending(RESNET, limit=9)] == [3]
    assert len(await index.referenced_digests()) == 3
    assert await index.usage("default") == Usage(tasks=1, stored_bytes=1 + 2 + 1)
    assert (await index.rollback(FLOWERS, RESNET, expected=2, now=8)).version == 1
    with pytest.raises(NothingToRollBackTo):
        await index.rollback(FLOWERS, RESNET, expected=1, now=8)
    again = await index.register(FLOWERS, "8" * 64, fingerprint=RESNET, size=1, metadata={}, now=9)
    assert again.version == 4


async def test_restoring_takes_the_place_of_what_was(
    index: Index, register: Register, make_active: MakeActive
) -> None:
    """Versions that the dump does not have are gone, and so is a task that it says is deleted."""
    await make_active(1)
    (before,) = (await everything(index)).values()
    await make_active(2)
    await register(number=3)
    await index.restore(before, now=5)
    assert (await everything(index))[FLOWERS] == before
    assert await index.list_pending(RESNET, limit=9) == []
    assert len(await index.referenced_digests()) == 1
    deleted = before.model_copy(update={"created_at": None, "versions": (), "history": {}})
    await index.restore(deleted, now=6)
    with pytest.raises(UnknownTask):
        await index.get_task(FLOWERS)
    assert await index.list_tasks("default", limit=9) == []
    assert await index.referenced_digests() == set()


async def test_all_verdicts_about_a_blob_are_found(index: Index) -> None:
    """Each with its circumstances."""
    verdict = Verdict(passed=True, detail="", at=1)
    replays = [
        Replay(digest="1" * 64, fingerprint=RESNET, engine=engine, dtype="float32")
        for engine in ("torch", "onnx")
    ]
    for replay in replays:
        await index.put_verdict(replay, verdict)
    assert await index.verdicts("1" * 64) == dict.fromkeys(replays, verdict)
    assert await index.verdicts("2" * 64) == {}
