"""Registering and managing tasks: what is acknowledged holds, and what fails moves nothing."""

import asyncio
import time

import pytest

from adapters.errors import (
    CheckpointError,
    CorruptBlob,
    NothingToRollBackTo,
    PointerMoved,
    ProofFailed,
    StoreUnavailable,
    UnknownTask,
    WrongBackbone,
)
from adapters.store.index import TaskKey
from adapters.store.registry import GRACE_SECONDS
from service.errors import AdapterLoadFailed, QuotaExceeded, ShuttingDown
from service.limits import TenantLimits
from service.types import TaskKey as Task
from tests import makers
from tests.service.fakes import (
    ANYIO_BACKEND,
    HANGS,
    FakeEngine,
    breathe,
    checkpoints,
    predictions_of,
    service,
    until,
)

pytestmark = pytest.mark.anyio
FLOWERS, BIRDS = TaskKey(task="flowers"), TaskKey(task="birds")


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


@pytest.fixture(scope="module")
def made():
    """Three different checkpoints."""
    return checkpoints(3)


@pytest.fixture
def engine(made):
    """An engine that runs them."""
    return FakeEngine(predictions_of(made))


@pytest.fixture
async def stack(tmp_path, engine):
    """A service."""
    async with service(tmp_path, engine) as stack:
        yield stack


async def active(stack, key=FLOWERS):
    """The active version of a task."""
    return (await stack.index.get_task(key)).active.get(stack.engine.spec.fingerprint)


def break_model(stack, checkpoint):
    """Have the engine compute something else for it; returns what mends it."""
    right = stack.engine.models[checkpoint.digest]
    stack.engine.models[checkpoint.digest] = lambda images: right(images) + 1
    return lambda: stack.engine.models.update({checkpoint.digest: right})


async def publish(stack, checkpoint, key=FLOWERS):
    """Put a version into the store as another process does."""
    return await stack.registry.register(key, checkpoint.data, now=0)


async def test_a_registered_task_is_proved_active_and_warm(stack, made):
    """The version comes back ready, is what the task's name means, and needs no load."""
    version = await stack.manager.register(FLOWERS, made[0].data)
    assert (version.version, version.state, version.digest) == (1, "ready", made[0].digest)
    assert await stack.resolver.resolve("default", "flowers") == version.ref
    assert stack.cache.state(made[0].digest) == "device"
    assert stack.engine.batches == [[4]]


async def test_registering_again_switches_and_the_same_again_changes_nothing(stack, made):
    """A new checkpoint becomes the active version; one that was there keeps its number."""
    for checkpoint, number in ((made[0], 1), (made[1], 2), (made[1], 2), (made[0], 1)):
        version = await stack.manager.register(FLOWERS, checkpoint.data)
        assert version.version == number
        assert (await stack.resolver.resolve("default", "flowers")).version == number


@pytest.mark.parametrize("poisoned", [False, True])
async def test_a_failed_proof_moves_no_pointer(stack, made, poisoned):
    """The old version goes on, the new one is marked, and a mended engine takes it later."""
    await stack.manager.register(FLOWERS, made[0].data)
    mend = break_model(stack, made[1])
    if poisoned:
        stack.engine.poisoned.add(made[1].digest)
    with pytest.raises(ProofFailed):
        await stack.manager.register(FLOWERS, made[1].data)
    assert await active(stack) == 1
    assert (await stack.index.get_version(FLOWERS, 2)).state == "failed"
    assert [adapter.key for adapter in stack.engine.slots.values()] == [made[0].digest]
    mend()
    stack.engine.poisoned.clear()
    await stack.manager.register(FLOWERS, made[1].data)
    assert await active(stack) == 2


async def test_a_failed_first_proof_leaves_a_task_without_an_active_version(stack, made):
    """Nothing is served under its name, in particular not the bare backbone."""
    break_model(stack, made[0])
    with pytest.raises(ProofFailed):
        await stack.manager.register(FLOWERS, made[0].data)
    assert await active(stack) is None


async def test_what_is_no_checkpoint_is_refused_before_anything_is_stored(stack):
    """Bytes that nobody can read leave no task behind."""
    with pytest.raises(CheckpointError):
        await stack.manager.register(FLOWERS, b"no checkpoint")
    with pytest.raises(UnknownTask):
        await stack.manager.task(FLOWERS)


async def test_a_checkpoint_for_another_backbone_is_never_ready(stack, made):
    """The error is the checkpoint's own, and no pointer moves."""
    stack.host._backbone = makers.backbone("test_vit").spec
    with pytest.raises(WrongBackbone):
        await stack.manager.register(FLOWERS, made[0].data)
    assert await active(stack) is None


