"""Predictions from end to end below HTTP: right answers, and no request that hurts another."""

import asyncio
import math
from functools import partial
from unittest.mock import call

import numpy as np
import pytest
import torch

from adapters.store.index import TaskKey
from service.errors import (
    AdapterLoadFailed,
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    RateLimited,
    TaskNotFound,
    TooManyImages,
    TooManyLabels,
)
from service.limits import TenantLimits
from service.types import TaskKey as Task
from tests import makers
from tests.service.fakes import (
    ANYIO_BACKEND,
    FakeEngine,
    RealEngine,
    advance,
    breathe,
    checkpoints,
    now,
    predictions_of,
    service,
    until,
)

pytestmark = pytest.mark.anyio
TASKS = ("flowers", "birds", "cars")


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


@pytest.fixture(scope="module")
def made():
    """A checkpoint for each task."""
    return dict(zip(TASKS, checkpoints(3), strict=True))


@pytest.fixture
def engine(made):
    """An engine that runs them."""
    return FakeEngine(predictions_of([*made.values()]))


@pytest.fixture
async def stack(tmp_path, engine, made):
    """A service that has the three tasks, all cold but proved."""
    async with service(tmp_path, engine, proofs=False, in_flight=40) as stack:
        for task in TASKS:
            await activate(stack, task, made[task])
        yield stack


async def activate(stack, task, checkpoint):
    """Make a checkpoint the active version, without loading it."""
    key = TaskKey(task=task)
    version = await stack.registry.register(key, checkpoint.data, now=0)
    await stack.index.set_state(key, version.version, "ready", now=0)
    active = (await stack.index.get_task(key)).active.get(stack.engine.spec.fingerprint)
    await stack.index.activate(key, version.version, expected=active, now=0)
    stack.resolver.doubt(key)
    return version.version


def pixels(count=1, seed=0):
    """Images of the backbone's size."""
    return makers.pixels(count, 160, 160, seed).numpy()


def ask(stack, task, images, **options):
    """Start a prediction."""
    options = {"deadline": math.inf, **options}
    return asyncio.create_task(stack.predictor.predict("default", task, images, **options))


async def warm(stack, *tasks):
    """Have tasks in the engine."""
    for task in tasks:
        await ask(stack, task, pixels())
    stack.engine.batches.clear()


def scores(prediction):
    """The scores of every image by class index [n, classes]; needs all classes."""
    return torch.tensor(
        [[s for _, s in sorted((x.index, x.score) for x in row)] for row in prediction.labels]
    )


def expected(made, task, images):
    """What the one-task path says [n, classes]."""
    model = made[task].model(makers.backbone("test_resnet"))
    return model.predict(torch.from_numpy(images)).softmax(-1)


def pins(stack):
    """Bytes of leased adapters."""
    return stack.device._residents.pinned_bytes


async def test_a_prediction_is_the_models(stack, made):
    """Labels, indices and softmax scores, best first, are those of the one-task path."""
    images = pixels(3)
    prediction = await ask(stack, "birds", images, top_k=9)
    assert (prediction.task, prediction.version) == ("birds", 1)
    torch.testing.assert_close(scores(prediction), expected(made, "birds", images))
    for row in prediction.labels:
        assert [x.label for x in row] == [f"class {x.index}" for x in row]
        assert [x.score for x in row] == sorted((x.score for x in row), reverse=True)
    assert prediction.timing.batch_images == 3
    stack.metrics.request.assert_called_once_with(Task("default", "birds"), "ok")
    assert pins(stack) == 0


async def test_all_logits_come_where_they_are_asked_for(stack, made):
    """Those that the scores were made of, for every class."""
    images = pixels(2)
    prediction = await ask(stack, "birds", images, top_k=1, logits=True)
    softmax = torch.from_numpy(prediction.logits).softmax(-1)
    torch.testing.assert_close(softmax, expected(made, "birds", images))
    assert (await ask(stack, "birds", images)).logits is None


