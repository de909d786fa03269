"""The proof on the serving engine: what it needs, what it keeps, and what it never delays."""

import asyncio

import pytest
import torch

from adapters.errors import ProofFailed, StoreUnavailable
from service.batching.dispatcher import Job
from service.cache.host_tier import read_adapter
from service.errors import Overloaded, ShuttingDown
from service.proving import replay_of
from service.types import TaskKey
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


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


@pytest.fixture(scope="module")
def made():
    """A checkpoint."""
    return checkpoints(1)[0]


@pytest.fixture
def engine(made):
    """An engine that runs it."""
    return FakeEngine(predictions_of([made]))


@pytest.fixture
async def stack(tmp_path, engine):
    """A service."""
    async with service(tmp_path, engine) as stack:
        yield stack


def placed(engine, made):
    """The adapter, and the slot that it is in."""
    adapter = read_adapter(made.data, engine.spec)
    return adapter, engine.load(adapter.folded)


async def test_a_proof_that_holds_is_kept_and_not_replayed(stack, engine, made):
    """The golden images run once; after that the index's word is enough."""
    adapter, slot = placed(engine, made)
    await stack.prover.prove(adapter, slot)
    await stack.prover.prove(adapter, slot)
    assert engine.batches == [[4]]
    assert (await stack.index.get_verdict(replay_of(made.digest, engine))).passed


async def test_other_circumstances_are_proved_anew(stack, engine, made, monkeypatch):
    """A verdict counts for the dtype, engine, kind of device and releases that it was found in."""
    adapter, slot = placed(engine, made)
    await stack.prover.prove(adapter, slot)
    engine.dtype = "bfloat16"
    await stack.prover.prove(adapter, slot)
    engine.name = "other"
    await stack.prover.prove(adapter, slot)
    engine.device = "cuda:1"
    await stack.prover.prove(adapter, slot)
    monkeypatch.setattr(torch, "__version__", "9.9")
    await stack.prover.prove(adapter, slot)
    monkeypatch.setattr("service.proving.version", lambda _: "9.9")
    await stack.prover.prove(adapter, slot)
    assert len(engine.batches) == 6
    engine.device = "cuda:0"
    await stack.prover.prove(adapter, slot)
    assert len(engine.batches) == 6, "a device of the same kind"


async def test_a_proof_that_fails_is_written_down_and_tried_again(stack, engine, made):
    """The reason is there for people to read, and a mended engine passes."""
    adapter, slot = placed(engine, made)
    right = engine.models[made.digest]
    engine.models[made.digest] = lambda images: right(images.flip(-1))
    with pytest.raises(ProofFailed):
        await stack.prover.prove(adapter, slot)
    verdict = await stack.index.get_verdict(replay_of(made.digest, engine))
    assert not verdict.passed
    assert "logits" in verdict.detail
    stack.metrics.proof_failed.assert_called_once_with()
    engine.models[made.digest] = right
    await stack.prover.prove(adapter, slot)
    assert (await stack.index.get_verdict(replay_of(made.digest, engine))).passed


async def test_an_adapter_whose_run_raises_fails_its_proof(stack, engine, made):
    """What the engine cannot run is never ready."""
    adapter, slot = placed(engine, made)
    engine.poisoned.add(made.digest)
    with pytest.raises(ProofFailed, match="poison"):
        await stack.prover.prove(adapter, slot)


async def test_without_an_index_the_proof_is_replayed_and_counts(stack, engine, made):
    """A store that cannot be reached costs a replay, not the load."""
    adapter, slot = placed(engine, made)

    async def unreachable(*_args):
        raise StoreUnavailable("The disk is gone.")

    stack.index.get_verdict = stack.index.put_verdict = unreachable
    await stack.prover.prove(adapter, slot)
    await stack.prover.prove(adapter, slot)
    assert engine.batches == [[4], [4]]


async def test_under_load_a_proof_takes_its_turn(stack, engine, made):
    """With a backlog it shares an early batch with requests: it is neither first nor forgotten."""
    adapter, slot = placed(engine, made)
    _, busy = placed(engine, made)
    engine.gate.clear()
    images = makers.pixels(8, 160, 160)
    jobs = [
        asyncio.create_task(
            stack.dispatcher.submit(Job(TaskKey("a", "a"), busy, images, lambda: None))
        )
        for _ in range(10)
    ]
    proof = asyncio.create_task(stack.prover.prove(adapter, slot))
    await until(lambda: stack.queue.images == 6 * 8 + 4)
    engine.gate.set()
    await asyncio.gather(proof, *jobs)
    mixed = [sorted(batch) for batch in engine.batches if len(batch) == 2]
    assert mixed == [[4, 12]]
    assert len(engine.batches[0]) == len(engine.batches[-1]) == 1


@pytest.mark.parametrize("reason", [Overloaded, ShuttingDown])
async def test_a_proof_that_cannot_run_is_no_verdict(stack, engine, made, reason):
    """A server without room, or on its way down, has not disproved anything."""
    adapter, slot = placed(engine, made)
    if reason is ShuttingDown:
        await stack.dispatcher.close(HANGS)
    else:
        stack.queue._capacity = 4
        stack.queue._images = 1
    with pytest.raises(reason):
        await stack.prover.prove(adapter, slot)
    stack.queue._images = 0
    assert await stack.index.get_verdict(replay_of(made.digest, engine)) is None


async def test_the_engine_has_left_the_slot_when_a_proof_ends(stack, engine, made):
    """Even a proof that is cancelled in the engine ends only when its slot may be freed."""
    adapter, slot = placed(engine, made)
    engine.gate.clear()
    proof = asyncio.create_task(stack.prover.prove(adapter, slot))
    await until(lambda: engine.batches)
    proof.cancel()
    await breathe()
    assert not proof.done()
    engine.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await proof
    engine.unload(slot)
