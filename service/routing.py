"""Which version a request goes to: the one that it names, the canary, or the active one."""

import random
from collections.abc import Callable

from adapters.manifest import AdapterRef
from service.cache.resolver import Resolver
from service.canary import Canary, place_of
from service.errors import TaskNotFound
from service.policies import Policies
from service.types import TaskKey


class Router:
    """Resolves the names of requests, and knows the canaries.

    Args:
        resolver: From names to versions.
        policies: Has the canaries.
        fingerprint: The backbone that is served: a canary is for one.
        draw: A number in [0, 1) for a request without a key.
    """

    def __init__(
        self,
        resolver: Resolver,
        policies: Policies,
        fingerprint: str,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._resolver = resolver
        self._policies = policies
        self._fingerprint = fingerprint
        self._draw = draw

    async def resolve(
        self, task: TaskKey, version: int | None = None, canary_key: str | None = None
    ) -> AdapterRef:
        """The version for a request; with the same `canary_key` the same one each time.

        Raises:
            TaskNotFound, BackboneConflict, StoreUnavailable: see `Resolver.resolve`.
        """
        canary = None if version is not None else self.canary(task)
        if canary is not None and canary.takes(self._place(task, canary, canary_key)):
            try:
                return await self._resolver.resolve(task.tenant, task.task, canary.version)
            except TaskNotFound:
                # It was deleted through another server, or the whole task was.
                pass
        return await self._resolver.resolve(task.tenant, task.task, version)

    def canary(self, task: TaskKey) -> Canary | None:
        """The canary of a task for the served backbone, if there is one."""
        return self._policies.get(Canary, self._name(task))

    async def start(self, task: TaskKey, canary: Canary) -> None:
        """Begin with a canary, or change its percentage.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._policies.put(self._name(task), canary)

    async def end(self, task: TaskKey) -> None:
        """Have no canary any more.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        if self.canary(task) is not None:
            await self._policies.remove(Canary, self._name(task))

    def _place(self, task: TaskKey, canary: Canary, canary_key: str | None) -> float:
        if canary_key is None:
            return self._draw()
        return place_of(task, canary.version, canary_key)

    def _name(self, task: TaskKey) -> str:
        return f"{task.tenant}/{task.task}/{self._fingerprint}"
