"""What others do to the store, noticed at once by a hint, and by a periodic read without one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from adapters.errors import StoreUnavailable
from adapters.store.index import Index
from service.cache.resolver import Resolver
from service.repeating import repeat

CHANGES_PER_READ = 1_000
# Changes in quick succession are read together; after a failure it is tried again so soon.
PAUSE = 0.05
RETRY_SECONDS = 1.0


class Watcher:
    """Keeps the resolver honest and has pending versions proved.

    Args:
        index: Where others write too.
        resolver: Is told which tasks have changed.
        prove_pending: Proves what waits to be proved (`Manager.prove_pending`). It may take long,
            so changes are read meanwhile.
        period: Most seconds between two reads.
    """

    def __init__(
        self,
        index: Index,
        resolver: Resolver,
        prove_pending: Callable[[], Awaitable[None]],
        *,
        period: float,
    ) -> None:
        self._index = index
        self._resolver = resolver
        self._prove_pending = prove_pending
        self._period = period
        self._seen: int | None = None

    async def run(self) -> None:
        """Watch until cancelled. A read that fails is logged, and made up for by the next one."""
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat(self._follow, period=min(RETRY_SECONDS, self._period)))
            group.create_task(repeat(self._prove_pending, period=self._period))

    async def _follow(self) -> NoReturn:
        """Read changes as they happen, until that fails."""
        while True:
            try:
                await self.read_changes()
                await asyncio.sleep(PAUSE)
                await self._index.wait_for_change(self._seen or 0, timeout=self._period)
            except StoreUnavailable:
                # What crashed may have lost its last changes and give their numbers to others.
                self._seen = None
                raise

    async def read_changes(self) -> None:
        """Have the resolver doubt every task that has changed since the last call.

        Raises:
            StoreError: the index cannot be read.
        """
        while self._seen is not None:
            changes = await self._index.changes(self._seen, limit=CHANGES_PER_READ)
            if not changes:
                break
            if changes[0].sequence != self._seen + 1:
                self._seen = None
                break
            for change in changes:
                if change.kind == "deleted":
                    self._resolver.forget(change.key)
                else:
                    self._resolver.doubt(change.key)
            self._seen = changes[-1].sequence
        # At first, after a gap, and where the index was restored from a backup: all may be new.
        newest = await self._index.last_change()
        if self._seen is None or newest < self._seen:
            self._resolver.doubt_all()
            self._seen = newest
