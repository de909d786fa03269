"""Releases on the whole service below HTTP: canary, promotion and rollback under load, pins."""

import asyncio
import math
import random

import pytest
from scipy.stats import binomtest
from structlog.testing import capture_logs

from adapters.errors import PointerMoved, UnknownTask, UnknownVersion, VersionInUse, VersionNotReady
from adapters.store.index import TaskKey
from service.cache.resolver import Resolver
from service.engines.folded import fold_adapter
from service.errors import DeadlineExceeded, Overloaded, TaskNotFound
from service.pinning import Pinning
from service.types import TaskKey as Name
from tests import makers
from tests.service.fakes import (
    ANYIO_BACKEND,
    FakeEngine,
    advance,
    breathe,
    checkpoints,
    predictions_of,
    service,
    until,
)

pytestmark = pytest.mark.anyio
FLOWERS, FLOWERS_NAME = TaskKey(task="flowers"), Name("default", "flowers")
ONE_IMAGE = makers.pixels(1, 160, 160, 0).numpy()


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


@pytest.fixture(scope="module")
def made():
    """Two versions."""
    return checkpoints(2)


@pytest.fixture
def engine(made):
    """An engine that runs them."""
    return FakeEngine(predictions_of(made))


@pytest.fixture
async def stack(tmp_path, engine, made):
    """A service with one active version and a second one that only was proved."""
    async with service(tmp_path, engine, draw=random.Random(0).random) as stack:
        await stack.manager.register(FLOWERS, made[0].data)
        await stack.manager.register(FLOWERS, made[1].data, activate=False)
        yield stack


def _ask(stack, **options):
    return stack.predictor.predict("default", "flowers", ONE_IMAGE, deadline=math.inf, **options)


async def _served(stack, count, **options):
    """The versions that answered."""
    return [(await _ask(stack, **options)).version for _ in range(count)]


async def test_a_version_can_be_registered_without_becoming_active(stack, made):
    """It is ready and can be asked for; registering it again as usual makes it active."""
    assert await _served(stack, 3) == [1, 1, 1]
    assert await _served(stack, 1, version=2) == [2]
    await stack.manager.prove_pending()
    assert await _served(stack, 1) == [1]
    await stack.manager.register(FLOWERS, made[1].data)
    assert await _served(stack, 1) == [2]


async def test_what_a_dead_server_left_pending_does_not_become_active_either(stack):
    """Another server proves it later, and remembers that nobody wanted it active."""
    third = makers.checkpoint("test_resnet", classes=4, seed=7)
    stack.engine.models |= predictions_of([third])
    version = await stack.registry.register(FLOWERS, third.data, activate=False, now=0)
    await stack.manager.prove_pending()
    assert (await stack.index.get_version(FLOWERS, version.version)).state == "ready"
    assert await _served(stack, 1) == [1]


async def test_a_canary_gets_its_share(stack):
    """Ten percent of 600 requests without a key, within what chance allows; then none again."""
    await stack.releases.start_canary(FLOWERS, 2, 10)
    versions = await _served(stack, 600)
    assert binomtest(versions.count(2), 600, 0.1).pvalue > 0.001
    await stack.releases.end_canary(FLOWERS)
    assert {*await _served(stack, 100)} == {1}


async def test_a_key_sticks_and_a_named_version_is_not_drawn(stack):
    """Each of 40 keys sees one version only, both versions are seen, and a name is a name."""
    await stack.releases.start_canary(FLOWERS, 2, 50)
    seen = [{*await _served(stack, 4, canary_key=str(key))} for key in range(40)]
    assert {len(versions) for versions in seen} == {1}
    assert set.union(*seen) == {1, 2}
    assert {*await _served(stack, 20, version=1)} == {1}


