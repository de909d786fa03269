"""The adapter cache: single-flight, leases, eviction, and failures that have a name."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from adapters.errors import BlobMissing, StoreUnavailable
from adapters.store.index import TaskKey
from service.cache.hold_off import HoldOff
from service.engines.folded import fold_adapter
from service.errors import AdapterLoadFailed, CacheFull, Overloaded, ShuttingDown
from tests import makers
from tests.service.fakes import (
    ANYIO_BACKEND,
    HANGS,
    PATIENCE,
    FakeEngine,
    advance,
    breathe,
    checkpoints,
    predictions_of,
    service,
    until,
)

pytestmark = pytest.mark.anyio


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
    """An engine that can run them, with room for all."""
    return FakeEngine(predictions_of(made))


@pytest.fixture
async def stack(tmp_path, engine):
    """A service with room for all adapters."""
    async with service(tmp_path, engine, proofs=False) as stack:
        yield stack


@pytest.fixture
async def small(tmp_path, engine, made):
    """A service with room for two adapters."""
    engine.capacity_bytes = engine.largest_piece = 2 * size_of(made[0])
    async with service(tmp_path, engine, proofs=False) as stack:
        yield stack


def size_of(checkpoint):
    """What a fake engine needs for it."""
    return fold_adapter(checkpoint).nbytes()


async def stored(stack, checkpoint, task="flowers"):
    """A reference to a checkpoint that lies in the store and nowhere else."""
    version = await stack.registry.register(TaskKey(task=task), checkpoint.data, now=0)
    return version.ref


def acquire(stack, ref):
    """Start to acquire a lease."""
    return asyncio.create_task(stack.cache.acquire(ref))


def pins(stack):
    """Bytes of leased adapters."""
    return stack.device._residents.pinned_bytes


async def test_a_cold_adapter_comes_from_disk_and_then_is_warm(stack, made):
    """The first lease loads, the second finds it in the engine, and both give the same slot."""
    ref = await stored(stack, made[0])
    assert stack.cache.state(ref.digest) == "disk"
    first = await stack.cache.acquire(ref)
    second = await stack.cache.acquire(ref)
    assert (first.tier, second.tier) == ("disk", "device")
    assert first.slot == second.slot
    assert first.labels == made[0].manifest.labels
    assert second.load_seconds == 0
    assert stack.cache.state(ref.digest) == "device"
    stack.metrics.load.assert_called_once_with("disk", "ok", 0.0)
    first.release()
    second.release()
    assert pins(stack) == 0


async def test_a_lease_ends_once(stack, made):
    """Releasing twice takes nobody else's pin."""
    ref = await stored(stack, made[0])
    first, second = await stack.cache.acquire(ref), await stack.cache.acquire(ref)
    first.release()
    first.release()
    assert pins(stack) > 0
    second.release()
    assert pins(stack) == 0


async def test_a_dismissed_adapter_leaves_its_slot(stack, made, engine):
    """At once where nobody uses it, with the last lease otherwise; the next request loads it."""
    ref = await stored(stack, made[0])
    lease = await stack.cache.acquire(ref)
    stack.cache.dismiss(ref.digest)
    assert stack.cache.state(ref.digest) == "device"
    lease.release()
    assert stack.cache.state(ref.digest) == "host"
    assert engine.slots == {}
    (await stack.cache.acquire(ref)).release()
    stack.cache.dismiss(ref.digest)
    stack.cache.dismiss(ref.digest)
    assert engine.slots == {}
    assert pins(stack) == stack.device._residents.used_bytes == 0


async def test_a_dismissed_adapter_that_is_wanted_again_stays(stack, made):
    """The later wish counts, and a dismissal does not outlive it."""
    ref = await stored(stack, made[0])
    first = await stack.cache.acquire(ref)
    stack.cache.dismiss(ref.digest)
    second = await stack.cache.acquire(ref)
    first.release()
    second.release()
    assert stack.cache.state(ref.digest) == "device"


