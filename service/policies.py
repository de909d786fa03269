"""What operators have laid down, mirrored in memory, so that no request waits for the store."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import structlog
from pydantic import ValidationError

from adapters.errors import StoreUnavailable
from adapters.store.records import Record, Records
from service.repeating import repeat
from service.tenants import Policy

RECORDS_PER_READ = 1_000

P = TypeVar("P", bound=Policy)
_Mirror = dict[type[Policy], dict[str, Policy]]

log = structlog.get_logger(__name__)


class Policies:
    """The records of some kinds, each read once and then followed.

    A record that cannot be read counts as none, and is logged. While the store is gone, what is
    known stays; `confirmed_at` says how old it is.

    Args:
        records: Where they lie.
        kinds: Those that are wanted.
        clock: Monotonic seconds.

    Attributes:
        confirmed_at: when all was last known to be as it is here; None before the first time.
    """

    def __init__(
        self,
        records: Records,
        kinds: Iterable[type[Policy]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._kinds = {kind.kind: kind for kind in kinds}
        self._clock = clock
        self._mirror = self._empty()
        self._seen = 0
        self._is_doubtful = False
        self._reading = asyncio.Lock()
        self._coming: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], object]] = []
        self.confirmed_at: float | None = None

    def on_change(self, listener: Callable[[], object]) -> None:
        """Have a function called after every `put` and `remove` here."""
        self._listeners.append(listener)

    def get(self, kind: type[P], name: str) -> P | None:
        """One record, None where there is none."""
        found = self._mirror[kind].get(name)
        return found if isinstance(found, kind) else None

    def all(self, kind: type[P]) -> dict[str, P]:
        """All records of a kind, by name."""
        return {n: each for n, each in self._mirror[kind].items() if isinstance(each, kind)}

    def has(self, kind: type[Policy]) -> bool:
        """Whether there is any record of a kind."""
        return bool(self._mirror[kind])

    async def put(self, name: str, policy: Policy) -> None:
        """Write a record; it holds here when this returns.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._records.put(
            policy.kind, name, policy.model_dump(mode="json", exclude_unset=True)
        )
        await self._hear()

    async def remove(self, kind: type[Policy], name: str) -> None:
        """Remove a record; it is gone here when this returns.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._records.put(kind.kind, name, None)
        await self._hear()

    async def refresh(self) -> None:
        """Know everything that was written before this call.

        However many ask at the same time, there is one read under way and one to come.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        if self._coming is None:
            self._coming = asyncio.create_task(self._read_next())
            # All who wait for it may have been cancelled.
            self._coming.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._coming)

    async def follow(self, period: float) -> NoReturn:
        """Read what others write every `period` seconds, until cancelled."""
        await repeat(self.refresh, period=period)

    async def _hear(self) -> None:
        for listener in self._listeners:
            listener()
        try:
            await self.refresh()
        except StoreUnavailable as error:
            # It is written; the next periodic read hears of it.
            log.warning("policy_not_heard", exc_info=error)

    async def _read_next(self) -> None:
        async with self._reading:
            # Whoever asks from here on needs a later read.
            self._coming = None
            began_at = self._clock()
            await self._read()
            self.confirmed_at = began_at

    async def _read(self) -> None:
        try:
            is_restored = self._is_doubtful or await self._records.newest() < self._seen
            mirror, seen = (self._empty(), 0) if is_restored else (self._mirror, self._seen)
            while page := await self._records.since(seen, limit=RECORDS_PER_READ):
                for record in page:
                    self._apply(record, mirror)
                seen = page[-1].revision
        except StoreUnavailable:
            # What crashed may have lost its last writes and give their revisions to others.
            self._is_doubtful = True
            raise
        self._mirror, self._seen, self._is_doubtful = mirror, seen, False

    def _empty(self) -> _Mirror:
        return {kind: {} for kind in self._kinds.values()}

    def _apply(self, record: Record, mirror: _Mirror) -> None:
        kind = self._kinds.get(record.kind)
        if kind is None:
            return
        mirror[kind].pop(record.name, None)
        if record.document is None:
            return
        try:
            mirror[kind][record.name] = kind.model_validate(record.document)
        except ValidationError:
            log.exception("policy_unreadable", kind=record.kind, name=record.name)
