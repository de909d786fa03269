"""The use cases of a release: try a version as a canary, make it active, retire an old one."""

import time
from collections.abc import Callable

from adapters.errors import VersionInUse, VersionNotReady
from adapters.manifest import AdapterRef
from adapters.store.index import Index, TaskKey, Version
from service.cache.adapter_cache import AdapterCache
from service.cache.resolver import Resolver
from service.canary import Canary
from service.errors import BackboneConflict
from service.routing import Router
from service.types import TaskKey as Name


class Releases:
    """Moves traffic between versions; requests in flight finish on the one that they began with.

    Whatever is to get traffic is loaded first, so that no request waits for it.

    Args:
        index: Knows versions and active pointers.
        cache: Loads.
        resolver: Is told at once what changes here.
        router: Keeps the canaries.
        fingerprint: The backbone that is served.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        index: Index,
        cache: AdapterCache,
        resolver: Resolver,
        router: Router,
        fingerprint: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._cache = cache
        self._resolver = resolver
        self._router = router
        self._fingerprint = fingerprint
        self._clock = clock

    def canary(self, key: TaskKey) -> Canary | None:
        """A task's canary, if there is one."""
        return self._router.canary(_name(key))

    async def start_canary(self, key: TaskKey, version: int, percent: float) -> Canary:
        """Give a version `percent` of the requests that name none, or change the percentage.

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
            VersionNotReady: its proof has not held.
            VersionInUse: it is the active one, and gets all of them already.
            BackboneConflict: it is not for the backbone that is served.
            AdapterLoadFailed: it could not be loaded.
            RetryLater: the server is overloaded, or about to stop.
            StoreUnavailable: the store cannot be reached.
        """
        wanted = await self._ready(key, version)
        if (await self._index.get_task(key)).active.get(self._fingerprint) == version:
            raise VersionInUse(
                f"Version {version} of task {key.task!r} is active and gets all requests already. "
                "Name another one as the canary."
            )
        await self._load(wanted)
        canary = Canary(version=version, percent=percent)
        await self._router.start(_name(key), canary)
        return canary

    async def end_canary(self, key: TaskKey) -> None:
        """Give all requests to the active version again.

        Raises:
            UnknownTask: there is no such task.
            StoreUnavailable: the store cannot be reached.
        """
        await self._index.get_task(key)
        await self._router.end(_name(key))

    async def activate(
        self, key: TaskKey, version: int, *, expected: int | None = None
    ) -> AdapterRef:
        """Make a version the active one; if it was the canary, it is one no more.

        Args:
            key: The task.
            version: A version whose proof has held.
            expected: The version that the caller believes to be active; None trusts what is.

        Raises:
            PointerMoved: another version than `expected` is active, or somebody was faster.
            UnknownTask, UnknownVersion, VersionNotReady, BackboneConflict, AdapterLoadFailed,
            RetryLater, StoreUnavailable: see `start_canary`.
        """
        wanted = await self._ready(key, version)
        await self._load(wanted)
        active = (await self._index.get_task(key)).active.get(self._fingerprint)
        await self._index.activate(
            key, version, expected=active if expected is None else expected, now=self._clock()
        )
        self._resolver.doubt(key, wanted.ref)
        canary = self.canary(key)
        if canary is not None and canary.version == version:
            await self._router.end(_name(key))
        return wanted.ref

    async def retire(self, key: TaskKey, version: int) -> None:
        """Remove a version for good.

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
            VersionInUse: it is active, or the canary.
            StoreUnavailable: the store cannot be reached.
        """
        canary = self.canary(key)
        if canary is not None and canary.version == version:
            raise VersionInUse(
                f"Version {version} of task {key.task!r} is the canary. End that first."
            )
        await self._index.retire(key, version, now=self._clock())
        self._resolver.doubt(key)

    async def _ready(self, key: TaskKey, version: int) -> Version:
        found = await self._index.get_version(key, version)
        if found.fingerprint != self._fingerprint:
            raise BackboneConflict(
                f"Version {version} of task {key.task!r} is for backbone {found.fingerprint[:12]}, "
                f"and {self._fingerprint[:12]} is served here. Name a version for this one."
            )
        if found.state != "ready":
            raise VersionNotReady(
                f"Version {version} of task {key.task!r} is {found.state}. Only a version whose "
                "proof has held can get requests."
            )
        return found

    async def _load(self, version: Version) -> None:
        (await self._cache.acquire(version.ref)).release()


def _name(key: TaskKey) -> Name:
    return Name(key.tenant, key.task)
