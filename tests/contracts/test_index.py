"""What every index must do with tasks, versions and active pointers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from adapters.errors import (
    AdapterError,
    NoActiveVersion,
    NothingToRollBackTo,
    PointerMoved,
    UnknownTask,
    UnknownVersion,
    VersionInUse,
    VersionNotReady,
)
from adapters.store.index import Index, TaskKey, Version
from adapters.store.opening import open_index

FLOWERS = TaskKey(task="flowers")
RESNET, SWIN = "a" * 64, "b" * 64
Register = Callable[..., Awaitable[Version]]
MakeActive = Callable[..., Awaitable[Version]]

pytestmark = pytest.mark.anyio


async def test_a_version_comes_back_as_registered(index: Index) -> None:
    """Every field of a new version is what was registered, and it is pending."""
    metadata: dict[str, Any] = {"classes": 102, "method": "pro-tuning", "nested": [1, None, "ü"]}
    version = await index.register(
        FLOWERS, f"{7:064x}", fingerprint=RESNET, size=1234, metadata=metadata, now=5.5
    )
    assert version == Version(
        key=FLOWERS,
        version=1,
        digest=f"{7:064x}",
        fingerprint=RESNET,
        size=1234,
        state="pending",
        metadata=metadata,
        created_at=5.5,
        renewed_at=5.5,
    )
    assert await index.get_version(FLOWERS, 1) == version


async def test_the_same_checkpoint_is_the_same_version(index: Index, register: Register) -> None:
    """Registering again gives the same number and state, renews the age and tells nobody."""
    await register(now=1)
    await index.set_state(FLOWERS, 1, "ready", now=2)
    events = await index.last_change()
    again = await register(now=3)
    assert (again.version, again.state, again.created_at, again.renewed_at) == (1, "ready", 1, 3)
    assert await index.get_version(FLOWERS, 1) == again
    assert await index.last_change() == events


async def test_tasks_and_tenants_are_apart(index: Index, register: Register) -> None:
    """One checkpoint under two tasks and two tenants is three versions that know nothing."""
    keys = [FLOWERS, TaskKey(task="birds"), TaskKey(tenant="acme", task="flowers")]
    assert [(await register(key)).version for key in keys] == [1, 1, 1]
    await index.delete_task(FLOWERS, now=0)
    assert [(await index.get_version(key, 1)).key for key in keys[1:]] == keys[1:]
    assert [task.key for task in await index.list_tasks("acme", limit=9)] == keys[2:]


async def test_version_numbers_never_come_back(index: Index, register: Register) -> None:
    """Neither retiring nor deleting and registering again gives a number twice."""
    numbers = [(await register(number=1)).version, (await register(number=2)).version]
    await index.retire(FLOWERS, 2, now=0)
    numbers.append((await register(number=2)).version)
    await index.delete_task(FLOWERS, now=0)
    numbers.append((await register(number=1, now=9)).version)
    assert numbers == [1, 2, 3, 4]
    assert (await index.get_task(FLOWERS)).created_at == 9


async def test_only_proved_versions_become_active(index: Index, register: Register) -> None:
    """Pending and failed versions are refused; a later proof that holds mends that."""
    await register()
    with pytest.raises(VersionNotReady, match="pending"):
        await index.activate(FLOWERS, 1, expected=None, now=0)
    await index.set_state(FLOWERS, 1, "failed", now=0)
    with pytest.raises(VersionNotReady, match="failed"):
        await index.activate(FLOWERS, 1, expected=None, now=0)
    await index.set_state(FLOWERS, 1, "ready", now=0)
    await index.activate(FLOWERS, 1, expected=None, now=0)
    assert (await index.resolve(FLOWERS, RESNET)).version == 1


async def test_a_ready_version_stays_ready(index: Index, register: Register) -> None:
    """Another server's failed proof does not take back what one has proved."""
    await register()
    for state in ("ready", "failed"):
        await index.set_state(FLOWERS, 1, state, now=0)
    assert (await index.get_version(FLOWERS, 1)).state == "ready"