async def test_promote_and_roll_back_under_load_with_no_error(stack):
    """Requests keep coming while the pointer moves to and fro; each is answered by one version."""
    answered = []

    async def load(worker):
        while True:
            answered.append((await _ask(stack, canary_key=str(worker))).version)

    async def answered_by(version):
        """From now on, once at least."""
        before = answered.count(version)
        await until(lambda: answered.count(version) > before)

    workers = [asyncio.create_task(load(worker)) for worker in range(8)]
    for _ in range(3):
        await stack.releases.start_canary(FLOWERS, 2, 10)
        await answered_by(1)
        await stack.releases.start_canary(FLOWERS, 2, 100)
        await answered_by(2)
        await stack.releases.activate(FLOWERS, 2)
        assert stack.releases.canary(FLOWERS) is None
        await answered_by(2)
        assert (await stack.manager.rollback(FLOWERS)).version == 1
        await answered_by(1)
    assert not [worker for worker in workers if worker.done()]
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert await _served(stack, 5) == [1] * 5


async def test_requests_in_flight_finish_on_their_version(stack, engine):
    """Begun before the switch, answered after it, by the version that they began with."""
    engine.gate.clear()
    before = [asyncio.create_task(_ask(stack)) for _ in range(3)]
    await breathe()
    await stack.releases.activate(FLOWERS, 2)
    after = [asyncio.create_task(_ask(stack)) for _ in range(3)]
    await breathe()
    engine.gate.set()
    assert [each.version for each in await asyncio.gather(*before, *after)] == [1] * 3 + [2] * 3


async def test_what_gets_traffic_is_loaded_before(stack):
    """A canary and a promoted version are in the engine when the first request comes."""
    digest = (await stack.index.get_version(FLOWERS, 2)).digest
    stack.cache.dismiss(digest)
    assert stack.cache.state(digest) != "device"
    await stack.releases.start_canary(FLOWERS, 2, 1)
    assert stack.cache.state(digest) == "device"
    stack.cache.dismiss(digest)
    await stack.releases.activate(FLOWERS, 2)
    assert stack.cache.state(digest) == "device"


async def test_what_cannot_be_released_is_refused(stack):
    """Unknown, failed, active, or moved meanwhile: a named error, and nothing changes."""
    release = stack.releases
    with pytest.raises(UnknownTask):
        await release.start_canary(TaskKey(task="birds"), 1, 10)
    with pytest.raises(UnknownVersion):
        await release.activate(FLOWERS, 9)
    with pytest.raises(VersionInUse):
        await release.start_canary(FLOWERS, 1, 10)
    with pytest.raises(PointerMoved):
        await release.activate(FLOWERS, 2, expected=2)
    third = makers.checkpoint("test_resnet", classes=4, seed=7)
    await stack.registry.register(FLOWERS, third.data, now=0)
    for attempt in (release.activate(FLOWERS, 3), release.start_canary(FLOWERS, 3, 10)):
        with pytest.raises(VersionNotReady):
            await attempt
    with pytest.raises(UnknownTask):
        await release.end_canary(TaskKey(task="birds"))
    assert await _served(stack, 1) == [1]
    assert release.canary(FLOWERS) is None


async def test_a_version_is_retired_when_nothing_needs_it(stack):
    """Not while it is active or the canary; afterwards nobody finds it."""
    with pytest.raises(VersionInUse):
        await stack.releases.retire(FLOWERS, 1)
    await stack.releases.start_canary(FLOWERS, 2, 10)
    with pytest.raises(VersionInUse, match="canary"):
        await stack.releases.retire(FLOWERS, 2)
    await stack.releases.end_canary(FLOWERS)
    assert await _served(stack, 1, version=2) == [2]
    await stack.releases.retire(FLOWERS, 2)
    with pytest.raises(TaskNotFound):
        await _ask(stack, version=2)


async def test_a_canary_that_is_gone_leaves_its_requests_to_the_active_version(stack):
    """Another server retired it; and a task that was deleted takes its canary along."""
    await stack.releases.start_canary(FLOWERS, 2, 100)
    await stack.index.retire(FLOWERS, 2, now=1)
    stack.resolver.doubt(FLOWERS)
    assert await _served(stack, 2) == [1, 1]
    await stack.manager.delete(FLOWERS)
    assert stack.releases.canary(FLOWERS) is None


