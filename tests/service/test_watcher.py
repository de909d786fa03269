"""The watcher: whatever others change is noticed, and nothing stops it."""

import asyncio

import pytest
import structlog

from adapters.errors import StoreUnavailable
from adapters.store.index import TaskKey
from adapters.store.sqlite import SECONDS_BETWEEN_LOOKS, SqliteIndex
from service.cache import watcher as module
from service.cache.resolver import Resolver
from service.cache.watcher import Watcher
from tests.service.fakes import ANYIO_BACKEND, advance, now, until

OURS = "a" * 64
PERIOD = 2.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


class Replica:
    """One server's view of a shared index."""

    def __init__(self, path):
        self.path = path
        self.index = SqliteIndex(path)
        self.resolver = Resolver(self.index, OURS, capacity=1_000)
        self.proofs = 0
        self.watcher = Watcher(self.index, self.resolver, self.prove, period=PERIOD)

    async def prove(self):
        """Count the looks at what is pending."""
        self.proofs += 1

    async def version(self, task="flowers"):
        """The version that this server takes for the active one."""
        return (await self.resolver.resolve("default", task)).version


@pytest.fixture
async def replica(tmp_path):
    """A server."""
    replica = Replica(tmp_path / "index.db")
    yield replica
    await replica.index.close()


@pytest.fixture
async def other(replica):
    """Another process's connection to the same index."""
    index = SqliteIndex(replica.path)
    yield index
    await index.close()


async def activate(index, number, task="flowers"):
    """Register a version and make it the active one."""
    key = TaskKey(task=task)
    version = await index.register(
        key, f"{number:064x}", fingerprint=OURS, size=1, metadata={}, now=0
    )
    await index.set_state(key, version.version, "ready", now=0)
    expected = (await index.get_task(key)).active.get(OURS)
    await index.activate(key, version.version, expected=expected, now=0)


async def end(watching):
    """Cancel a watcher and wait for its end."""
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_switch_elsewhere_is_noticed_by_the_next_read(replica, other):
    """Only the task that changed is asked about again."""
    await activate(other, 1)
    await activate(other, 1, "birds")
    await replica.watcher.read_changes()
    assert (await replica.version(), await replica.version("birds")) == (1, 1)
    await activate(other, 2)
    assert await replica.version() == 1
    await replica.watcher.read_changes()
    assert await replica.version() == 2
    replica.index.resolve = None
    assert await replica.version("birds") == 1


async def test_what_was_known_before_the_first_read_is_not_trusted(replica, other):
    """A change between the first request and the first read is noticed too."""
    await activate(other, 1)
    await replica.version()
    await activate(other, 2)
    await replica.watcher.read_changes()
    assert await replica.version() == 2


async def test_many_changes_are_read_in_pages(replica, other, monkeypatch):
    """However many happened since the last read, all are noticed by the next one."""
    monkeypatch.setattr(module, "CHANGES_PER_READ", 2)
    await replica.watcher.read_changes()
    for number in (1, 2, 3):
        await activate(other, number)
        await activate(other, number, "birds")
    await replica.watcher.read_changes()
    assert replica.watcher._seen == await other.last_change()


async def test_a_deleted_task_is_not_even_served_in_an_outage(replica, other):
    """Of a task that changed the old version is better than none; of one that is gone, not."""
    for task in ("flowers", "birds"):
        await activate(other, 1, task)
        await replica.version(task)
    await replica.watcher.read_changes()
    await activate(other, 2)
    await other.delete_task(TaskKey(task="birds"), now=0)
    await replica.watcher.read_changes()

    async def unreachable(*_):
        raise StoreUnavailable("The disk is gone.")

    replica.index.resolve = unreachable
    assert await replica.version() == 1
    with pytest.raises(StoreUnavailable):
        await replica.version("birds")