async def test_top_k_cuts_the_list(stack):
    """So many labels for each image, and never more than there are classes."""
    for top_k, length in ((1, 1), (3, 3), (100, 4)):
        prediction = await ask(stack, "cars", pixels(2), top_k=top_k)
        assert [len(row) for row in prediction.labels] == [length] * 2


async def test_an_answer_holds_a_bounded_number_of_labels(stack, engine):
    """Images x tasks x labels: what asks for more is refused before anything is done for it."""
    images = np.broadcast_to(pixels(), (66, *pixels().shape[1:])).copy()
    some = partial(stack.predictor.predict_many, "default", TASKS, deadline=math.inf, top_k=1_000)
    for asked in (ask(stack, "cars", images, top_k=1_000), some(images=images[:22])):
        with pytest.raises(TooManyLabels, match="top_k"):
            await asked
    assert not engine.batches
    prediction = await ask(stack, "cars", images[:64], top_k=1_000)
    assert len(prediction.labels) == 64


async def test_the_text_of_an_answers_labels_is_bounded(stack, monkeypatch):
    """Its bytes: "class 0" has seven of them, and each image and each task repeats it."""
    monkeypatch.setattr("service.predict.MAX_LABEL_BYTES", 7 * 6)
    some = partial(stack.predictor.predict_many, "default", TASKS, deadline=math.inf)
    assert len((await ask(stack, "cars", pixels(3), top_k=2)).labels) == 3
    assert len(await some(images=pixels(2), top_k=1)) == 3
    for asked in (ask(stack, "cars", pixels(4), top_k=2), some(images=pixels(3), top_k=1)):
        with pytest.raises(TooManyLabels, match="text"):
            await asked


async def test_many_labels_are_put_together_alike(stack, monkeypatch):
    """Off the event loop the answer is the same."""
    few = await ask(stack, "cars", pixels(3))
    monkeypatch.setattr("service.predict.MANY_LABELS", 0)
    assert (await ask(stack, "cars", pixels(3))).labels == few.labels


async def test_several_tasks_see_the_same_images_at_once(stack, made, engine):
    """One batch, one copy of the images, the answers in the order of the tasks."""
    await warm(stack, *TASKS)
    engine.gate.clear()
    held = [ask(stack, "flowers", pixels()) for _ in range(2)]
    await until(lambda: engine.batches)
    images = pixels(2, seed=5)
    many = asyncio.create_task(
        stack.predictor.predict_many("default", TASKS, images, deadline=math.inf)
    )
    await breathe()
    engine.gate.set()
    predictions = await many
    await asyncio.gather(*held)
    assert [prediction.task for prediction in predictions] == list(TASKS)
    for prediction in predictions:
        torch.testing.assert_close(scores(prediction), expected(made, prediction.task, images))
        assert (prediction.timing.batch_images, prediction.timing.batch_tasks) == (6, 3)
    assert engine.batches[-1] == [2, 2, 2]


async def test_several_tasks_share_the_first_batch_of_an_idle_engine(stack, engine):
    """The engine does not begin with the first of them while the others are on their way."""
    await warm(stack, *TASKS)
    before = len(engine.batches)
    predictions = await stack.predictor.predict_many(
        "default", TASKS, pixels(2, seed=5), deadline=math.inf
    )
    assert engine.batches[before:] == [[2, 2, 2]]
    assert {prediction.timing.batch_tasks for prediction in predictions} == {3}


async def test_the_first_error_of_several_tasks_is_the_requests(stack):
    """The other tasks' work is dropped, and no lease is left."""
    with pytest.raises(TaskNotFound):
        await stack.predictor.predict_many(
            "default", ["flowers", "nothing", "cars"], pixels(), deadline=math.inf
        )
    await until(lambda: not stack.cache._loads and not stack.dispatcher._flights)
    await until(lambda: pins(stack) == 0)


