"""From host memory into the engine: who has a slot, who must leave, and who waits for room."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from service.cache.host_tier import HostAdapter
from service.cache.lru import Evicted, LruMap
from service.engines.base import Engine, Slot
from service.engines.folded import FoldedAdapter
from service.errors import CacheFull, EngineFull, Overloaded
from service.metrics import Metrics

NO_SLOT = Slot(-1)
_GAP = "gap"


@dataclass(slots=True, eq=False)
class Resident:
    """An adapter that has a slot, or is about to get one."""

    digest: str
    labels: tuple[str, ...]
    slot: Slot = NO_SLOT


class DeviceTier:
    """The engine's slots as a cache by digest: least recently used out, pinned ones never.

    Args:
        engine: Whose slots these are; nobody else loads or unloads.
        pool: Copies adapters into the engine.
        patience: Seconds that a load waits for room while everything is pinned.
        metrics: Told of what comes and goes.
    """

    def __init__(
        self, engine: Engine, pool: Executor, *, patience: float, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._patience = patience
        self._metrics = metrics
        self._residents: LruMap[str, Resident] = LruMap(engine.capacity_bytes)
        self._dismissed: set[str] = set()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, digest: str) -> bool:
        return digest in self._residents

    def get(self, digest: str) -> Resident | None:
        """The resident, which counts as used now; if it was dismissed, it stays after all."""
        self._dismissed.discard(digest)
        return self._residents.get(digest)

    def pin(self, resident: Resident) -> None:
        """Keep a resident until `unpin`."""
        self._residents.pin(resident.digest)

    def unpin(self, resident: Resident) -> None:
        """Take one pin back."""
        self._residents.unpin(resident.digest)
        self._room.set()
        if resident.digest in self._dismissed:
            self.dismiss(resident.digest)

    def dismiss(self, digest: str) -> None:
        """Free an adapter's slot, if it has one, as soon as no pin keeps it there."""
        if self._residents.is_pinned(digest):
            self._dismissed.add(digest)
        elif digest in self._residents:
            self._dismissed.discard(digest)
            self._engine.unload(self._residents.remove(digest).slot)
            self._report()

    async def place(self, adapter: HostAdapter) -> Resident:
        """Copy an adapter into a slot, off the event loop; it comes back pinned.

        Raises:
            CacheTooSmall: it is larger than all of the engine's memory for adapters.
            EngineFull: it does not fit although nothing else is loaded.
            Overloaded: whatever could make room stayed in use for too long.
        """
        give_up_at = asyncio.get_running_loop().time() + self._patience
        resident = Resident(adapter.folded.key, adapter.labels)
        await self._reserve(resident, self._engine.adapter_bytes(adapter.folded), give_up_at)
        try:
            resident.slot = await self._load(adapter.folded, give_up_at)
        except BaseException:
            self._forget(resident)
            raise
        self._report()
        return resident

    def drop(self, resident: Resident) -> None:
        """Take out a resident that nobody but the caller has pinned, and free its slot."""
        self._engine.unload(resident.slot)
        self._forget(resident)

    async def _reserve(self, resident: Resident, size: int, give_up_at: float) -> None:
        if self._residents.evicted_lately(resident.digest):
            self._metrics.thrash("device")
        while True:
            try:
                self._free(self._residents.put(resident.digest, resident, size))
            except CacheFull:
                await self._wait_for_room(give_up_at)
            else:
                self._residents.pin(resident.digest)
                return

    async def _load(self, adapter: FoldedAdapter, give_up_at: float) -> Slot:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._pool, self._engine.load, adapter)
            except EngineFull:
                # The bytes are free, but not in one piece.
                if len(self._residents) == 1:
                    raise
            try:
                self._evict_oldest()
            except CacheFull:
                await self._wait_for_room(give_up_at)

    def _evict_oldest(self) -> None:
        """Evict one more; raises CacheFull if all is pinned."""
        gap = self._residents.capacity - self._residents.used_bytes + 1
        self._free(self._residents.put(_GAP, Resident(_GAP, ()), gap))
        self._residents.remove(_GAP)

    def _free(self, evicted: Iterable[Evicted[str, Resident]]) -> None:
        for entry in evicted:
            self._engine.unload(entry.value.slot)
            self._metrics.evicted("device")

    async def _wait_for_room(self, give_up_at: float) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout_at(give_up_at):
                await self._room.wait()
        except TimeoutError as error:
            raise Overloaded(
                "All of the engine's memory for adapters is in use by other requests. Try again "
                "a little later, or give the server more of it.",
                retry_after=self._patience,
            ) from error

    def _forget(self, resident: Resident) -> None:
        self._dismissed.discard(resident.digest)
        self.unpin(resident)
        self._residents.remove(resident.digest)
        self._report()

    def _report(self) -> None:
        self._metrics.resident("device", len(self._residents), self._residents.used_bytes)