async def test_an_adapter_dismissed_while_it_loads_is_leased_and_leaves(stack, made, engine):
    """Whoever waits for it is served; one whose load fails leaves nothing behind."""
    ref = await stored(stack, made[0])
    engine.load_gate.clear()
    waiter = acquire(stack, ref)
    await until(lambda: stack.cache.state(ref.digest) == "placing")
    stack.cache.dismiss(ref.digest)
    engine.load_gate.set()
    (await waiter).release()
    assert engine.slots == {}
    stack.prover.prove.side_effect = ZeroDivisionError
    stack.cache.dismiss(ref.digest)
    with pytest.raises(AdapterLoadFailed):
        await stack.cache.acquire(ref)
    assert engine.slots == {}


async def test_a_hundred_waiters_share_one_load(stack, made, engine):
    """The blob is read once, the engine loads once, and everybody gets a lease."""
    ref = await stored(stack, made[0])
    reads = []
    fetch = stack.registry.fetch
    stack.host._checkpoints = type("Counted", (), {})()

    async def counted(wanted):
        reads.append(wanted)
        return await fetch(wanted)

    stack.host._checkpoints.fetch = counted
    leases = await asyncio.gather(*(stack.cache.acquire(ref) for _ in range(100)))
    assert len({lease.slot for lease in leases}) == 1
    assert (len(reads), len(engine.loads)) == (1, 1)
    for lease in leases:
        lease.release()
    assert pins(stack) == 0


async def test_two_tasks_with_one_checkpoint_share_its_slot(stack, made, engine):
    """The cache is by content."""
    refs = [await stored(stack, made[0], task) for task in ("flowers", "birds")]
    leases = [await stack.cache.acquire(ref) for ref in refs]
    assert leases[0].slot == leases[1].slot
    assert len(engine.loads) == 1
    for lease in leases:
        lease.release()


async def test_a_blocked_cold_load_delays_no_warm_request(stack, made, engine):
    """While loads hang, warm leases come without a single step of the loop."""
    warm = await stored(stack, made[0], "warm")
    (await stack.cache.acquire(warm)).release()
    engine.load_gate.clear()
    colds = [acquire(stack, await stored(stack, each, "cold")) for each in made[1:]]
    await breathe()
    step = stack.cache.acquire(warm)
    with pytest.raises(StopIteration) as stopped:
        step.send(None)
    stopped.value.value.release()
    assert not any(cold.done() for cold in colds)
    engine.load_gate.set()
    for lease in await asyncio.gather(*colds):
        lease.release()


async def test_loads_are_bounded_and_their_steps_can_be_seen(tmp_path, engine, made):
    """With one loader the second load waits in line, and each says how far it is."""
    async with service(tmp_path, engine, loaders=1) as stack:
        refs = [await stored(stack, each) for each in made[:2]]
        engine.load_gate.clear()
        waiting = [acquire(stack, ref) for ref in refs]
        await until(lambda: stack.cache.state(refs[0].digest) == "placing")
        assert stack.cache.state(refs[1].digest) == "queued"
        engine.load_gate.set()
        engine.gate.clear()
        await until(lambda: stack.cache.state(refs[0].digest) == "proving")
        engine.gate.set()
        for lease in await asyncio.gather(*waiting):
            lease.release()


async def test_the_least_recently_used_adapter_leaves(small, made, engine):
    """A third adapter drives out the older of two, and comes back from host memory later."""
    refs = [await stored(small, each) for each in made[:3]]
    for ref in refs:
        (await small.cache.acquire(ref)).release()
    assert [small.cache.state(ref.digest) for ref in refs] == ["host", "device", "device"]
    lease = await small.cache.acquire(refs[0])
    assert lease.tier == "host"
    lease.release()
    small.metrics.evicted.assert_called_with("device")
    small.metrics.thrash.assert_called_once_with("device")
    assert len(engine.slots) == 2


async def test_a_leased_adapter_never_leaves(small, made):
    """The unleased one goes, though the leased one was used longer ago."""
    refs = [await stored(small, each) for each in made[:3]]
    lease = await small.cache.acquire(refs[0])
    (await small.cache.acquire(refs[1])).release()
    (await small.cache.acquire(refs[2])).release()
    assert small.cache.state(refs[0].digest) == "device"
    assert small.cache.state(refs[1].digest) == "host"
    lease.release()


