"""What the SQLite index does beyond the contract: files, durability, full disks, bounds."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.errors import (
    CorruptIndex,
    IndexTooNew,
    StoreFull,
    StoreUnavailable,
    UnsupportedStoreUrl,
)
from adapters.store import sqlite_reads, sqlite_writes
from adapters.store.index import TaskKey, Version
from adapters.store.opening import open_index
from adapters.store.sqlite import SqliteIndex

FLOWERS = TaskKey(task="flowers")
RESNET = "a" * 64

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[SqliteIndex]:
    """A fresh index in a directory that is not there yet."""
    index = SqliteIndex(tmp_path / "new" / "index.db")
    yield index
    await index.close()


async def register(index: SqliteIndex, number: int = 1, text: str = "") -> Version:
    """Register the checkpoint of that number."""
    return await index.register(
        FLOWERS, f"{number:064x}", fingerprint=RESNET, size=1, metadata={"text": text}, now=0
    )


async def test_acknowledged_means_synced(index: SqliteIndex) -> None:
    """The file is in WAL mode and every commit waits for the disk."""
    db = index._writer._db
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2


async def test_opening_leaves_nothing_beside_the_index(index: SqliteIndex, tmp_path: Path) -> None:
    """The new file appears under its name, and its construction site is gone."""
    await register(index)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"index.db", "index.db-wal", "index.db-shm"}


async def test_a_newer_schema_is_refused(index: SqliteIndex, tmp_path: Path) -> None:
    """An index of a future release is left alone."""
    index._writer._db.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexTooNew, match="schema 99"):
        SqliteIndex(tmp_path / "new" / "index.db")


async def test_other_files_are_refused(tmp_path: Path) -> None:
    """Neither a text file nor somebody else's database is taken for an index, or changed."""
    (tmp_path / "text").write_text("not a database, but long enough to be looked at" * 99)
    db = sqlite3.connect(tmp_path / "other")
    db.execute("CREATE TABLE theirs (a)")
    db.close()
    for name in ("text", "other"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(CorruptIndex, match=name):
            SqliteIndex(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


async def test_an_unreachable_path_is_told(tmp_path: Path) -> None:
    """A directory in the file's place, or a file in the directory's, is StoreUnavailable."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "index.db"):
        with pytest.raises(StoreUnavailable):
            SqliteIndex(path)


async def test_a_full_disk_is_told_and_loses_nothing(index: SqliteIndex) -> None:
    """A write that finds no space is refused whole; with space again it works."""
    await register(index)
    events = await index.last_change()
    index._writer._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreFull, match="Free some space"):
        await register(index, 2, text="long" * 20_000)
    assert await index.last_change() == events
    index._writer._db.execute("PRAGMA max_page_count = 1000000")
    assert (await register(index, 2, text="long" * 20_000)).version == 2


async def test_a_lock_held_too_long_is_told(index: SqliteIndex, tmp_path: Path) -> None:
    """While another process holds the file, writes fail in the end and reads go on."""
    await register(index)
    other = sqlite3.connect(tmp_path / "new" / "index.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    index._writer._db.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(StoreUnavailable, match="locked"):
        await register(index, 2)
    assert (await index.get_version(FLOWERS, 1)).version == 1
    other.execute("COMMIT")
    other.close()
    assert (await register(index, 2)).version == 2


async def test_reads_do_not_wait_for_writes(index: SqliteIndex) -> None:
    """A read ends while the writing thread is held up."""
    await register(index)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    held = index._writer._thread.submit(
        lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
    )
    writing = asyncio.ensure_future(register(index, 2))
    assert len(await index.list_versions(FLOWERS, limit=9)) == 1
    assert not writing.done()
    release.set()
    assert (await writing).version == 2
    assert held.result()


async def test_old_events_are_trimmed(index: SqliteIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest stay, under their numbers, so that a gap can be seen."""
    monkeypatch.setattr(sqlite_writes, "KEPT_CHANGES", 3)
    for number in range(1, 8):
        await register(index, number)
    assert [event.sequence for event in await index.changes(0, limit=99)] == [5, 6, 7]
    assert await index.last_change() == 7


async def test_old_activations_are_trimmed(
    index: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history of pointers is bounded, and the newest stay."""
    monkeypatch.setattr(sqlite_writes, "KEPT_ACTIVATIONS", 3)
    for number in range(1, 8):
        await register(index, number)
        await index.set_state(FLOWERS, number, "ready", now=0)
        await index.activate(FLOWERS, number, expected=number - 1 or None, now=0)
    kept = index._reader._db.execute("SELECT version FROM activations ORDER BY position")
    assert [version for (version,) in kept] == [5, 6, 7]


async def test_no_operation_scans_a_table(index: SqliteIndex) -> None:
    """Every statement about one task, page, digest or backbone is answered from a key."""
    await register(index)
    await index.set_state(FLOWERS, 1, "ready", now=0)
    await index.activate(FLOWERS, 1, expected=None, now=0)
    statements: list[str] = []
    db = index._reader._db
    db.set_trace_callback(statements.append)
    sqlite_reads.resolve(db, FLOWERS, RESNET)
    sqlite_reads.get_task(db, FLOWERS)
    sqlite_reads.get_version(db, FLOWERS, 1)
    sqlite_reads.list_tasks(db, "default", "", 9)
    sqlite_reads.list_versions(db, FLOWERS, 0, 9)
    sqlite_reads.list_pending(db, RESNET, 9)
    sqlite_reads.is_referenced(db, "0" * 64)
    sqlite_reads.changes(db, 0, 9)
    db.set_trace_callback(None)
    plans = [
        step["detail"]
        for statement in statements
        for step in db.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    assert len(statements) >= 8
    assert all(plan.startswith(("SEARCH", "SCAN CONSTANT ROW", "SCALAR")) for plan in plans), plans


@pytest.mark.parametrize(
    "url",
    ["", "sqlite:///", "sqlite://index.db", "sqlite:///~no-such-user/x", "index.db", "mysql://x/y"],
)
def test_other_urls_are_refused(url: str) -> None:
    """The error shows what a URL looks like."""
    with pytest.raises(UnsupportedStoreUrl, match="sqlite:///PATH"):
        open_index(url)


async def test_relative_and_absolute_urls_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes and a path: relative to the working directory or home, or absolute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in ("sqlite:///one #%.db", f"sqlite:///{tmp_path}/two.db", "sqlite:///~/three.db"):
        await open_index(url).close()
    assert {"one #%.db", "two.db", "three.db"} <= {path.name for path in tmp_path.iterdir()}