async def test_pointers_are_per_fingerprint(index: Index, make_active: MakeActive) -> None:
    """Two backbones share a task; each has its own active version and its own history."""
    first = await make_active(1, fingerprint=RESNET)
    second = await make_active(2, fingerprint=SWIN)
    third = await make_active(3, fingerprint=SWIN)
    assert await index.resolve(FLOWERS, RESNET) == first.ref
    assert await index.resolve(FLOWERS, SWIN) == third.ref
    assert (await index.get_task(FLOWERS)).active == {RESNET: 1, SWIN: 3}
    assert await index.rollback(FLOWERS, SWIN, expected=3, now=0) == second.ref
    assert await index.resolve(FLOWERS, RESNET) == first.ref


async def test_activating_compares_first(
    index: Index, register: Register, make_active: MakeActive
) -> None:
    """Who believes in another active version is told; activating the active one is nothing."""
    await make_active(1)
    await register(number=2)
    await index.set_state(FLOWERS, 2, "ready", now=0)
    for wrong in (None, 2, 7):
        with pytest.raises(PointerMoved, match="version 1"):
            await index.activate(FLOWERS, 2, expected=wrong, now=0)
    events = await index.last_change()
    await index.activate(FLOWERS, 1, expected=None, now=0)
    assert await index.last_change() == events
    with pytest.raises(NothingToRollBackTo):
        await index.rollback(FLOWERS, RESNET, expected=1, now=0)


async def test_rollback_walks_back(index: Index, make_active: MakeActive) -> None:
    """Each rollback moves to the version before, and activating goes on from there."""
    for number in (1, 2, 3):
        await make_active(number)
    target = await index.rollback_target(FLOWERS, RESNET, expected=3)
    assert (await index.resolve(FLOWERS, RESNET)).version == 3
    assert await index.rollback(FLOWERS, RESNET, expected=3, now=0) == target
    assert target.version == 2
    assert (await index.rollback(FLOWERS, RESNET, expected=2, now=0)).version == 1
    with pytest.raises(NothingToRollBackTo):
        await index.rollback(FLOWERS, RESNET, expected=1, now=0)
    await index.activate(FLOWERS, 3, expected=1, now=0)
    assert (await index.rollback(FLOWERS, RESNET, expected=3, now=0)).version == 1


async def test_a_repeated_rollback_moves_once(index: Index, make_active: MakeActive) -> None:
    """A client that asks again, because the answer was lost, does not fall back further."""
    for number in (1, 2, 3):
        await make_active(number)
    await index.rollback(FLOWERS, RESNET, expected=3, now=0)
    with pytest.raises(PointerMoved):
        await index.rollback(FLOWERS, RESNET, expected=3, now=0)
    assert (await index.resolve(FLOWERS, RESNET)).version == 2


async def test_rollback_passes_over_retired_versions(index: Index, make_active: MakeActive) -> None:
    """What was retired is no place to go back to, nor does the same version count twice."""
    await make_active(1)
    await make_active(2)
    await make_active(3)
    await index.activate(FLOWERS, 2, expected=3, now=0)
    await index.retire(FLOWERS, 3, now=0)
    assert (await index.rollback(FLOWERS, RESNET, expected=2, now=0)).version == 1


async def test_the_active_version_cannot_be_retired(index: Index, make_active: MakeActive) -> None:
    """It can once another one is active, and then it is gone."""
    await make_active(1)
    with pytest.raises(VersionInUse):
        await index.retire(FLOWERS, 1, now=0)
    await make_active(2)
    await index.retire(FLOWERS, 1, now=0)
    with pytest.raises(UnknownVersion):
        await index.get_version(FLOWERS, 1)


async def test_resolve_tells_why_there_is_nothing(
    index: Index, register: Register, make_active: MakeActive
) -> None:
    """No task, no version for this backbone, and not yet proved are told apart."""
    with pytest.raises(UnknownTask, match="flowers"):
        await index.resolve(FLOWERS, RESNET)
    await register()
    with pytest.raises(NoActiveVersion, match=RESNET[:12]):
        await index.resolve(FLOWERS, RESNET)
    await make_active(1)
    with pytest.raises(NoActiveVersion, match=SWIN[:12]):
        await index.resolve(FLOWERS, SWIN)