async def test_a_load_waits_until_a_lease_ends(small, made):
    """With everything pinned the third adapter comes as soon as one lease is over."""
    refs = [await stored(small, each) for each in made[:3]]
    leases = [await small.cache.acquire(ref) for ref in refs[:2]]
    third = acquire(small, refs[2])
    await until(lambda: small.cache.state(refs[2].digest) == "placing")
    await advance(PATIENCE / 2)
    assert not third.done()
    leases[1].release()
    lease = await third
    assert small.cache.state(refs[1].digest) == "host"
    lease.release()
    leases[0].release()


async def test_a_load_without_room_ends_in_overloaded(small, made):
    """When patience is over the waiters are told to come back, and the next try is free to load."""
    refs = [await stored(small, each) for each in made[:3]]
    leases = [await small.cache.acquire(ref) for ref in refs[:2]]
    waiting = [acquire(small, refs[2]) for _ in range(3)]
    await until(lambda: small.cache.state(refs[2].digest) == "placing")
    await advance(PATIENCE + 1)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [Overloaded] * 3
    for lease in leases:
        lease.release()
    (await small.cache.acquire(refs[2])).release()
    assert pins(small) == 0


async def test_scattered_room_is_made_by_further_evictions(stack, made, engine):
    """Where the bytes would do but not in one piece, older adapters leave until it fits."""
    refs = [await stored(stack, each) for each in made[:3]]
    for ref in refs[:2]:
        (await stack.cache.acquire(ref)).release()
    engine.largest_piece = size_of(made[0])
    (await stack.cache.acquire(refs[2])).release()
    assert [stack.cache.state(ref.digest) for ref in refs] == ["host", "host", "device"]


async def test_scattered_room_is_waited_for(stack, made, engine):
    """If what stands in the way is leased, the load waits for the lease."""
    refs = [await stored(stack, each) for each in made[:2]]
    lease = await stack.cache.acquire(refs[0])
    engine.largest_piece = size_of(made[0])
    other = acquire(stack, refs[1])
    await until(lambda: stack.cache.state(refs[1].digest) == "placing")
    assert not other.done()
    lease.release()
    (await other).release()


@pytest.mark.parametrize(("capacity", "cause"), [(100, "CacheTooSmall"), (10**9, "EngineFull")])
async def test_an_adapter_that_can_never_fit_says_so(tmp_path, engine, made, capacity, cause):
    """Larger than all of the memory, or than its largest piece: nobody waits for room."""
    engine.capacity_bytes, engine.largest_piece = capacity, 100
    async with service(tmp_path, engine, proofs=False) as stack:
        ref = await stored(stack, made[0])
        with pytest.raises(AdapterLoadFailed) as failed:
            await stack.cache.acquire(ref)
        assert failed.value.cause == cause
        assert len(stack.device._residents) == 0


async def test_one_slot_holds_one_adapter_after_the_other(tmp_path, engine, made):
    """With room for one, a lease's slot always holds its own adapter, and the old one is gone."""
    engine.capacity_bytes = engine.largest_piece = size_of(made[0])
    async with service(tmp_path, engine, proofs=False) as stack:
        refs = [await stored(stack, each, f"task{n}") for n, each in enumerate(made[:3])]
        for turn in range(6):
            lease = await stack.cache.acquire(refs[turn % 3])
            assert {slot: adapter.key for slot, adapter in engine.slots.items()} == {
                lease.slot: refs[turn % 3].digest
            }
            lease.release()


def remove_blob(stack, ref):
    """Lose a blob."""
    stack.blobs.purge(stack.blobs.discard(ref.digest))


def damage_blob(stack, ref):
    """Turn a byte of a blob over."""
    path = Path(stack.blobs._blob(ref.digest))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def break_proof(stack, ref):
    """Have the engine compute something else."""
    right = stack.engine.models[ref.digest]
    stack.engine.models[ref.digest] = lambda images: right(images) + 1


def poison(stack, ref):
    """Have the engine raise."""
    stack.engine.poisoned.add(ref.digest)