async def test_versions_are_compared_while_there_is_a_canary(stack):
    """Each prediction is reported with its version and its end, and none without a canary."""
    await _served(stack, 1)
    stack.metrics.compared.assert_not_called()
    await stack.releases.start_canary(FLOWERS, 2, 100)
    await _served(stack, 1)
    stack.engine.poisoned.add((await stack.index.get_version(FLOWERS, 2)).digest)
    with pytest.raises(Exception, match="engine raised"):
        await _ask(stack)
    reported = [call.args[:3] for call in stack.metrics.compared.call_args_list]
    assert reported == [(FLOWERS_NAME, 2, "ok"), (FLOWERS_NAME, 2, "EngineFailed")]


async def test_a_version_that_is_too_slow_is_told_from_clients_that_leave(stack, engine):
    """Both end by a cancellation; only the first is the version's own failure."""
    await stack.releases.start_canary(FLOWERS, 2, 100)
    await _served(stack, 1)
    stack.metrics.compared.reset_mock()
    engine.gate.clear()
    soon = asyncio.get_running_loop().time() + 5
    late = asyncio.create_task(
        stack.predictor.predict("default", "flowers", ONE_IMAGE, deadline=soon)
    )
    left = asyncio.create_task(_ask(stack))
    await breathe()
    left.cancel()
    await advance(6)
    ended = await asyncio.gather(late, left, return_exceptions=True)
    engine.gate.set()
    assert [type(error) for error in ended] == [DeadlineExceeded, asyncio.CancelledError]
    reported = {call.args[2] for call in stack.metrics.compared.call_args_list}
    assert reported == {"DeadlineExceeded", "RequestCancelled"}


async def test_a_pinned_task_stays_and_follows_its_active_version(tmp_path, made):
    """With room for one adapter nobody drives it out; unpinned it goes like any other."""
    size = max(fold_adapter(checkpoint).nbytes() for checkpoint in made)
    engine = FakeEngine(predictions_of(made), capacity=size)
    async with service(tmp_path, engine, proofs=False) as stack:
        for key, checkpoint in ((FLOWERS, made[0]), (TaskKey(task="birds"), made[1])):
            await stack.manager.register(key, checkpoint.data)
        await stack.pinning.pin(FLOWERS_NAME)
        refused = asyncio.create_task(
            stack.predictor.predict("default", "birds", ONE_IMAGE, deadline=math.inf)
        )
        await until(lambda: stack.cache.state(made[1].digest) == "placing")
        await advance(60)
        with pytest.raises(Overloaded):
            await refused
        await stack.pinning.unpin(FLOWERS_NAME)
        await stack.predictor.predict("default", "birds", ONE_IMAGE, deadline=math.inf)
        assert stack.cache.state(made[0].digest) != "device"


async def test_pins_follow_promotions_and_deletions(stack, made):
    """After the next look the new active version is held and the old one is not."""
    await stack.pinning.pin(FLOWERS_NAME)
    assert stack.device._residents.pinned_bytes > 0
    await stack.releases.activate(FLOWERS, 2)
    await stack.pinning.keep()
    held = {digest for digest, _ in stack.pinning._held.values()}
    assert held == {made[1].digest}
    await stack.manager.delete(FLOWERS)
    await stack.pinning.keep()
    assert stack.device._residents.pinned_bytes == 0
    with pytest.raises(TaskNotFound):
        await stack.pinning.pin(Name("default", "nothing"))


async def test_a_pin_is_no_concern_of_servers_with_another_backbone(stack):
    """While tasks move to a new backbone, their pins are there before they are."""
    await stack.pinning.pin(FLOWERS_NAME)
    resolver = Resolver(stack.index, "0" * 64, capacity=10)
    elsewhere = Pinning(stack.pinning._policies, resolver, stack.cache)
    with capture_logs() as logged:
        await elsewhere.keep()
    assert not logged
    assert not elsewhere._held