async def test_registering_again_mends_a_damaged_blob_at_once(stack, made):
    """A load that has just failed does not stand in the way of the cure."""
    version = await publish(stack, made[0])

    async def corrupt(_ref):
        raise CorruptBlob("It was damaged.")

    fetch, stack.registry.fetch = stack.registry.fetch, corrupt
    with pytest.raises(AdapterLoadFailed):
        await stack.cache.acquire(version.ref)
    stack.registry.fetch = fetch
    assert (await stack.manager.register(FLOWERS, made[0].data)).state == "ready"


async def test_a_server_without_its_store_leaves_the_version_pending(stack, made):
    """What is the server's fault is not held against the checkpoint."""

    async def unreachable(_ref):
        raise StoreUnavailable("The network is gone.")

    stack.registry.fetch = unreachable
    with pytest.raises(AdapterLoadFailed):
        await stack.manager.register(FLOWERS, made[0].data)
    assert (await stack.index.get_version(FLOWERS, 1)).state == "pending"


async def test_a_server_that_stops_leaves_the_version_pending(stack, made):
    """The next server proves it."""
    await stack.dispatcher.close(HANGS)
    with pytest.raises(ShuttingDown):
        await stack.manager.register(FLOWERS, made[0].data)
    assert (await stack.index.get_version(FLOWERS, 1)).state == "pending"


async def test_registrations_at_the_same_time_all_succeed(stack, made):
    """One of them is active in the end, all are ready, and nobody hears of a moved pointer."""
    versions = await asyncio.gather(
        *(stack.manager.register(FLOWERS, each.data) for each in made),
        *(stack.manager.register(BIRDS, each.data) for each in made),
    )
    assert {version.state for version in versions} == {"ready"}
    for key in (FLOWERS, BIRDS):
        assert await active(stack, key) in (1, 2, 3)


async def test_a_cancelled_registration_is_taken_up_by_the_watcher(stack, made, engine):
    """What had reached the store is proved later, and no lease is lost."""
    engine.gate.clear()
    registering = asyncio.create_task(stack.manager.register(FLOWERS, made[0].data))
    await until(lambda: engine.batches)
    registering.cancel()
    await breathe()
    assert registering.cancelled()
    engine.gate.set()
    await stack.manager.prove_pending()
    assert await active(stack) == 1
    assert stack.device._residents.pinned_bytes == 0


async def test_rollback_goes_back_and_says_when_it_cannot(stack, made):
    """To the version before, seen by the next request; with a wrong belief nothing moves."""
    for checkpoint in made[:2]:
        await stack.manager.register(FLOWERS, checkpoint.data)
    with pytest.raises(PointerMoved):
        await stack.manager.rollback(FLOWERS, expected=1)
    assert (await stack.manager.rollback(FLOWERS)).version == 1
    assert (await stack.resolver.resolve("default", "flowers")).version == 1
    with pytest.raises(NothingToRollBackTo):
        await stack.manager.rollback(FLOWERS, expected=1)


async def test_rollback_loads_before_it_moves(tmp_path, engine, made):
    """The version is in the engine when it gets requests; one that cannot be loaded gets none."""
    async with service(tmp_path, engine, host_bytes=0) as stack:
        for checkpoint in made[:2]:
            await stack.manager.register(FLOWERS, checkpoint.data)
        stack.cache.dismiss(made[0].digest)
        assert stack.cache.state(made[0].digest) == "disk"
        await stack.manager.rollback(FLOWERS)
        assert stack.cache.state(made[0].digest) == "device"
        await stack.manager.register(FLOWERS, made[1].data)
        stack.cache.dismiss(made[0].digest)
        stack.blobs.purge(stack.blobs.discard(made[0].digest))
        with pytest.raises(AdapterLoadFailed):
            await stack.manager.rollback(FLOWERS)
        assert await active(stack) == 2


async def test_listing_and_fetching(stack, made):
    """Tasks and versions come in order and in pages; a checkpoint comes back byte for byte."""
    for checkpoint in made[:2]:
        await stack.manager.register(FLOWERS, checkpoint.data)
    await stack.manager.register(BIRDS, made[0].data)
    assert [task.key for task in await stack.manager.tasks("default", limit=9)] == [BIRDS, FLOWERS]
    (second,) = await stack.manager.tasks("default", after="birds", limit=9)
    assert second == await stack.manager.task(FLOWERS)
    assert [v.version for v in await stack.manager.versions(FLOWERS, limit=9)] == [1, 2]
    assert [v.version for v in await stack.manager.versions(FLOWERS, after=1, limit=9)] == [2]
    assert await stack.manager.checkpoint(FLOWERS, 2) == made[1].data


