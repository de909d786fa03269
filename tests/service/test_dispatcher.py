"""The dispatcher: mixed batches, and that whatever happens to one job, the others get theirs."""

import asyncio
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.dispatcher import Dispatcher, Job
from service.batching.execution import assemble
from service.batching.queue import BatchQueue
from service.engines.base import Slot
from service.errors import (
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    ShuttingDown,
    TooManyImages,
    UnknownSlot,
)
from service.metrics import NullMetrics
from service.types import Batch, BatchLimits, Part, Segment, TaskKey, WorkItem
from tests import makers
from tests.service.fakes import (
    ANYIO_BACKEND,
    HANGS,
    FakeEngine,
    advance,
    breathe,
    folded,
    now,
    quiet_metrics,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


def sums(factor):
    """A model: the sum of an image's values, times `factor`, and the factor itself."""

    def model(images):
        total = images.flatten(1).sum(1, dtype=torch.float32) * factor
        return torch.stack([total, torch.full_like(total, factor)], 1)

    return model


FACTORS = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


class Bench:
    """A dispatcher on an engine that has four adapters, and the releases of its jobs."""

    def __init__(self, capacity=100, max_images=8, window=0.0):
        self.engine = FakeEngine({key: sums(factor) for key, factor in FACTORS.items()})
        self.slots = {key: self.engine.load(folded(key)) for key in FACTORS}
        self.metrics = quiet_metrics()
        limits = BatchLimits(max_images, window)
        self.queue = BatchQueue(capacity, limits)
        self.dispatcher = Dispatcher(self.engine, self.queue, self.metrics)
        self.released = []

    def start(self, key, images, **options):
        """Submit images for an adapter."""
        job = Job(
            TaskKey("tenant", key),
            self.slots[key],
            images,
            lambda: self.released.append(key),
            **options,
        )
        return asyncio.create_task(self.dispatcher.submit(job))

    async def hold_engine(self, *keys):
        """Keep the engine busy with an image for each adapter; the two batches ahead are full."""
        self.engine.gate.clear()
        held = []
        for key in keys:
            held.append(self.start(key, pixels(1)))
            await until(lambda: self.engine.batches)
            await breathe()
        return held


@pytest.fixture
async def bench():
    """A bench whose engine runs freely."""
    bench = Bench()
    yield bench
    bench.engine.gate.set()
    await bench.dispatcher.close(HANGS)
    await until(lambda: not bench.dispatcher._flights)


def pixels(count, seed=0):
    """Small random images."""
    return makers.pixels(count, 4, 4, seed)


def expected(key, images):
    """What an adapter says of images."""
    return sums(FACTORS[key])(images)


async def answers_of(jobs):
    """The logits of each job, or its error."""
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    return [getattr(outcome, "logits", outcome) for outcome in outcomes]


async def test_a_mixed_batch_gives_each_job_its_own_answer(bench):
    """Jobs of four adapters that wait together run together, and no answer crosses."""
    held = await bench.hold_engine("a", "b")
    images = [pixels(n, seed=n) for n in (1, 2, 3, 2)]
    jobs = [bench.start(key, each) for key, each in zip("abcd", images, strict=True)]
    await breathe()
    bench.engine.gate.set()
    answers = await asyncio.gather(*jobs)
    for key, each, answer in zip("abcd", images, answers, strict=True):
        assert torch.equal(answer.logits, expected(key, each))
        assert (answer.batch_images, answer.batch_tasks) == (8, 4)
    assert bench.engine.batches == [[1], [1], [1, 2, 3, 2]]
    await asyncio.gather(*held)
    assert sorted(bench.released) == sorted("ababcd")
    bench.metrics.batch.assert_called_with(8, 4)


async def test_a_job_larger_than_a_batch_is_put_together_again(bench):
    """20 images in batches of 8 come back as one answer in their order."""
    images = pixels(20)
    answer = await bench.start("b", images)
    assert torch.equal(answer.logits, expected("b", images))
    assert bench.engine.batches == [[8], [8], [4]]
    assert bench.released == ["b"]


async def test_jobs_with_the_same_images_share_them(bench):
    """Two adapters that are asked about one tensor get it in one copy."""
    held = await bench.hold_engine("a", "b")
    seen = []
    run = bench.engine.run
    bench.engine.run = lambda batch: seen.append(len(batch.images)) or run(batch)
    images = pixels(3)
    jobs = [bench.start(key, images) for key in "cd"]
    await breathe()
    bench.engine.gate.set()
    answers = await answers_of(jobs)
    assert torch.equal(answers[0], expected("c", images))
    assert torch.equal(answers[1], expected("d", images))
    assert seen[-1] == 3
    await asyncio.gather(*held)


async def test_a_cancelled_job_in_the_queue_leaves_no_trace(bench):
    """Its images never run, its lease ends at once, and its neighbours notice nothing."""
    held = await bench.hold_engine("a", "b")
    gone, stays = bench.start("c", pixels(2)), bench.start("d", pixels(3))
    await breathe()
    gone.cancel()
    await breathe()
    assert bench.released == ["c"]
    assert bench.queue.images == 3
    bench.engine.gate.set()
    assert torch.equal((await stays).logits, expected("d", pixels(3)))
    await asyncio.gather(*held)
    assert gone.cancelled()
    assert bench.engine.batches == [[1], [1], [3]]


async def test_a_cancelled_job_in_the_engine_keeps_its_slot_until_the_batch_is_done(bench):
    """The lease ends when the engine leaves the slot, not when the client leaves."""
    (gone,) = await bench.hold_engine("a")
    gone.cancel()
    await breathe()
    assert gone.cancelled()
    assert bench.released == []
    bench.engine.gate.set()
    await until(lambda: bench.released == ["a"])


async def test_a_split_job_that_is_cancelled_runs_no_further(bench):
    """What is in the engine ends there, the rest leaves the queue, and the lease ends once."""
    bench.engine.gate.clear()
    gone = bench.start("a", pixels(40))
    await until(lambda: bench.engine.batches)
    gone.cancel()
    await breathe()
    assert bench.queue.images == 0
    bench.engine.gate.set()
    await until(lambda: bench.released == ["a"])
    assert sum(map(sum, bench.engine.batches)) == 16


async def test_an_adapter_that_raises_fails_alone(bench):
    """In a mixed batch only the guilty segment's jobs fail; the others' answers are unchanged."""
    held = await bench.hold_engine("a", "b")
    bench.engine.poisoned.add("c")
    images = [pixels(1, seed=n) for n in range(4)]
    jobs = [bench.start(key, each) for key, each in zip("bcdc", images, strict=True)]
    await breathe()
    bench.engine.gate.set()
    one, bad, other, also_bad = await answers_of(jobs)
    assert torch.equal(one, expected("b", images[0]))
    assert torch.equal(other, expected("d", images[2]))
    for error in (bad, also_bad):
        assert isinstance(error, EngineFailed)
        assert isinstance(error.__cause__, RuntimeError)
    await asyncio.gather(*held)
    assert sorted(bench.released) == sorted("abbcdc")


async def test_the_engine_goes_on_after_every_kind_of_failure(bench):
    """Neither an error nor an exit inside the engine ends the thread or leaves a job hanging."""
    for broken in (ValueError("no"), MemoryError(), SystemExit(1)):
        bench.engine.broken = broken
        with pytest.raises(EngineFailed):
            await bench.start("a", pixels(1))
    bench.engine.broken = None
    assert torch.equal((await bench.start("a", pixels(1))).logits, expected("a", pixels(1)))
    assert bench.released == ["a"] * 4


async def test_an_engine_that_loses_rows_is_caught(bench):
    """Logits for another number of rows are never handed to anybody."""
    bench.engine.models["a"] = lambda images: torch.zeros(len(images) + 1, 2)
    with pytest.raises(EngineFailed):
        await bench.start("a", pixels(2))


async def test_images_of_another_size_fail_alone(bench):
    """A neighbour whose pixels do not fit into the batch takes nobody along."""
    held = await bench.hold_engine("a", "b")
    jobs = [bench.start("c", makers.pixels(1, 5, 5)), bench.start("d", pixels(2))]
    await breathe()
    bench.engine.gate.set()
    odd, sound = await answers_of(jobs)
    assert torch.equal(odd, expected("c", makers.pixels(1, 5, 5)))
    assert torch.equal(sound, expected("d", pixels(2)))
    await asyncio.gather(*held)


async def test_a_slot_that_is_gone_fails_alone(bench):
    """A stale slot is an error for its job, never somebody else's adapter."""
    bench.slots["c"] = Slot(99)
    stale, sound = await answers_of([bench.start("c", pixels(1)), bench.start("d", pixels(1))])
    assert isinstance(stale.__cause__, UnknownSlot)
    assert torch.equal(sound, expected("d", pixels(1)))


async def test_a_deadline_in_the_queue_ends_the_job_when_it_passes(bench):
    """Not before, and without the engine's help; what comes after it is served."""
    held = await bench.hold_engine("a", "b")
    late = bench.start("c", pixels(1), deadline=now() + 5.0)
    later = bench.start("d", pixels(1), deadline=now() + 50.0)
    await advance(4.9)
    assert not late.done()
    await advance(0.2)
    with pytest.raises(DeadlineExceeded):
        await late
    assert bench.released == ["c"]
    bench.engine.gate.set()
    await asyncio.gather(later, *held)
    assert bench.engine.batches == [[1], [1], [1]]


async def test_a_deadline_that_has_passed_is_refused_and_the_lease_ended(bench):
    """It never comes into the queue."""
    with pytest.raises(DeadlineExceeded):
        await bench.start("a", pixels(1), deadline=now())
    assert bench.released == ["a"]
    assert not bench.engine.batches


async def test_a_full_queue_refuses_and_ends_the_lease(bench):
    """What is taken is served, what is not gets an error that says when to come back."""
    held = await bench.hold_engine("a", "b")
    taken = bench.start("c", pixels(50))
    refused = bench.start("c", pixels(1))
    with pytest.raises(Overloaded):
        await refused
    with pytest.raises(TooManyImages):
        await bench.start("c", pixels(101))
    assert bench.released == ["c", "c"]
    bench.engine.gate.set()
    await asyncio.gather(taken, *held)


async def test_the_window_collects_company_while_the_engine_is_busy():
    """A batch for a busy engine is cut when the window ends, and one for an idle engine at once."""
    bench = Bench(window=2.0)
    (held,) = await bench.hold_engine("a")
    jobs = [bench.start("b", pixels(1))]
    await advance(1.5)
    jobs.append(bench.start("c", pixels(1)))
    await advance(1.0)
    assert bench.queue.images == 0
    bench.engine.gate.set()
    await asyncio.gather(held, *jobs)
    assert bench.engine.batches == [[1], [1, 1]]
    await bench.dispatcher.close(HANGS)


async def test_shutting_down_finishes_what_was_taken_and_refuses_the_rest(bench):
    """Jobs in the queue and in the engine get their answers; new ones an error."""
    held = await bench.hold_engine("a", "b")
    waiting = bench.start("c", pixels(12))
    await breathe()
    closing = asyncio.create_task(bench.dispatcher.close(HANGS))
    await breathe()
    with pytest.raises(ShuttingDown):
        await bench.start("d", pixels(1))
    assert not closing.done()
    bench.engine.gate.set()
    await closing
    answers = await answers_of([*held, waiting])
    assert torch.equal(answers[2], expected("c", pixels(12)))
    assert bench.queue.images == 0


async def test_shutting_down_with_a_stuck_engine_still_ends_every_job(bench):
    """When the grace is over, jobs in the queue and in the engine end with an error."""
    held = await bench.hold_engine("a", "b")
    waiting = bench.start("c", pixels(12))
    await breathe()
    closing = asyncio.create_task(bench.dispatcher.close(3.0))
    await breathe()
    await advance(3.1)
    await closing
    for error in await answers_of([*held, waiting]):
        assert isinstance(error, ShuttingDown)
    assert bench.released == ["c"]
    bench.engine.gate.set()
    await until(lambda: sorted(bench.released) == ["a", "b", "c"])


async def test_the_times_of_an_answer_are_those_of_its_phases(bench):
    """Waiting counts as queue time until the first image runs."""
    held = await bench.hold_engine("a")
    job = bench.start("b", pixels(1))
    await breathe()
    await advance(3.0)
    bench.engine.gate.set()
    answer = await job
    assert (answer.queue_seconds, answer.compute_seconds) == (3.0, 0.0)
    (first,) = await asyncio.gather(*held)
    assert (first.queue_seconds, first.compute_seconds) == (0.0, 3.0)


async def test_answers_never_cross(bench):
    """In 2,000 jobs, however they are batched, each gets its adapter's answer on its images."""
    keys = itertools.cycle("abcd")
    bench.queue._capacity = 10**6
    bench.dispatcher._metrics = NullMetrics()
    images_of = [pixels(1 + n % 3, seed=n) for n in range(21)]
    for _ in range(4):
        work = [(next(keys), images_of[n % 21]) for n in range(500)]
        answers = await answers_of([bench.start(key, images) for key, images in work])
        for (key, images), answer in zip(work, answers, strict=True):
            assert torch.equal(answer, expected(key, images))
    assert len(bench.released) == 2_000


async def test_the_engine_counts_denormal_numbers_as_zero(bench):
    """In all its threads; nobody else's adapter waits for a processor that is slow at them."""
    seen = []

    def model(images):
        seen.append((torch.full((2**22,), 1e-39) * 0.5).count_nonzero().item())
        return torch.zeros(len(images), 2)

    assert (torch.full((2**22,), 1e-39) * 0.5).count_nonzero() == 2**22
    bench.engine.models["a"] = model
    await bench.start("a", pixels(1))
    assert seen == [0]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.data())
