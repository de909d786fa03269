"""The mirror of the records: read once, followed, and honest about its age."""

import asyncio

import pytest
import structlog

from adapters.errors import StoreUnavailable
from service.policies import RECORDS_PER_READ
from service.tenants import Key
from tests.service.policy_fakes import Clock, MemoryRecords, policies

pytestmark = pytest.mark.anyio


def _key(number, **changes):
    fields = {
        "id": f"{number:016x}",
        "tenant": "acme",
        "scopes": frozenset({"predict"}),
        "secret_sha256": f"{number:064x}",
        "created_at": 0.0,
    }
    return Key(**{**fields, **changes})


async def _write(records, key):
    await records.put("key", key.id, key.model_dump(mode="json"))


async def test_what_others_write_is_known_after_a_refresh():
    """New, changed and removed records, and a foreign kind that is nobody's business."""
    records = MemoryRecords()
    mirror = policies(records)
    await _write(records, _key(1))
    await _write(records, _key(2))
    await records.put("recipe", "soup", {})
    assert not mirror.has(Key)
    await mirror.refresh()
    assert mirror.get(Key, _key(1).id) == _key(1)
    await _write(records, _key(1, tenant="other"))
    await records.put("key", _key(2).id, None)
    await mirror.refresh()
    assert [*mirror.all(Key).values()] == [_key(1, tenant="other")]


async def test_more_records_than_a_page_are_read_whole():
    """Page after page, and only what is new the next time."""
    records = MemoryRecords()
    for number in range(RECORDS_PER_READ + 5):
        await _write(records, _key(number))
    mirror = policies(records)
    await mirror.refresh()
    assert len(mirror.all(Key)) == RECORDS_PER_READ + 5
    reads = records.reads
    await mirror.refresh()
    assert records.reads == reads + 1


async def test_what_is_put_here_holds_at_once():
    """For whoever put it, and for all others after their next look."""
    records = MemoryRecords()
    here, there = policies(records), policies(records)
    await here.put(_key(1).id, _key(1))
    assert here.get(Key, _key(1).id) == _key(1)
    await there.refresh()
    await there.remove(Key, _key(1).id)
    assert not there.has(Key)
    await here.refresh()
    assert not here.has(Key)


async def test_an_unreadable_record_counts_as_none_and_is_logged():
    """It takes no other one along."""
    records = MemoryRecords()
    await records.put("key", "a", {"id": "nonsense"})
    await _write(records, _key(1))
    mirror = policies(records)
    with structlog.testing.capture_logs() as logs:
        await mirror.refresh()
    assert [*mirror.all(Key).values()] == [_key(1)]
    assert [entry["event"] for entry in logs] == ["policy_unreadable"]


async def test_a_restored_backup_is_read_anew():
    """What was written after the backup is no longer known."""
    records = MemoryRecords()
    mirror = policies(records)
    await _write(records, _key(1))
    await _write(records, _key(2))
    await mirror.refresh()
    del records.written["key", _key(2).id]
    await mirror.refresh()
    assert [*mirror.all(Key).values()] == [_key(1)]


async def test_a_store_that_is_gone_leaves_what_is_known():
    """And says when that was confirmed: when the read began, not when it ended."""
    records, clock = MemoryRecords(), Clock()
    mirror = policies(records, clock=clock)
    assert mirror.confirmed_at is None
    await _write(records, _key(1))
    await mirror.refresh()
    began_at = clock.now
    clock.now += 100
    records.gone = True
    with pytest.raises(StoreUnavailable):
        await mirror.refresh()
    assert mirror.has(Key)
    assert mirror.confirmed_at == began_at


async def test_after_an_outage_everything_is_read_anew():
    """A crashed store may have lost its last write and given its revision to another one."""
    records = MemoryRecords()
    mirror = policies(records)
    await _write(records, _key(1))
    await mirror.refresh()
    records.gone = True
    with pytest.raises(StoreUnavailable):
        await mirror.refresh()
    records.gone = False
    records.written.clear()
    await _write(records, _key(2))
    await mirror.refresh()
    assert [*mirror.all(Key).values()] == [_key(2)]


async def test_however_many_ask_there_is_one_read_and_one_to_come():
    """Each of them knows afterwards what was written before it asked."""
    records = MemoryRecords()
    mirror = policies(records)
    first = asyncio.create_task(mirror.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await _write(records, _key(1))
    reads = records.reads
    later = [asyncio.create_task(mirror.refresh()) for _ in range(50)]
    await asyncio.gather(first, *later)
    assert mirror.has(Key)
    assert records.reads - reads <= 4


async def test_one_who_leaves_takes_nobody_along():
    """A cancelled caller does not cancel the read of the others."""
    records = MemoryRecords()
    mirror = policies(records)
    await _write(records, _key(1))
    leaving, staying = (asyncio.create_task(mirror.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert mirror.has(Key)


async def test_a_write_that_is_not_heard_of_is_still_done():
    """The store went away between writing and reading back: no error, since it is written."""
    records = MemoryRecords()
    mirror = policies(records)
    put = records.put

    async def put_and_go(*arguments):
        await put(*arguments)
        records.gone = True

    records.put = put_and_go
    await mirror.put(_key(1).id, _key(1))
    records.gone = False
    await mirror.refresh()
    assert mirror.has(Key)