async def test_a_cancelled_request_leaves_its_neighbours_alone(stack, made, engine):
    """Their answers are those of the one-task path, and the lease comes back."""
    await warm(stack, *TASKS)
    engine.gate.clear()
    images = pixels(2)
    first, second = ask(stack, "flowers", images), ask(stack, "birds", images)
    await until(lambda: engine.batches)
    gone, stays = ask(stack, "cars", images), ask(stack, "birds", images)
    await breathe()
    gone.cancel()
    await breathe()
    engine.gate.set()
    for task, asked in (("flowers", first), ("birds", second), ("birds", stays)):
        torch.testing.assert_close(scores(await asked), expected(made, task, images))
    assert gone.cancelled()
    stack.metrics.request.assert_any_call(Task("default", "cars"), "RequestCancelled")
    assert pins(stack) == 0


async def test_an_adapter_that_raises_leaves_its_neighbours_alone(stack, made, engine):
    """In one batch the poisoned task fails, the others get the one-task path's answers."""
    await warm(stack, *TASKS)
    engine.gate.clear()
    images = pixels(1)
    held = [ask(stack, "flowers", images) for _ in range(2)]
    await until(lambda: engine.batches)
    engine.poisoned.add(made["cars"].digest)
    asked = {task: ask(stack, task, images) for task in TASKS}
    await breathe()
    engine.gate.set()
    with pytest.raises(EngineFailed):
        await asked["cars"]
    for task in ("flowers", "birds"):
        torch.testing.assert_close(scores(await asked[task]), expected(made, task, images))
    await asyncio.gather(*held)
    assert [1, 1, 1] in engine.batches
    assert pins(stack) == 0


@pytest.mark.parametrize("action", ["switch", "rollback", "delete"])
async def test_a_request_in_flight_finishes_on_its_version(stack, made, engine, action):
    """Whatever happens to the task meanwhile; the next request sees the change."""
    key = TaskKey(task="flowers")
    await activate(stack, "flowers", made["birds"])
    engine.gate.clear()
    images = pixels()
    asked = ask(stack, "flowers", images)
    await until(lambda: engine.batches)
    if action == "switch":
        await activate(stack, "flowers", made["cars"])
    elif action == "rollback":
        await stack.manager.rollback(key)
    else:
        await stack.manager.delete(key)
    later = ask(stack, "flowers", images)
    await breathe()
    engine.gate.set()
    prediction = await asked
    assert prediction.version == 2
    torch.testing.assert_close(scores(prediction), expected(made, "birds", images))
    if action == "delete":
        with pytest.raises(TaskNotFound):
            await later
    else:
        version, source = (3, "cars") if action == "switch" else (1, "flowers")
        assert (await later).version == version
        torch.testing.assert_close(scores(await later), expected(made, source, images))


async def test_a_named_version_is_served_beside_the_active_one(stack, made):
    """Each request gets the version that it asked for."""
    await activate(stack, "flowers", made["cars"])
    images = pixels()
    old, new = ask(stack, "flowers", images, version=1), ask(stack, "flowers", images)
    torch.testing.assert_close(scores(await old), expected(made, "flowers", images))
    torch.testing.assert_close(scores(await new), expected(made, "cars", images))


async def test_a_deadline_ends_a_request_in_every_phase(stack, engine):
    """Loading, queued, or in an engine that hangs: the error comes at the deadline."""
    engine.load_gate.clear()
    loading = ask(stack, "birds", pixels(), deadline=now() + 5)
    await until(lambda: stack.cache._loads)
    await advance(6)
    with pytest.raises(DeadlineExceeded):
        await loading
    engine.load_gate.set()
    await warm(stack, *TASKS)
    engine.gate.clear()
    asked = [ask(stack, task, pixels(), deadline=now() + 5) for task in TASKS]
    await until(lambda: engine.batches)
    await advance(6)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 3
    late = [call(Task("default", task), "DeadlineExceeded") for task in TASKS]
    stack.metrics.request.assert_has_calls(late, any_order=True)
    engine.gate.set()
    await until(lambda: pins(stack) == 0)


