"""From a task's name to a version: what is kept, what is not, and when it is forgotten."""

import asyncio

import pytest

from adapters.errors import StoreUnavailable
from adapters.store.index import TaskKey
from adapters.store.sqlite import SqliteIndex
from service.cache.resolver import OUTAGE_SECONDS, Resolver
from service.errors import BackboneConflict, TaskNotFound

OURS, OTHER = "a" * 64, "b" * 64
FLOWERS = TaskKey(task="flowers")

pytestmark = pytest.mark.anyio


@pytest.fixture
async def index(tmp_path):
    """A fresh index that counts what is read."""
    index = SqliteIndex(tmp_path / "index.db")
    index.reads = 0
    read = index._read

    def counted(*args):
        index.reads += 1
        return read(*args)

    index._read = counted
    yield index
    await index.close()


@pytest.fixture
def resolver(index):
    """A resolver for our backbone."""
    return Resolver(index, OURS, capacity=10)


async def activate(index, number, key=FLOWERS, fingerprint=OURS):
    """Register a version and make it the active one."""
    version = await index.register(
        key, f"{number:064x}", fingerprint=fingerprint, size=1, metadata={}, now=0
    )
    await index.set_state(key, version.version, "ready", now=0)
    expected = (await index.get_task(key)).active.get(fingerprint)
    await index.activate(key, version.version, expected=expected, now=0)
    index.reads = 0
    return version


async def test_a_known_task_costs_no_read(index, resolver):
    """The index is asked once, for the active version and for each numbered one."""
    version = await activate(index, 1)
    for _ in range(3):
        assert await resolver.resolve("default", "flowers") == version.ref
        assert await resolver.resolve("default", "flowers", 1) == version.ref
    assert index.reads == 2


async def test_a_forgotten_task_is_read_anew(index, resolver):
    """After a switch and `forget` the new version is the answer, and the old has its number."""
    await activate(index, 1)
    await resolver.resolve("default", "flowers")
    await activate(index, 2)
    assert (await resolver.resolve("default", "flowers")).version == 1
    resolver.doubt(FLOWERS)
    assert (await resolver.resolve("default", "flowers")).version == 2
    assert (await resolver.resolve("default", "flowers", 1)).version == 1


async def test_numbered_versions_are_doubted_with_their_task(index, resolver):
    """One by one or all together: a version that is gone is not served after that."""
    await activate(index, 1)
    for doubt in (lambda: resolver.doubt(FLOWERS), resolver.doubt_all):
        await resolver.resolve("default", "flowers", 1)
        reads = index.reads
        doubt()
        await resolver.resolve("default", "flowers", 1)
        assert index.reads == reads + 1
    await index.delete_task(FLOWERS, now=0)
    resolver.doubt(FLOWERS)
    with pytest.raises(TaskNotFound):
        await resolver.resolve("default", "flowers", 1)
    assert not resolver._known


async def test_an_unknown_task_is_asked_about_every_time(index, resolver):
    """A task that comes into being is there at once."""
    with pytest.raises(TaskNotFound):
        await resolver.resolve("default", "flowers")
    await activate(index, 1)
    assert (await resolver.resolve("default", "flowers")).version == 1


async def test_a_change_during_a_read_is_not_overlooked(index, resolver):
    """What was read before a change must not be kept after it."""
    await activate(index, 1)
    reading = asyncio.create_task(resolver.resolve("default", "flowers"))
    await asyncio.sleep(0)
    resolver.doubt(FLOWERS)
    await reading
    await activate(index, 2)
    assert (await resolver.resolve("default", "flowers")).version == 2


@pytest.mark.parametrize(
    ("tenant", "task", "version"),
    [
        ("other", "flowers", None),
        ("default", "flowers", 9),
        ("default", "birds", 1),
        ("default", "../../etc", None),
        ("Not A Tenant", "flowers", None),
    ],
)
async def test_what_a_tenant_does_not_have_is_not_found(index, resolver, tenant, task, version):
    """Another tenant's task, an unknown version, and names that no task can have."""
    await activate(index, 1)
    with pytest.raises(TaskNotFound):
        await resolver.resolve(tenant, task, version)


async def test_a_task_for_another_backbone_is_a_conflict(index, resolver):
    """It exists, and is never served by the wrong one, by name or by number."""
    await activate(index, 1, fingerprint=OTHER)
    for version in (None, 1):
        with pytest.raises(BackboneConflict):
            await resolver.resolve("default", "flowers", version)


async def unreachable(*_args):
    """An index that is gone."""
    raise StoreUnavailable("The disk is gone.")


async def test_without_the_index_what_is_known_is_served(index, resolver):
    """An index that cannot be reached stops unknown tasks only, however old what is known is."""
    await activate(index, 1)
    await resolver.resolve("default", "flowers")
    index.resolve = unreachable
    for doubt in (lambda: None, lambda: resolver.doubt(FLOWERS), resolver.doubt_all):
        doubt()
        assert (await resolver.resolve("default", "flowers")).version == 1
    with pytest.raises(StoreUnavailable):
        await resolver.resolve("default", "birds")


async def test_an_outage_is_felt_by_one_request_in_a_while(index):
    """The others do not wait to learn what one has just learnt, and its end is noticed."""
    time = 100.0
    resolver = Resolver(index, OURS, capacity=10, clock=lambda: time)
    await activate(index, 1)
    await resolver.resolve("default", "flowers")
    resolver.doubt_all()
    resolve, asked = index.resolve, []

    async def gone(*args):
        asked.append(args)
        return await unreachable()

    index.resolve = gone
    for _ in range(5):
        await resolver.resolve("default", "flowers")
    assert len(asked) == 1
    index.resolve = resolve
    await activate(index, 2)
    time += OUTAGE_SECONDS
    assert (await resolver.resolve("default", "flowers")).version == 2


async def test_what_was_read_during_a_change_is_known_in_an_outage(index, resolver):
    """It is asked about again, but if the index goes away meanwhile, it is better than nothing."""
    version = await activate(index, 1)
    reading = asyncio.create_task(resolver.resolve("default", "flowers"))
    await asyncio.sleep(0)
    resolver.doubt(TaskKey(task="birds"))
    await reading
    reads = index.reads
    assert await resolver.resolve("default", "flowers") == version.ref
    assert index.reads == reads + 1
    resolver.doubt_all()
    index.resolve = unreachable
    assert await resolver.resolve("default", "flowers") == version.ref


async def test_what_was_made_active_here_is_known_in_an_outage(index, resolver):
    """A switch that was acknowledged is served, although the index went away right after it."""
    version = await activate(index, 1)
    index.resolve = unreachable
    resolver.doubt(FLOWERS, version.ref)
    assert await resolver.resolve("default", "flowers") == version.ref


async def test_memory_is_bounded(index, resolver):
    """The tasks used least recently are forgotten."""
    for number in range(15):
        await activate(index, number + 1, TaskKey(task=f"t{number}"))
        await resolver.resolve("default", f"t{number}")
    assert len(resolver._known) == 10
