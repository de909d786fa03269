"""A whole store into another one: blobs verified, numbers, states, pointers and histories kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from adapters.errors import BlobMissing, CorruptBlob
from adapters.store.blobs import BlobStore
from adapters.store.index import Index, TaskDump
from adapters.store.records import Record, Records

TASKS_PER_READ = 100
RECORDS_PER_READ = 1_000


@dataclass(frozen=True)
class Store:
    """What belongs together, and is copied together."""

    index: Index
    records: Records
    blobs: BlobStore


@dataclass(frozen=True)
class Copied:
    """How much there was, and how much of it was not in the target yet."""

    tasks: int = 0
    new_tasks: int = 0
    blobs: int = 0
    new_blobs: int = 0


async def copy_store(
    source: Store,
    target: Store,
    *,
    max_bytes: int,
    now: float,
    progress: Callable[[TaskDump], None] = lambda _: None,
) -> Copied:
    """Make the target have every task of the source, as it is there.

    What the target has already is checked and left, so a copy that was interrupted goes on when
    it is called again, and a second one catches up with what the source got meanwhile. Tasks that
    only the target has stay.

    Raises:
        BlobMissing: a version's blob is not in the source.
        CheckpointTooLarge: a blob has more than `max_bytes`.
        CorruptBlob: a blob of the source was damaged.
        StoreUnavailable: one of the stores cannot be reached.
    """
    tasks = new_tasks = 0
    blobs, new_blobs = set[str](), 0
    await _copy_records(source.records, target.records)
    known = {task.key: _hash(task) async for task in _dumps(target.index)}
    async for task in _dumps(source.index):
        for digest in sorted({version.digest for version in task.versions} - blobs):
            new_blobs += await asyncio.to_thread(_copy_blob, source, target, digest, max_bytes)
            for replay, verdict in (await source.index.verdicts(digest)).items():
                await target.index.put_verdict(replay, verdict)
            blobs.add(digest)
        if known.get(task.key) != _hash(task):
            await target.index.restore(task, now=now)
            new_tasks += 1
        tasks += 1
        progress(task)
    return Copied(tasks, new_tasks, len(blobs), new_blobs)


async def _dumps(index: Index) -> AsyncIterator[TaskDump]:
    after = None
    while page := await index.dump(after, limit=TASKS_PER_READ):
        for task in page:
            yield task
        after = page[-1].key


async def _copy_records(source: Records, target: Records) -> None:
    known = {(each.kind, each.name): each.document for each in await _records(target)}
    for each in await _records(source):
        if known.get((each.kind, each.name)) != each.document:
            await target.put(each.kind, each.name, each.document)


async def _records(records: Records) -> list[Record]:
    found: list[Record] = []
    while page := await records.since(found[-1].revision if found else 0, limit=RECORDS_PER_READ):
        found += page
    return found


def _copy_blob(source: Store, target: Store, digest: str, max_bytes: int) -> bool:
    """Whether it had to be written; either way it lies there whole when this returns."""
    try:
        target.blobs.get(digest, max_bytes)
    except (BlobMissing, CorruptBlob):
        target.blobs.put(digest, source.blobs.get(digest, max_bytes))
        target.blobs.get(digest, max_bytes)
        return True
    return False


def _hash(task: TaskDump) -> int:
    """Equal for equal dumps, and small: there may be many."""
    return hash(json.dumps(task.model_dump(mode="json"), sort_keys=True))