async def test_a_deadline_that_has_passed_costs_the_engine_nothing(stack, engine):
    """It is refused on the way."""
    await warm(stack, "birds")
    with pytest.raises(DeadlineExceeded):
        await ask(stack, "birds", pixels(), deadline=now() - 1)
    assert not engine.batches


async def test_admission_is_bounded_from_before_the_load(stack, engine):
    """Requests that wait for a cold adapter count, and another tenant's find room."""
    engine.load_gate.clear()
    waiting = [ask(stack, "birds", pixels()) for _ in range(20)]
    await breathe()
    with pytest.raises(Overloaded):
        await ask(stack, "birds", pixels())
    stack.metrics.request.assert_called_once_with(Task("default", "birds"), "Overloaded")
    with pytest.raises(TaskNotFound):
        await stack.predictor.predict("other", "birds", pixels(), deadline=math.inf)
    engine.load_gate.set()
    await asyncio.gather(*waiting)
    await ask(stack, "birds", pixels())


async def test_a_request_larger_than_the_queue_is_refused_for_good(stack):
    """Trying again would not help, and the error says so."""
    stack.queue._capacity = 4
    with pytest.raises(TooManyImages):
        await ask(stack, "birds", pixels(5))
    stack.metrics.request.assert_called_once_with(Task("default", "birds"), "TooManyImages")
    assert pins(stack) == 0


async def test_a_requests_priority_reaches_the_queue(stack, monkeypatch):
    """Of one task, and of each of several."""
    pushed, push = [], stack.queue.push

    def pushing(item):
        pushed.append(item.priority)
        push(item)

    await warm(stack, *TASKS)
    monkeypatch.setattr(stack.queue, "push", pushing)
    await ask(stack, "birds", pixels(), priority=2)
    await stack.predictor.predict_many(
        "default", ["birds", "cars"], pixels(), deadline=math.inf, priority=-3
    )
    assert pushed == [2, -3, -3]


async def test_a_failed_load_is_the_requests_error_only(stack, made):
    """A lost blob fails its own task, by name, while a neighbour goes on."""
    await warm(stack, "flowers")
    stack.blobs.purge(stack.blobs.discard(made["cars"].digest))
    with pytest.raises(AdapterLoadFailed) as failed:
        await ask(stack, "cars", pixels())
    assert failed.value.cause == "BlobMissing"
    await ask(stack, "flowers", pixels())
    stack.metrics.request.assert_any_call(Task("default", "cars"), "AdapterLoadFailed")


async def test_unknown_names_are_not_kept_as_labels(stack):
    """A request for nothing is counted without its name."""
    with pytest.raises(TaskNotFound):
        await ask(stack, "nothing", pixels())
    stack.metrics.request.assert_called_once_with(None, "TaskNotFound")


async def test_random_traffic_over_one_slot_is_right(tmp_path, engine, made):
    """Requests of three tasks with room for one adapter: every answer is its own task's."""
    engine.capacity_bytes = engine.largest_piece = 200_000
    rng = np.random.default_rng(0)
    async with service(tmp_path, engine, proofs=False) as stack:
        for task in TASKS:
            await activate(stack, task, made[task])
        images = {seed: pixels(1, seed) for seed in range(3)}
        right = {(t, s): expected(made, t, images[s]) for t in TASKS for s in images}
        work = [(TASKS[rng.integers(3)], int(rng.integers(3))) for _ in range(20)]
        answers = await asyncio.gather(*(ask(stack, task, images[seed]) for task, seed in work))
        for (task, seed), answer in zip(work, answers, strict=True):
            torch.testing.assert_close(scores(answer), right[task, seed])
        assert pins(stack) == 0
        assert len(engine.slots) == 1


