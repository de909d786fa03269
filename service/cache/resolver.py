"""Which adapter version a task's name means right now: a cache in front of the index."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from adapters.errors import NoActiveVersion, StoreUnavailable, UnknownTask, UnknownVersion
from adapters.manifest import AdapterRef
from adapters.store.index import Index, TaskKey
from service.cache.lru import LruMap
from service.errors import BackboneConflict, TaskNotFound

# While the index cannot be reached, one request in this many seconds waits to find out.
OUTAGE_SECONDS = 1.0
_DOUBTED = -1

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What was read about a task, the active version under None; true in its generation."""

    generation: int
    versions: dict[int | None, AdapterRef] = field(default_factory=dict)


class Resolver:
    """Versions by task, read from the index when unknown, and kept until there is doubt.

    Whoever changes a task, or hears that somebody has, calls `doubt`, or `forget` where it was
    deleted. That a task does not exist is never kept. While the index cannot be reached, what is
    known goes on being served, doubted or not.

    Args:
        index: Knows.
        fingerprint: The backbone that is served.
        capacity: Most tasks that are kept.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        index: Index,
        fingerprint: str,
        *,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._fingerprint = fingerprint
        self._clock = clock
        self._known: LruMap[TaskKey, _Known] = LruMap(capacity, ghosts=0)
        self._generation = 0
        self._changes = 0
        self._unreachable_until = float("-inf")

    async def resolve(self, tenant: str, task: str, version: int | None = None) -> AdapterRef:
        """A version of a task, the active one unless it is named.

        Raises:
            TaskNotFound: there is no such task or version.
            BackboneConflict: it is not for the backbone that is served.
            StoreUnavailable: the index cannot be reached, and had not been asked before.
        """
        key = _task_key(tenant, task)
        known = self._known.get(key)
        ref = known.versions.get(version) if known else None
        if known is None or ref is None:
            return await self._read_and_keep(key, version)
        if known.generation == self._generation or self._clock() < self._unreachable_until:
            return ref
        try:
            return await self._read_and_keep(key, version)
        except StoreUnavailable as error:
            self._unreachable_until = self._clock() + OUTAGE_SECONDS
            log.warning("index_unreachable", served=ref.version, task=key.task, exc_info=error)
            return ref
        except (TaskNotFound, BackboneConflict):
            self.forget(key)
            raise

    def doubt(self, key: TaskKey, active: AdapterRef | None = None) -> None:
        """Ask the index about a task when it is next wanted.

        `active` is its active version, where the caller has just made it so: what to serve if
        the index cannot be asked.
        """
        self._changes += 1
        known = self._known.get(key)
        if known is None and active is not None:
            known = _Known(_DOUBTED)
            self._known.put(key, known, 1)
        if known is not None:
            known.generation = _DOUBTED
            if active is not None:
                known.versions[None] = active

    def doubt_all(self) -> None:
        """Ask the index about every task when it is next wanted."""
        self._changes += 1
        self._generation += 1

    def forget(self, key: TaskKey) -> None:
        """Know nothing more of a task: it was deleted."""
        self._changes += 1
        if key in self._known:
            self._known.remove(key)

    async def _read_and_keep(self, key: TaskKey, version: int | None) -> AdapterRef:
        changes = self._changes
        ref = await self._read(key, version)
        # A change during the read may be newer than what was read.
        self._keep(key, version, ref, is_sure=changes == self._changes)
        return ref

    def _keep(self, key: TaskKey, version: int | None, ref: AdapterRef, *, is_sure: bool) -> None:
        generation = self._generation if is_sure else _DOUBTED
        known = self._known.get(key)
        if known is not None and known.generation != generation:
            self._known.remove(key)
            known = None
        if known is None:
            known = _Known(generation)
            self._known.put(key, known, 1)
        known.versions[version] = ref

    async def _read(self, key: TaskKey, version: int | None) -> AdapterRef:
        try:
            if version is None:
                return await self._index.resolve(key, self._fingerprint)
            found = await self._index.get_version(key, version)
        except (UnknownTask, UnknownVersion) as error:
            raise TaskNotFound(str(error)) from error
        except NoActiveVersion as error:
            raise BackboneConflict(str(error)) from error
        if found.fingerprint != self._fingerprint:
            raise BackboneConflict(
                f"Version {version} of task {key.task!r} is for backbone {found.fingerprint[:12]}, "
                f"and {self._fingerprint[:12]} is served here. Name a version for this one."
            )
        return found.ref


def _task_key(tenant: str, task: str) -> TaskKey:
    try:
        return TaskKey(tenant=tenant, task=task)
    except ValidationError as error:
        raise TaskNotFound(
            f"There is no task {task[:64]!r}: a task's name has at most 64 characters of a-z, 0-9, "
            "'.', '_' and '-', the first a letter or digit. Check the spelling."
        ) from error
