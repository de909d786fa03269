"""The index in one SQLite file: the embedded default."""

import asyncio
from contextlib import suppress
from pathlib import Path

from pydantic import JsonValue

from adapters.manifest import AdapterRef
from adapters.store import sqlite_reads as reads
from adapters.store import sqlite_writes as writes
from adapters.store.index import (
    ChangeEvent,
    ProofState,
    Replay,
    Task,
    TaskDump,
    TaskKey,
    Usage,
    Verdict,
    Version,
)
from adapters.store.sqlite_dumps import dump, restore
from adapters.store.sqlite_schema import connect, create_index
from adapters.store.sqlite_worker import P, Statement, T, Worker, sqlite_errors

SECONDS_BETWEEN_LOOKS = 0.25


class SqliteIndex:
    """An `Index` in a local file, which several processes may open.

    The constructor blocks for a moment and makes the file where it is missing. One thread
    reads and one writes, so that no read waits for a disk to sync.

    Raises:
        CorruptIndex: the file is something else.
        IndexTooNew: a newer release has written it.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        with sqlite_errors(self._name):
            create_index(path)
            self._reader = Worker(connect(path), "DEFERRED")
            self._writer = Worker(connect(path), "IMMEDIATE")

    async def register(
        self,
        key: TaskKey,
        digest: str,
        *,
        fingerprint: str,
        size: int,
        metadata: dict[str, JsonValue],
        now: float,
    ) -> Version:
        """See `Index`."""
        return await self._write(writes.register, key, digest, fingerprint, size, metadata, now)

    async def set_state(self, key: TaskKey, version: int, state: ProofState, *, now: float) -> None:
        """See `Index`."""
        await self._write(writes.set_state, key, version, state, now)

    async def activate(
        self, key: TaskKey, version: int, *, expected: int | None, now: float
    ) -> None:
        """See `Index`."""
        await self._write(writes.activate, key, version, expected, now)

    async def rollback(
        self, key: TaskKey, fingerprint: str, *, expected: int, now: float
    ) -> AdapterRef:
        """See `Index`."""
        return await self._write(writes.rollback, key, fingerprint, expected, now)

    async def rollback_target(self, key: TaskKey, fingerprint: str, *, expected: int) -> AdapterRef:
        """See `Index`."""
        return await self._read(reads.rollback_target, key, fingerprint, expected)

    async def retire(self, key: TaskKey, version: int, *, now: float) -> None:
        """See `Index`."""
        await self._write(writes.retire, key, version, now)

    async def delete_task(self, key: TaskKey, *, now: float) -> None:
        """See `Index`."""
        await self._write(writes.delete_task, key, now)

    async def resolve(self, key: TaskKey, fingerprint: str) -> AdapterRef:
        """See `Index`."""
        return await self._read(reads.resolve, key, fingerprint)

    async def get_task(self, key: TaskKey) -> Task:
        """See `Index`."""
        return await self._read(reads.get_task, key)

    async def get_version(self, key: TaskKey, version: int) -> Version:
        """See `Index`."""
        return await self._read(reads.get_version, key, version)

    async def list_tasks(self, tenant: str, *, after: str = "", limit: int) -> list[Task]:
        """See `Index`."""
        return await self._read(reads.list_tasks, tenant, after, limit)

    async def list_versions(self, key: TaskKey, *, after: int = 0, limit: int) -> list[Version]:
        """See `Index`."""
        return await self._read(reads.list_versions, key, after, limit)

    async def list_pending(self, fingerprint: str, *, limit: int) -> list[Version]:
        """See `Index`."""
        return await self._read(reads.list_pending, fingerprint, limit)

    async def usage(self, tenant: str) -> Usage:
        """See `Index`."""
        return await self._read(reads.usage, tenant)

    async def last_change(self) -> int:
        """See `Index`."""
        return await self._read(reads.last_change)

    async def changes(self, since: int, *, limit: int) -> list[ChangeEvent]:
        """See `Index`."""
        return await self._read(reads.changes, since, limit)

    async def wait_for_change(self, since: int, *, timeout: float) -> None:
        """See `Index`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while await self.last_change() == since:
                    await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def warnings(self) -> list[str]:
        """See `Index`."""
        return []

    async def referenced_digests(self) -> set[str]:
        """See `Index`."""
        return await self._read(reads.referenced_digests)

    async def is_referenced(self, digest: str) -> bool:
        """See `Index`."""
        return await self._read(reads.is_referenced, digest)

    async def put_verdict(self, replay: Replay, verdict: Verdict) -> None:
        """See `Index`."""
        await self._write(writes.put_verdict, replay, verdict)

    async def get_verdict(self, replay: Replay) -> Verdict | None:
        """See `Index`."""
        return await self._read(reads.get_verdict, replay)

    async def forget_verdicts(self, digest: str) -> None:
        """See `Index`."""
        await self._write(writes.forget_verdicts, digest)

    async def verdicts(self, digest: str) -> dict[Replay, Verdict]:
        """See `Index`."""
        return await self._read(reads.verdicts, digest)

    async def dump(self, after: TaskKey | None, *, limit: int) -> list[TaskDump]:
        """See `Index`."""
        return await self._read(dump, after, limit)

    async def restore(self, task: TaskDump, *, now: float) -> None:
        """See `Index`."""
        await self._write(restore, task, now)

    async def close(self) -> None:
        """See `Index`."""
        await asyncio.to_thread(self._reader.close)
        await asyncio.to_thread(self._writer.close)

    async def _read(self, statement: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with sqlite_errors(self._name):
            return await self._reader.run(statement, *args, **kwargs)

    async def _write(self, statement: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with sqlite_errors(self._name):
            return await self._writer.run(statement, *args, **kwargs)
