"""What every implementation of `Records` has to do."""

import asyncio

import pytest

from adapters.store.opening import open_records

pytestmark = pytest.mark.anyio


@pytest.fixture
async def records(index_url):
    """Fresh records."""
    records = open_records(index_url)
    yield records
    await records.close()


async def _all(records, since=0):
    return [
        (record.kind, record.name, record.document)
        for record in await records.since(since, limit=1_000)
    ]


async def test_a_new_store_is_empty(records):
    """No revision, no record."""
    assert await records.newest() == 0
    assert await _all(records) == []


async def test_what_was_put_comes_back_in_the_order_of_writing(records):
    """Kinds and names keep apart; any JSON object survives."""
    document = {"text": "é\u0000\"'", "number": 1.5, "list": [1, None, True], "nested": {"a": {}}}
    for kind, name in [("key", "b"), ("tenant", "b"), ("key", "a")]:
        await records.put(kind, name, document)
    assert await _all(records) == [
        ("key", "b", document),
        ("tenant", "b", document),
        ("key", "a", document),
    ]


async def test_a_later_write_takes_the_place_of_an_earlier_one(records):
    """And moves behind all that were written before it."""
    first = await records.put("key", "a", {"n": 1})
    await records.put("key", "b", {"n": 2})
    last = await records.put("key", "a", {"n": 3})
    assert await _all(records) == [("key", "b", {"n": 2}), ("key", "a", {"n": 3})]
    assert last > first
    assert await records.newest() == last


async def test_a_removed_record_is_heard_of(records):
    """It comes with no document, so that readers learn of it."""
    seen = await records.put("key", "a", {"n": 1})
    await records.put("key", "a", None)
    assert await _all(records, seen) == [("key", "a", None)]


async def test_a_reader_that_goes_on_from_what_it_saw_misses_nothing(records):
    """Page by page, whatever is written in between."""
    known, seen = {}, 0
    for step in range(30):
        await records.put("key", str(step % 7), {"n": step})
        for record in await records.since(seen, limit=2):
            known[record.name], seen = record.document, record.revision
    while page := await records.since(seen, limit=2):
        assert len(page) <= 2
        for record in page:
            known[record.name], seen = record.document, record.revision
    assert known == {str(step % 7): {"n": step} for step in range(23, 30)}
    assert seen == await records.newest()


async def test_two_servers_see_each_other(records, index_url):
    """Writes through one are read through the other, and revisions are never shared."""
    other = open_records(index_url)
    try:
        puts = [
            each.put("key", f"{place}-{number}", {})
            for number in range(20)
            for place, each in enumerate((records, other))
        ]
        revisions = await asyncio.gather(*puts)
        assert sorted(revisions) == [*range(1, 41)]
        assert await _all(records) == await _all(other)
        assert len(await _all(other)) == 40
    finally:
        await other.close()


async def test_records_outlive_the_process_that_wrote_them(index_url):
    """Close, open, read."""
    first = open_records(index_url)
    await first.put("key", "a", {"n": 1})
    await first.close()
    second = open_records(index_url)
    assert await _all(second) == [("key", "a", {"n": 1})]
    await second.close()


async def test_the_index_is_not_disturbed(records, index, register):
    """Both lie at the same URL and count for themselves."""
    await register()
    await records.put("key", "a", {})
    assert await index.last_change() == 1
    assert await records.newest() == 1
