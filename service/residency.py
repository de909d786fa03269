"""The use case of operators who know what comes next: have a task in the engine, or out of it."""

import asyncio
from dataclasses import dataclass

from adapters.manifest import AdapterRef
from service.cache.adapter_cache import AdapterCache, AdapterState
from service.cache.resolver import Resolver
from service.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Residence:
    """Where a version of a task is, or how far its load has come."""

    ref: AdapterRef
    state: AdapterState


class Residency:
    """Loads and unloads versions by name; what nobody asks for here, requests load by themselves.

    Args:
        resolver: From names to versions.
        cache: From versions to slots.
    """

    def __init__(self, resolver: Resolver, cache: AdapterCache) -> None:
        self._resolver = resolver
        self._cache = cache

    async def where(self, tenant: str, task: str, version: int | None = None) -> Residence:
        """Where a version is, the active one unless it is named.

        Raises:
            TaskNotFound: there is no such task or version.
            BackboneConflict: it is not for the backbone that is served.
            StoreUnavailable: the index cannot be reached.
        """
        ref = await self._resolver.resolve(tenant, task, version)
        return Residence(ref, self._cache.state(ref.digest))

    async def warm(
        self, tenant: str, task: str, version: int | None = None, *, deadline: float
    ) -> AdapterRef:
        """Load and prove a version, so that the next request waits for nothing.

        `deadline` is in the event loop's monotonic seconds; a load that takes longer goes on.

        Raises:
            AdapterLoadFailed: it could not be loaded or proved.
            DeadlineExceeded: the deadline passed.
            RetryLater: the server is overloaded, or about to stop.
            TaskNotFound, BackboneConflict, StoreUnavailable: see `where`.
        """
        try:
            async with asyncio.timeout_at(deadline):
                ref = await self._resolver.resolve(tenant, task, version)
                (await self._cache.acquire(ref)).release()
        except TimeoutError as error:
            raise DeadlineExceeded(
                "The adapter is not loaded yet. Its load goes on: ask again a little later."
            ) from error
        return ref

    async def unload(self, tenant: str, task: str, version: int | None = None) -> AdapterRef:
        """Free a version's slot once its requests are answered; the next one loads it again.

        Raises:
            TaskNotFound, BackboneConflict, StoreUnavailable: see `where`.
        """
        ref = await self._resolver.resolve(tenant, task, version)
        self._cache.dismiss(ref.digest)
        return ref