async def test_trimmed_changes_make_everything_unknown(replica, other, monkeypatch):
    """A server that missed events believes nothing that it knew."""
    await activate(other, 1)
    await replica.watcher.read_changes()
    await replica.version()
    monkeypatch.setattr("adapters.store.sqlite_writes.KEPT_CHANGES", 1)
    await activate(other, 2)
    await activate(other, 1, "birds")
    await replica.watcher.read_changes()
    assert await replica.version() == 2
    assert replica.watcher._seen == await other.last_change()


async def test_an_index_restored_from_a_backup_makes_everything_unknown(replica, other):
    """Where the newest event is older than what was seen, all may be different."""
    await activate(other, 1)
    await replica.watcher.read_changes()
    await replica.version()
    replica.watcher._seen += 5
    await activate(other, 2)
    await replica.watcher.read_changes()
    assert await replica.version() == 2
    assert replica.watcher._seen == await other.last_change()


async def test_it_looks_once_a_period_and_outlives_every_error(replica):
    """A failing index, even a bug, costs that look and no other; the next one comes soon."""
    reads = []
    failures = [StoreUnavailable("The disk is gone."), ZeroDivisionError()]

    async def sometimes():
        reads.append(now())
        if failures:
            raise failures.pop()
        return 0

    async def never(_since, *, timeout):
        await asyncio.sleep(timeout)

    replica.index.last_change = sometimes
    replica.index.wait_for_change = never
    begin = now()
    with structlog.testing.capture_logs() as logs:
        watching = asyncio.create_task(replica.watcher.run())
        for look, passing in enumerate((module.RETRY_SECONDS, module.RETRY_SECONDS, PERIOD), 1):
            await until(lambda look=look: len(reads) == look)
            await advance(module.PAUSE)
            await advance(passing)
        await until(lambda: len(reads) == 4)
    passed = [round(time - begin) for time in reads]
    assert passed == [0, module.RETRY_SECONDS, 2 * module.RETRY_SECONDS, 2 + PERIOD]
    assert [entry["event"] for entry in logs] == ["step_failed"] * 2
    await end(watching)


async def test_a_hint_is_followed_at_once(replica, other):
    """A change elsewhere is known here although the period has not begun to pass."""
    await activate(other, 1)
    watching = asyncio.create_task(replica.watcher.run())
    await until(lambda: replica.watcher._seen == 3)
    assert await replica.version() == 1
    await activate(other, 2)
    newest = await other.last_change()
    await advance(module.PAUSE)
    await advance(SECONDS_BETWEEN_LOOKS)
    await until(lambda: replica.watcher._seen == newest)
    assert await replica.version() == 2
    await end(watching)


async def test_after_an_outage_nothing_is_taken_for_certain(replica, other):
    """A crashed index may have lost changes and reused their numbers: all is asked for anew."""
    await activate(other, 1)
    watching = asyncio.create_task(replica.watcher.run())
    await until(lambda: replica.watcher._seen == 3)
    assert await replica.version() == 1
    await activate(other, 2)
    replica.watcher._seen = await other.last_change()  # as if other changes had had these numbers

    async def gone(*_, **__):
        del replica.index.wait_for_change
        raise StoreUnavailable("Redis was killed.")

    replica.index.wait_for_change = gone
    await advance(module.PAUSE)
    await until(lambda: replica.watcher._seen is None)
    await advance(module.RETRY_SECONDS)
    await until(lambda: replica.watcher._seen is not None)
    assert await replica.version() == 2
    await end(watching)


async def test_a_long_proof_delays_no_change(replica, other):
    """Changes are read while the proofs of pending versions are under way."""
    hanging = asyncio.Event()
    replica.watcher._prove_pending = hanging.wait
    watching = asyncio.create_task(replica.watcher.run())
    await until(lambda: replica.watcher._seen is not None)
    await activate(other, 1)
    await replica.version()
    await activate(other, 2)
    newest = await other.last_change()
    await advance(PERIOD + 0.1)
    await until(lambda: replica.watcher._seen == newest)
    assert await replica.version() == 2
    await end(watching)