def change_backbone(stack, _ref):
    """Serve another backbone."""
    stack.host._backbone = makers.backbone("test_vit").spec


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (remove_blob, "BlobMissing"),
        (damage_blob, "CorruptBlob"),
        (break_proof, "ProofFailed"),
        (poison, "ProofFailed"),
        (change_backbone, "WrongBackbone"),
    ],
)
async def test_a_failed_load_names_its_cause_and_hurts_nobody_else(
    tmp_path, made, engine, damage, cause
):
    """All who wait get the same cause, no slot or pin is left, and the neighbour stays."""
    async with service(tmp_path, engine) as stack:
        neighbour = await stack.cache.acquire(await stored(stack, made[1], "neighbour"))
        ref = await stored(stack, made[0])
        damage(stack, ref)
        errors = await asyncio.gather(
            *(stack.cache.acquire(ref) for _ in range(5)), return_exceptions=True
        )
        assert list(engine.slots) == [neighbour.slot]
        assert stack.cache.state(ref.digest) == "failed"
        neighbour.release()
        assert pins(stack) == 0
    assert {type(error) for error in errors} == {AdapterLoadFailed}
    assert {error.cause for error in errors} == {cause}
    assert len({id(error) for error in errors}) == 5
    assert not any("/" in str(error) for error in errors)


async def test_a_failed_load_is_not_tried_again_at_once(stack, made):
    """Within the hold-off the cause comes from memory; after it, the next request loads."""
    ref = await stored(stack, made[0])
    fetch, calls = stack.registry.fetch, []

    async def missing(wanted):
        calls.append(wanted)
        raise BlobMissing("It is gone.")

    stack.registry.fetch = missing
    for _ in range(3):
        with pytest.raises(AdapterLoadFailed):
            await stack.cache.acquire(ref)
    assert len(calls) == 1
    stack.registry.fetch = fetch
    await advance(4.9)
    with pytest.raises(AdapterLoadFailed):
        await stack.cache.acquire(ref)
    await advance(0.2)
    (await stack.cache.acquire(ref)).release()


async def test_a_forgiven_failure_is_tried_at_once(stack, made):
    """Whoever has mended the cause need not wait."""
    ref = await stored(stack, made[0])
    remove_blob(stack, ref)
    with pytest.raises(AdapterLoadFailed):
        await stack.cache.acquire(ref)
    await stored(stack, made[0])
    stack.cache.forgive(ref.digest)
    (await stack.cache.acquire(ref)).release()


async def test_a_cancelled_waiter_strands_nobody(stack, made, engine):
    """The first waiter, who started the load, leaves; the others get their leases."""
    ref = await stored(stack, made[0])
    engine.load_gate.clear()
    first, *others = [acquire(stack, ref) for _ in range(4)]
    await until(lambda: stack.cache.state(ref.digest) == "placing")
    first.cancel()
    await breathe()
    engine.load_gate.set()
    for lease in await asyncio.gather(*others):
        lease.release()
    assert first.cancelled()
    assert pins(stack) == 0


async def test_a_load_whose_waiters_have_all_left_is_finished_and_kept(stack, made, engine):
    """The next request finds the adapter in the engine, unpinned until then."""
    ref = await stored(stack, made[0])
    engine.load_gate.clear()
    waiting = acquire(stack, ref)
    await until(lambda: stack.cache.state(ref.digest) == "placing")
    waiting.cancel()
    engine.load_gate.set()
    await until(lambda: stack.cache.state(ref.digest) == "device")
    assert pins(stack) == 0
    lease = await stack.cache.acquire(ref)
    assert lease.tier == "device"
    lease.release()


@pytest.mark.parametrize("waiter_first", [True, False])
async def test_a_waiter_cancelled_as_its_load_ends_leaks_no_lease(stack, made, waiter_first):
    """In the steps between the end of a load and the waking of its waiter a pin could get lost."""
    ref = await stored(stack, made[0])
    loading = acquire(stack, ref)
    await asyncio.sleep(0)
    load = stack.cache._loads[ref.digest].task
    waiting = acquire(stack, ref)
    if waiter_first:
        await asyncio.sleep(0)
    load.add_done_callback(lambda _: waiting.cancel())
    (await loading).release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pins(stack) == 0


