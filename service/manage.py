"""The use cases around tasks: register, list, switch back, delete, and prove what is pending."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakValueDictionary

import structlog

from adapters.container import digest_of
from adapters.errors import (
    CheckpointError,
    ForeignBlobs,
    PointerMoved,
    ProofFailed,
    StoreUnavailable,
    UnknownTask,
    UnknownVersion,
)
from adapters.manifest import AdapterRef
from adapters.store.index import Index, Task, TaskKey, Usage, Version
from adapters.store.registry import HELD, Registry
from service import audit
from service.cache.adapter_cache import AdapterCache
from service.cache.resolver import Resolver
from service.errors import AdapterLoadFailed, ServiceError
from service.pinning import Pinning
from service.quotas import Quotas
from service.routing import Router
from service.types import TaskKey as TaskName

PENDING_PER_READ = 64
VERSIONS_PER_READ = 1_000

log = structlog.get_logger(__name__)


class Manager:
    """Changes what is served; requests in flight finish on the version that they began with.

    Args:
        registry: Stores checkpoints.
        index: Knows tasks, versions and active pointers.
        cache: Loads and proves.
        resolver: Is told at once what changes here.
        router: Forgets the canaries of what is deleted.
        pinning: Forgets the pins of what is deleted.
        quotas: How much a tenant may have.
        fingerprint: The backbone that is served.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        registry: Registry,
        index: Index,
        cache: AdapterCache,
        resolver: Resolver,
        router: Router,
        pinning: Pinning,
        quotas: Quotas,
        fingerprint: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._index = index
        self._cache = cache
        self._resolver = resolver
        self._router = router
        self._pinning = pinning
        self._quotas = quotas
        self._fingerprint = fingerprint
        self._clock = clock
        # One registration of a tenant at a time, so that none overtakes the look at what it has.
        self._registering: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def register(self, key: TaskKey, data: bytes, *, activate: bool = True) -> Version:
        """Store a checkpoint, prove it on this server's engine, and make it the active version.

        When it returns the version is durable, ready and loaded. What fails moves no pointer;
        where the server is at fault the version stays pending, and is proved and made active
        later unless a newer one is by then. Without `activate` it is proved only.

        Raises:
            CheckpointError: the checkpoint is not one, or not for the backbone that is served.
            ProofFailed: the engine got other logits than training.
            QuotaExceeded: the tenant has as much as it may.
            AdapterLoadFailed: it could not be loaded.
            RetryLater: the server is overloaded, or about to stop.
            StoreUnavailable: blobs or index cannot be reached.
            UnknownTask: somebody deleted the task meanwhile.
        """
        async with self._registering.setdefault(key.tenant, asyncio.Lock()):
            await self._check_room(key, data)
            version = await self._registry.register(key, data, activate=activate, now=self._clock())
        # Bytes that were missing or damaged a moment ago have just been written anew.
        self._cache.forgive(version.digest)
        try:
            await self._prove(version)
        except AdapterLoadFailed as error:
            if isinstance(error.__cause__, ProofFailed | CheckpointError):
                raise error.__cause__ from error
            raise
        if activate:
            await self._activate(version)
        return await self._index.get_version(key, version.version)

    async def prove_pending(self) -> None:
        """Prove and activate what was put into the store from outside.

        An older version never takes the place of a newer one. A version that fails is logged and
        keeps no other one waiting.

        Raises:
            StoreUnavailable: the index cannot be reached.
        """
        for version in await self._index.list_pending(self._fingerprint, limit=PENDING_PER_READ):
            try:
                await self._prove(version)
                task = await self._index.get_task(version.key)
                is_newest = task.active.get(self._fingerprint, 0) < version.version
                if is_newest and not version.metadata.get(HELD):
                    await self._activate(version)
                    audit.record(
                        "version_activated",
                        None,
                        of=version.key.tenant,
                        task=version.key.task,
                        version=version.version,
                    )
            except (ServiceError, UnknownTask, UnknownVersion) as error:
                log.warning(
                    "pending_version_failed",
                    task=version.key.task,
                    version=version.version,
                    exc_info=error,
                )

    async def tasks(self, tenant: str, *, after: str = "", limit: int) -> list[Task]:
        """A tenant's tasks by name, from the first one behind `after`."""
        return await self._index.list_tasks(tenant, after=after, limit=limit)

    async def task(self, key: TaskKey) -> Task:
        """One task.

        Raises:
            UnknownTask: there is none.
        """
        return await self._index.get_task(key)

    async def versions(self, key: TaskKey, *, after: int = 0, limit: int) -> list[Version]:
        """A task's versions by number, from the first one above `after`.

        Raises:
            UnknownTask: there is no such task.
        """
        return await self._index.list_versions(key, after=after, limit=limit)

    async def usage(self, tenant: str) -> Usage:
        """What a tenant has stored."""
        return await self._index.usage(tenant)

    async def checkpoint(self, key: TaskKey, version: int) -> bytes:
        """The file that was registered.

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
            StoreError: the blob is missing, damaged, or cannot be reached.
        """
        found = await self._index.get_version(key, version)
        return await self._registry.fetch(found.ref)

    async def rollback(self, key: TaskKey, *, expected: int | None = None) -> AdapterRef:
        """Make the version before the active one active again, loaded and proved, and return it.

        What fails moves no pointer.

        Args:
            key: The task.
            expected: The version that the caller believes to be active; None trusts what is.

        Raises:
            UnknownTask: there is no such task.
            PointerMoved: another version than `expected` is active.
            NothingToRollBackTo: no other version was active before.
            AdapterLoadFailed: it could not be loaded or proved.
            RetryLater: the server is overloaded, or about to stop.
            StoreUnavailable: the index cannot be reached.
        """
        if expected is None:
            expected = (await self._index.resolve(key, self._fingerprint)).version
        # Only if somebody retires it meanwhile does the pointer move to another one.
        target = await self._index.rollback_target(key, self._fingerprint, expected=expected)
        (await self._cache.acquire(target)).release()
        ref = await self._index.rollback(
            key, self._fingerprint, expected=expected, now=self._clock()
        )
        self._resolver.doubt(key, ref)
        return ref

    async def delete(self, key: TaskKey) -> None:
        """Remove a task with all its versions.

        Raises:
            UnknownTask: there is none.
        """
        await self._index.delete_task(key, now=self._clock())
        self._resolver.forget(key)
        name = TaskName(key.tenant, key.task)
        await self._router.end(name)
        await self._pinning.unpin(name)

    async def collect_garbage(self) -> None:
        """Delete the checkpoints that no version has any more; see `Registry.collect_garbage`.

        Raises:
            StoreUnavailable: blobs or index cannot be reached.
        """
        try:
            deleted = await self._registry.collect_garbage(now=self._clock())
        except ForeignBlobs as error:
            log.warning("garbage_kept", reason=str(error))
            return
        if deleted:
            log.info("garbage_collected", blobs=len(deleted))

    async def _check_room(self, key: TaskKey, data: bytes) -> None:
        """Return if a tenant may store a checkpoint; nothing of it has been written by then."""
        digests = await self._digests(key)
        if await asyncio.to_thread(digest_of, data) in digests:
            return
        usage = await self._index.usage(key.tenant)
        self._quotas.check_stored(
            key.tenant,
            tasks=usage.tasks + (not digests),
            stored_bytes=usage.stored_bytes + len(data),
        )

    async def _digests(self, key: TaskKey) -> set[str]:
        """The digests of a task's versions."""
        digests: set[str] = set()
        after = 0
        with suppress(UnknownTask):
            while page := await self._index.list_versions(
                key, after=after, limit=VERSIONS_PER_READ
            ):
                digests.update(version.digest for version in page)
                after = page[-1].version
        return digests

    async def _prove(self, version: Version) -> None:
        """Load and prove a version, and record how that ended; raises AdapterLoadFailed."""
        try:
            lease = await self._cache.acquire(version.ref)
        except AdapterLoadFailed as error:
            if not isinstance(error.__cause__, StoreUnavailable):
                await self._index.set_state(
                    version.key, version.version, "failed", now=self._clock()
                )
            raise
        lease.release()
        await self._index.set_state(version.key, version.version, "ready", now=self._clock())

    async def _activate(self, version: Version) -> None:
        """Move the pointer here. Of several at the same time the last one wins."""
        while True:
            task = await self._index.get_task(version.key)
            try:
                await self._index.activate(
                    version.key,
                    version.version,
                    expected=task.active.get(self._fingerprint),
                    now=self._clock(),
                )
            except PointerMoved:
                continue
            self._resolver.doubt(version.key, version.ref)
            return