async def test_a_deleted_task_is_unknown_to_every_operation(
    index: Index, register: Register, make_active: MakeActive
) -> None:
    """Nothing of it can be read or changed, and its next life begins without pointers."""
    await make_active(1)
    await index.delete_task(FLOWERS, now=0)
    for operation in (
        index.get_task(FLOWERS),
        index.get_version(FLOWERS, 1),
        index.list_versions(FLOWERS, limit=9),
        index.resolve(FLOWERS, RESNET),
        index.set_state(FLOWERS, 1, "ready", now=0),
        index.activate(FLOWERS, 1, expected=1, now=0),
        index.rollback(FLOWERS, RESNET, expected=1, now=0),
        index.rollback_target(FLOWERS, RESNET, expected=1),
        index.retire(FLOWERS, 1, now=0),
        index.delete_task(FLOWERS, now=0),
    ):
        with pytest.raises(UnknownTask, match="flowers"):
            await operation
    assert await index.list_tasks("default", limit=9) == []
    assert await index.referenced_digests() == set()
    await register()
    assert (await index.get_task(FLOWERS)).active == {}


async def test_unknown_versions_are_told(index: Index, register: Register) -> None:
    """A version that the task does not have is named in the error."""
    await register()
    for operation in (
        index.get_version(FLOWERS, 2),
        index.set_state(FLOWERS, 2, "ready", now=0),
        index.activate(FLOWERS, 2, expected=None, now=0),
        index.retire(FLOWERS, 2, now=0),
    ):
        with pytest.raises(UnknownVersion, match="no version 2"):
            await operation


async def test_a_refused_operation_changes_nothing(index: Index, make_active: MakeActive) -> None:
    """Errors leave no event and no trace."""
    await make_active(1)
    before = (await index.last_change(), await index.get_task(FLOWERS))
    for operation in (
        index.activate(FLOWERS, 5, expected=1, now=0),
        index.rollback(FLOWERS, RESNET, expected=1, now=0),
        index.rollback(FLOWERS, SWIN, expected=1, now=0),
        index.rollback_target(FLOWERS, RESNET, expected=1),
        index.rollback_target(FLOWERS, SWIN, expected=1),
        index.retire(FLOWERS, 1, now=0),
        index.delete_task(TaskKey(task="birds"), now=0),
    ):
        with pytest.raises(AdapterError):
            await operation
    assert (await index.last_change(), await index.get_task(FLOWERS)) == before


async def test_everything_survives_closing(make_active: MakeActive, index_url: str) -> None:
    """A second connection, and one after closing, see what the first has written."""
    version = await make_active(1)
    second = open_index(index_url)
    assert await second.resolve(FLOWERS, RESNET) == version.ref
    await second.close()
    third = open_index(index_url)
    assert await third.resolve(FLOWERS, RESNET) == version.ref
    await third.close()


async def test_hundreds_may_ask_at_once(index: Index, make_active: MakeActive) -> None:
    """Whatever connections an index has, nobody is refused because others ask too."""
    version = await make_active(1)
    refs = await asyncio.gather(*(index.resolve(FLOWERS, RESNET) for _ in range(400)))
    assert set(refs) == {version.ref}


async def test_a_cancelled_caller_leaves_no_half(index: Index, index_url: str) -> None:
    """Operations whose callers went away have happened whole or not at all."""
    second = open_index(index_url)
    calls = [
        asyncio.ensure_future(
            second.register(
                FLOWERS, f"{number:064x}", fingerprint=RESNET, size=1, metadata={}, now=0
            )
        )
        for number in range(1, 30)
    ]
    await calls[4]
    for call in calls[5:]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await second.close()
    versions = await index.list_versions(FLOWERS, limit=100)
    events = await index.changes(0, limit=100)
    assert [version.version for version in versions] == list(range(1, len(versions) + 1))
    assert [event.version for event in events] == [version.version for version in versions]
    assert len(versions) >= 5