async def test_no_moment_of_cancellation_leaks_a_lease(tmp_path, engine, made):
    """Cancelled after any number of steps of the loop, a waiter leaves no pin behind."""
    async with service(tmp_path, engine, host_bytes=0, proofs=False) as stack:
        ref = await stored(stack, made[0])
        for steps in [*range(1, 10), *(2**n for n in range(4, 10))]:
            waiting = acquire(stack, ref)
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await waiting).release()
            await until(lambda: stack.cache.state(ref.digest) == "device")
            assert pins(stack) == 0
            stack.device.pin(stack.device.get(ref.digest))
            stack.device.drop(stack.device.get(ref.digest))


async def test_an_eviction_right_after_a_load_takes_nothing_from_its_waiters(stack, made, engine):
    """Between the end of a load and the waking of its waiters the adapter cannot leave."""
    ref = await stored(stack, made[0])
    waiting = acquire(stack, ref)
    await asyncio.sleep(0)
    refused = []

    def evict(_load):
        try:
            stack.device._evict_oldest()
        except CacheFull as error:
            refused.append(error)

    stack.cache._loads[ref.digest].task.add_done_callback(evict)
    lease = await waiting
    assert refused
    assert engine.slots[lease.slot].key == ref.digest
    lease.release()


async def test_three_adapters_take_turns_in_two_slots(small, made):
    """Under pressure every lease's slot holds its own adapter all the while."""
    refs = [await stored(small, each) for each in made]
    for _ in range(3):
        await asyncio.gather(*(one_lease(small, ref) for ref in refs for _ in range(5)))
    assert pins(small) == 0


async def one_lease(stack, ref):
    """Hold a lease for a moment; its slot holds the right adapter all the while."""
    lease = await stack.cache.acquire(ref)
    for _ in range(3):
        assert stack.engine.slots[lease.slot].key == ref.digest
        await asyncio.sleep(0)
    lease.release()


async def test_closing_ends_all_who_wait(stack, made):
    """Waiters of a load under way, and new ones, get an error that says so."""
    refs = [await stored(stack, each) for each in made[:2]]
    blocked = asyncio.Event()

    async def hang(_ref):
        await blocked.wait()

    stack.registry.fetch = hang
    waiting = [acquire(stack, refs[0]) for _ in range(3)]
    await breathe()
    await stack.cache.close(HANGS)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [ShuttingDown] * 3
    with pytest.raises(ShuttingDown):
        await stack.cache.acquire(refs[1])


async def test_an_unforeseen_error_is_a_failed_load_too(stack, made):
    """A bug below ends all who wait as well, under its own name."""
    ref = await stored(stack, made[0])

    async def bug(_ref):
        raise ZeroDivisionError

    stack.registry.fetch = bug
    with pytest.raises(AdapterLoadFailed) as failed:
        await stack.cache.acquire(ref)
    assert failed.value.cause == "ZeroDivisionError"


async def test_the_host_tier_evicts_by_bytes(tmp_path, engine, made):
    """Host memory for one adapter keeps the latest one; none at all reads from disk each time."""
    async with service(
        tmp_path, engine, host_bytes=size_of(made[0]) + 2_000, proofs=False
    ) as stack:
        refs = [await stored(stack, each) for each in made[:2]]
        for ref in refs:
            (await stack.cache.acquire(ref)).release()
        assert [ref.digest in stack.host for ref in refs] == [False, True]
        stack.metrics.evicted.assert_called_once_with("host")


def test_hold_off_forgets_by_itself():
    """Failures are kept for their time only, so they cannot pile up."""
    failures, error = HoldOff(5.0), StoreUnavailable("gone")
    for number in range(100):
        failures.add(str(number), error, now=number)
    assert failures.get("99", now=103.9) is error
    assert len(failures) == 1
    failures.add("99", error, now=103.0)
    assert failures.get("99", now=107.0) is error
    failures.forget("99")
    assert failures.get("99", now=107.0) is None
