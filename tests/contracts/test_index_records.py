"""What every index must do with lists, events, references and verdicts."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from adapters.store.index import ChangeEvent, Index, Replay, TaskKey, Usage, Verdict, Version

FLOWERS = TaskKey(task="flowers")
RESNET, SWIN = "a" * 64, "b" * 64
Register = Callable[..., Awaitable[Version]]
MakeActive = Callable[..., Awaitable[Version]]

pytestmark = pytest.mark.anyio


def digest(number: int) -> str:
    """A digest for each number."""
    return f"{number:064x}"


async def test_tasks_are_listed_page_by_page(index: Index, make_active: MakeActive) -> None:
    """Pages follow the order of names, and a task deleted at the cursor disturbs nothing."""
    names = ["a", "a-b", "a.b", "a0", "b", "b_1", "zz"]
    for name in reversed(names):
        await make_active(1, key=TaskKey(task=name))
    first = await index.list_tasks("default", limit=3)
    await index.delete_task(first[-1].key, now=0)
    second = await index.list_tasks("default", after=first[-1].key.task, limit=100)
    assert [task.key.task for task in [*first, *second]] == names
    assert all(task.active == {RESNET: 1} for task in [*first, *second])


async def test_versions_are_listed_page_by_page(index: Index, register: Register) -> None:
    """Pages follow the order of numbers."""
    for number in range(1, 13):
        await register(number=number)
    first = await index.list_versions(FLOWERS, limit=5)
    second = await index.list_versions(FLOWERS, after=first[-1].version, limit=100)
    assert [version.version for version in [*first, *second]] == list(range(1, 13))
    assert second[0] == await index.get_version(FLOWERS, 6)


async def test_pending_versions_are_found_by_backbone(index: Index, register: Register) -> None:
    """A server sees what waits for it, the oldest first, and nothing that is settled."""
    for number in range(1, 6):
        await register(TaskKey(task=f"t{number}"), number, now=9 - number)
    await register(FLOWERS, 6, fingerprint=SWIN)
    await index.set_state(TaskKey(task="t2"), 1, "ready", now=9)
    await index.set_state(TaskKey(task="t3"), 1, "failed", now=9)
    pending = await index.list_pending(RESNET, limit=2)
    assert [version.key.task for version in pending] == ["t5", "t4"]
    assert len(await index.list_pending(RESNET, limit=9)) == 3


async def test_changes_tell_the_story_in_order(index: Index, make_active: MakeActive) -> None:
    """Each change is one event, numbered without a gap, and reading may begin anywhere."""
    await make_active(1)
    await make_active(2)
    await index.rollback(FLOWERS, RESNET, expected=2, now=3)
    await index.retire(FLOWERS, 2, now=4)
    await index.delete_task(FLOWERS, now=5)
    story = [("registered", 1), ("ready", 1), ("activated", 1), ("registered", 2), ("ready", 2)]
    story += [("activated", 2), ("activated", 1), ("retired", 2), ("deleted", None)]
    events = await index.changes(0, limit=100)
    assert [(event.kind, event.version) for event in events] == story
    assert [event.sequence for event in events] == list(range(1, len(story) + 1))
    assert events[-1] == ChangeEvent(sequence=9, kind="deleted", key=FLOWERS, version=None, at=5)
    assert await index.changes(4, limit=2) == events[4:6]
    assert await index.changes(await index.last_change(), limit=9) == []


async def test_waiting_ends_with_a_change(index: Index, register: Register) -> None:
    """Who waits for events behind the last one is woken by the next, or when the time is up."""
    await register()
    await index.wait_for_change(1, timeout=0.01)
    await index.wait_for_change(0, timeout=3_600)

    async def wait() -> None:
        while await index.last_change() == 1:
            await index.wait_for_change(1, timeout=3_600)

    waiting = asyncio.create_task(wait())
    await register(number=2)
    await waiting
    assert await index.last_change() == 2


async def test_references_follow_the_versions(index: Index, register: Register) -> None:
    """A digest is referenced as long as any version of any tenant has it."""
    acme = TaskKey(tenant="acme", task="flowers")
    await register(FLOWERS, 1)
    await register(acme, 1)
    await register(acme, 2)
    await index.delete_task(FLOWERS, now=0)
    assert await index.referenced_digests() == {digest(1), digest(2)}
    await index.retire(acme, 1, now=0)
    assert not await index.is_referenced(digest(1))
    assert await index.is_referenced(digest(2))


async def test_verdicts_are_remembered_per_circumstances(index: Index) -> None:
    """Each engine and dtype has its own verdict; the newest counts; they go with the blob."""
    replay = Replay(digest=digest(1), fingerprint=RESNET, engine="torch", dtype="float32")
    others = [
        replay.model_copy(update={field: value})
        for field, value in [
            ("digest", digest(2)),
            ("fingerprint", SWIN),
            ("engine", "onnx"),
            ("dtype", "bfloat16"),
        ]
    ]
    assert await index.get_verdict(replay) is None
    for passed in (False, True):
        await index.put_verdict(replay, Verdict(passed=passed, detail="why", at=7))
    assert await index.get_verdict(replay) == Verdict(passed=True, detail="why", at=7)
    assert [await index.get_verdict(other) for other in others] == [None] * 4
    await index.put_verdict(others[0], Verdict(passed=True, detail="", at=8))
    await index.forget_verdicts(digest(1))
    assert await index.get_verdict(replay) is None
    assert await index.get_verdict(others[0]) is not None


async def test_usage_counts_tasks_and_bytes_of_one_tenant(index, register):
    """Every version once, renewed ones not again, deleted and retired ones no more."""
    mine, other = TaskKey(tenant="acme", task="a"), TaskKey(tenant="other", task="a")
    assert await index.usage("acme") == Usage(tasks=0, stored_bytes=0)
    for number in (100, 20, 100):
        await register(mine, number)
    await register(TaskKey(tenant="acme", task="b"), 3)
    await register(other, 5_000)
    assert await index.usage("acme") == Usage(tasks=2, stored_bytes=123)
    await index.retire(mine, 1, now=1)
    assert await index.usage("acme") == Usage(tasks=2, stored_bytes=23)
    await index.delete_task(mine, now=2)
    assert await index.usage("acme") == Usage(tasks=1, stored_bytes=3)
    assert await index.usage("other") == Usage(tasks=1, stored_bytes=5_000)
