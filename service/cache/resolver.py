"""Which adapter version a task's name means right now: a cache in front of the index."""

from pydantic import ValidationError

from adapters.errors import NoActiveVersion, UnknownTask, UnknownVersion
from adapters.manifest import AdapterRef
from adapters.store.index import Index, TaskKey
from service.cache.lru import LruMap
from service.errors import BackboneConflict, TaskNotFound

_Versions = dict[int | None, AdapterRef]


class Resolver:
    """Versions by task, read from the index when unknown and kept until `forget`.

    Whoever changes a task, or hears that somebody has, calls `forget`. That a task does not exist
    is never kept. While the index cannot be reached, what is known goes on being served.

    Args:
        index: Knows.
        fingerprint: The backbone that is served.
        capacity: Most tasks that are kept.
    """

    def __init__(self, index: Index, fingerprint: str, *, capacity: int) -> None:
        self._index = index
        self._fingerprint = fingerprint
        self._known: LruMap[TaskKey, _Versions] = LruMap(capacity, ghosts=0)
        self._changes = 0

    async def resolve(self, tenant: str, task: str, version: int | None = None) -> AdapterRef:
        """A version of a task, the active one unless it is named.

        Raises:
            TaskNotFound: there is no such task or version.
            BackboneConflict: it is not for the backbone that is served.
            StoreUnavailable: the index cannot be reached, and had not been asked before.
        """
        key = _task_key(tenant, task)
        known = (self._known.get(key) or {}).get(version)
        if known is not None:
            return known
        changes = self._changes
        ref = await self._read(key, version)
        # A change during the read may be newer than what was read.
        if changes == self._changes:
            self._keep(key, version, ref)
        return ref

    def forget(self, key: TaskKey) -> None:
        """Ask the index about a task when it is next wanted."""
        self._changes += 1
        if key in self._known:
            self._known.remove(key)

    def forget_all(self) -> None:
        """Ask the index about every task when it is next wanted."""
        self._changes += 1
        self._known = LruMap(self._known.capacity, ghosts=0)

    def _keep(self, key: TaskKey, version: int | None, ref: AdapterRef) -> None:
        versions = self._known.get(key)
        if versions is None:
            versions = {}
            self._known.put(key, versions, 1)
        versions[version] = ref

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