async def test_a_deleted_task_is_gone_at_once(stack, made):
    """Its name means nothing any more, and a second delete says so."""
    await stack.manager.register(FLOWERS, made[0].data)
    await stack.resolver.resolve("default", "flowers")
    await stack.manager.delete(FLOWERS)
    assert not stack.resolver._known
    with pytest.raises(UnknownTask):
        await stack.manager.delete(FLOWERS)


async def test_a_deleted_tasks_name_is_not_pinned_for_the_next(stack, made):
    """Its adapter may leave the engine, and so may that of a new task with the name."""
    await stack.manager.register(FLOWERS, made[0].data)
    await stack.pinning.pin(Task("default", "flowers"))
    await stack.manager.delete(FLOWERS)
    assert not stack.pinning.is_pinned(Task("default", "flowers"))
    assert stack.device._residents.pinned_bytes == 0


async def test_published_versions_are_proved_and_made_active(stack, made):
    """What another process put into the store is served after the next look."""
    for checkpoint in made[:2]:
        await publish(stack, checkpoint)
    await publish(stack, made[2], BIRDS)
    await stack.manager.prove_pending()
    assert (await active(stack), await active(stack, BIRDS)) == (2, 1)
    assert not await stack.index.list_pending(stack.engine.spec.fingerprint, limit=9)


async def test_a_pending_version_never_replaces_a_newer_one(stack, made):
    """It becomes ready, for whoever asks for it by number, and no more."""
    await publish(stack, made[0])
    await stack.manager.register(FLOWERS, made[1].data)
    await stack.manager.prove_pending()
    assert await active(stack) == 2
    assert (await stack.index.get_version(FLOWERS, 1)).state == "ready"


async def test_a_pending_version_that_fails_keeps_no_other_waiting(stack, made):
    """A bad proof, a lost blob and a deleted task are passed over; the good one is served."""
    break_model(stack, made[0])
    await publish(stack, made[0])
    await publish(stack, made[1], BIRDS)
    stack.blobs.purge(stack.blobs.discard(made[1].digest))
    await publish(stack, made[2], TaskKey(task="cars"))
    await stack.manager.prove_pending()
    assert await active(stack, TaskKey(task="cars")) == 1
    assert await active(stack) is None
    assert not await stack.index.list_pending(stack.engine.spec.fingerprint, limit=9)


async def test_a_task_deleted_while_it_is_proved_stays_deleted(stack, made, engine):
    """The watcher goes on without it."""
    await publish(stack, made[0])
    engine.gate.clear()
    proving = asyncio.create_task(stack.manager.prove_pending())
    await until(lambda: engine.batches)
    await stack.manager.delete(FLOWERS)
    engine.gate.set()
    await proving
    with pytest.raises(UnknownTask):
        await stack.manager.task(FLOWERS)


async def test_garbage_goes_and_what_is_registered_stays(stack, made):
    """A checkpoint that no version needs is deleted once it is old enough."""
    await stack.manager.register(FLOWERS, made[0].data)
    await stack.manager.register(BIRDS, made[1].data)
    await stack.manager.delete(BIRDS)
    await stack.manager.collect_garbage()
    assert stack.registry._blobs.digests() == {made[0].digest, made[1].digest}
    later = time.time() + 2 * GRACE_SECONDS
    stack.manager._clock = lambda: later
    await stack.manager.collect_garbage()
    assert stack.registry._blobs.digests() == {made[0].digest}


async def test_a_tenant_stores_no_more_than_it_may(stack, made):
    """Nothing of what is too much is written; the same bytes again are never too much."""
    await stack.manager.register(FLOWERS, made[0].data)
    size = len(made[0].data)
    limits = TenantLimits(tasks=1, stored_bytes=size)
    await stack.quotas.override("default", limits)
    stored = stack.blobs.digests()
    with pytest.raises(QuotaExceeded, match="limited to 1"):
        await stack.manager.register(BIRDS, made[0].data)
    with pytest.raises(QuotaExceeded, match="bytes"):
        await stack.manager.register(FLOWERS, made[1].data)
    assert stack.blobs.digests() == stored
    assert (await stack.manager.register(FLOWERS, made[0].data)).version == 1
    await stack.manager.register(TaskKey(tenant="other", task="birds"), made[1].data)
    await stack.manager.delete(FLOWERS)
    assert (await stack.manager.register(BIRDS, made[0].data)).version == 1


async def test_registrations_at_the_same_time_do_not_slip_past_the_limit(stack, made):
    """Of three at once a tenant with room for two gets two."""
    await stack.quotas.override("default", TenantLimits(tasks=2))
    done = await asyncio.gather(
        *(
            stack.manager.register(TaskKey(task=f"t{number}"), checkpoint.data)
            for number, checkpoint in enumerate(made)
        ),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in done) == ["QuotaExceeded", "Version", "Version"]
    assert (await stack.index.usage("default")).tasks == 2