def test_rows_of_a_batch_are_the_images_of_its_parts(data):
    """However parts share tensors of either kind, rows are their images, and none is in twice."""
    payloads = [pixels(5, seed=n) for n in range(3)]
    for which in range(data.draw(st.integers(0, 3))):
        payloads[which] = payloads[which].permute(0, 3, 1, 2).float() / 255
    segments, rows, distinct = [], [], set()
    for number in range(data.draw(st.integers(1, 3))):
        parts = []
        for _ in range(data.draw(st.integers(1, 3))):
            which = data.draw(st.integers(0, 2))
            start = data.draw(st.integers(0, 4))
            stop = data.draw(st.integers(start + 1, 5))
            item = WorkItem(0, TaskKey("t", "t"), Slot(number), 5, payloads[which], 0.0)
            parts.append(Part(item, start, stop))
            rows += payloads[which][start:stop]
            distinct |= {(which, image) for image in range(start, stop)}
        segments.append(Segment(Slot(number), tuple(parts)))
    batch = assemble(Batch(tuple(segments)))
    images = [*batch.images, *([] if batch.normalised is None else batch.normalised)]
    numbers = range(len(images)) if batch.rows is None else batch.rows.tolist()
    for number, row in zip(numbers, rows, strict=True):
        assert torch.equal(images[number], row)
    assert len(images) == batch.distinct_images == len(distinct)
    assert [(s.slot, s.rows) for s in batch.segments] == [(s.key, s.images) for s in segments]
