"""Pinned tasks: their active versions stay in the engine, whoever else wants the room."""

import structlog

from adapters.errors import StoreUnavailable
from service.cache.adapter_cache import AdapterCache, Lease
from service.cache.resolver import Resolver
from service.errors import BackboneConflict, ServiceError, TaskNotFound
from service.policies import Policies
from service.tenants import Policy
from service.types import TaskKey

log = structlog.get_logger(__name__)


class Pin(Policy):
    """That a task is pinned, on every server."""

    kind = "pin"


class Pinning:
    """Holds a lease on the active version of each pinned task.

    Args:
        policies: Has the pins.
        resolver: Knows the active versions.
        cache: Gives the leases.
    """

    def __init__(self, policies: Policies, resolver: Resolver, cache: AdapterCache) -> None:
        self._policies = policies
        self._resolver = resolver
        self._cache = cache
        self._held: dict[str, tuple[str, Lease]] = {}

    def is_pinned(self, task: TaskKey) -> bool:
        """Whether a task is pinned."""
        return self._policies.get(Pin, _name(task)) is not None

    async def pin(self, task: TaskKey) -> None:
        """Keep a task's active version in the engine: it is there when this returns.

        Raises:
            TaskNotFound: there is no such task.
            BackboneConflict: it has no version for the backbone that is served.
            AdapterLoadFailed: it could not be loaded or proved.
            RetryLater: there is no room, or the server is about to stop.
            StoreUnavailable: the store cannot be reached.
        """
        await self._hold(task)
        await self._policies.put(_name(task), Pin())

    async def unpin(self, task: TaskKey) -> None:
        """Let a task leave the engine like any other.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        if self.is_pinned(task):
            await self._policies.remove(Pin, _name(task))
        self._let_go(_name(task))

    async def keep(self) -> None:
        """Follow what has changed: new pins and old ones, other active versions."""
        pinned = self._policies.all(Pin)
        for name in [*self._held]:
            if name not in pinned:
                self._let_go(name)
        for name in pinned:
            try:
                await self._hold(TaskKey(*name.split("/")))
            except (TaskNotFound, BackboneConflict):
                # While servers of two backbones share a store, the others may keep it.
                self._let_go(name)
            except (ServiceError, StoreUnavailable) as error:
                log.warning("pinned_task_not_loaded", task=name, exc_info=error)

    def close(self) -> None:
        """End all leases."""
        for name in [*self._held]:
            self._let_go(name)

    async def _hold(self, task: TaskKey) -> None:
        ref = await self._resolver.resolve(task.tenant, task.task)
        name = _name(task)
        digest, _ = self._held.get(name, (None, None))
        if digest != ref.digest:
            lease = await self._cache.acquire(ref)
            self._let_go(name)
            self._held[name] = ref.digest, lease

    def _let_go(self, name: str) -> None:
        _, lease = self._held.pop(name, (None, None))
        if lease is not None:
            lease.release()


def _name(task: TaskKey) -> str:
    return f"{task.tenant}/{task.task}"