async def test_random_traffic_on_the_real_engine_is_right(tmp_path, made):
    """Proved, mixed and evicted on the torch engine, every answer is the one-task path's."""
    engine = RealEngine(adapters=2)
    rng = np.random.default_rng(0)
    async with service(tmp_path, engine, host_bytes=0) as stack:
        for task in TASKS:
            await activate(stack, task, made[task])
        images = [pixels(1 + seed % 3, seed) for seed in range(4)]
        right = {(t, n): expected(made, t, images[n]) for t in TASKS for n in range(4)}
        for _ in range(3):
            work = [(TASKS[rng.integers(3)], int(rng.integers(4))) for _ in range(20)]
            answers = await asyncio.gather(*(ask(stack, task, images[n]) for task, n in work))
            for (task, n), answer in zip(work, answers, strict=True):
                torch.testing.assert_close(scores(answer), right[task, n], atol=1e-4, rtol=0)
        assert max(answer.timing.batch_tasks for answer in answers) > 1
    stack.metrics.evicted.assert_called_with("device")
    assert pins(stack) == 0


async def test_a_tenant_over_its_limit_is_refused_and_nobody_else(stack):
    """Before its adapter is leased; what is left comes back with every answer."""
    await stack.quotas.override("default", TenantLimits(images_per_second=0.5))
    first = await ask(stack, "birds", pixels(3))
    assert [(each.name, each.remaining) for each in first.allowances] == [("images", 2)]
    with pytest.raises(RateLimited):
        await ask(stack, "birds", pixels(3))
    stack.metrics.request.assert_called_with(None, "RateLimited")
    stack.metrics.limited.assert_called_once_with("default")
    with pytest.raises(TooManyImages):
        await ask(stack, "birds", pixels(6))
    with pytest.raises(TaskNotFound):
        await stack.predictor.predict("other", "birds", pixels(6), deadline=math.inf)
    assert pins(stack) == 0


async def test_several_tasks_are_let_in_together_or_not_at_all(stack):
    """However large a request is, it gets in alone, or is told that it never will."""
    await warm(stack, "flowers", "cars")
    stack.metrics.reset_mock()
    many = partial(stack.predictor.predict_many, "default", ["flowers", "cars"], deadline=math.inf)
    await stack.quotas.override("default", TenantLimits(concurrent_images=3))
    assert len(await many(pixels(2))) == 2
    await stack.quotas.override("default", TenantLimits(images_per_second=0.5))
    with pytest.raises(TooManyImages):
        await many(pixels(3))
    assert [each.remaining for each in (await many(pixels(2)))[0].allowances] == [1]
    with pytest.raises(RateLimited):
        await many(pixels(1))
    assert stack.metrics.limited.mock_calls == [call("default")] * 2
    await stack.quotas.override("default", TenantLimits(requests_per_second=0.2))
    assert [each.remaining for each in (await many(pixels(9)))[1].allowances] == [0]


async def test_a_tenants_weight_goes_along_with_its_work(stack, engine):
    """Behind a closed gate a tenant of fourfold weight gets four images for each of the other."""
    key = TaskKey(tenant="heavy", task="birds")
    version = await stack.registry.register(key, checkpoints(2)[1].data, now=0)
    await stack.index.set_state(key, version.version, "ready", now=0)
    await stack.index.activate(key, version.version, expected=None, now=0)
    await stack.quotas.override("heavy", TenantLimits(priority=1))
    await warm(stack, "flowers")
    await stack.predictor.predict("heavy", "birds", pixels(), deadline=math.inf)
    engine.gate.clear()
    running = [ask(stack, "flowers", pixels(1)) for _ in range(2)]
    await breathe()
    light = [ask(stack, "flowers", pixels(1)) for _ in range(10)]
    heavy = [
        asyncio.create_task(stack.predictor.predict("heavy", "birds", pixels(1), deadline=math.inf))
        for _ in range(13)
    ]
    await breathe()
    engine.batches.clear()
    engine.gate.set()
    await asyncio.gather(*running, *light, *heavy)
    mixed = [sorted(batch) for batch in engine.batches if len(batch) == 2]
    assert mixed[0] == [3, 13]
