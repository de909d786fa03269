"""The index in Redis, shared by any number of servers."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue

from adapters.errors import IndexTooNew, StoreError, StoreUnavailable
from adapters.manifest import AdapterRef
from adapters.store import redis_fields as fields
from adapters.store import refusals
from adapters.store.index import (
    ChangeEvent,
    ProofState,
    Replay,
    Task,
    TaskDump,
    TaskKey,
    Usage,
    Verdict,
    Version,
)
from adapters.store.redis_scripts import RedisScripts, Reply, key_of
from adapters.store.redis_url import ANSWER_SECONDS

LAYOUT_VERSION = 1
DIGESTS_PER_READ = 1_000
# A blocking read has to end before the connection takes the silence for a failure.
LONGEST_WAIT = ANSWER_SECONDS / 5

Argument = str | float | None


class RedisIndex:
    """An `Index` in Redis: one server, a cluster, or a group behind Sentinels.

    The constructor connects nowhere, so that a server can start before its Redis does. What is
    acknowledged is as durable as Redis is told to be: with `appendfsync always` like SQLite's,
    with `everysec` a crash of its machine can take back the last second. docs/store.md has the
    keys and the settings.

    Any method can also raise IndexTooNew.

    Raises:
        UnsupportedStoreUrl: see `adapters.store.redis_url.connect`.
    """

    def __init__(self, url: str) -> None:
        self._redis = RedisScripts(url)
        self._is_checked = False

    async def register(
        self,
        key: TaskKey,
        digest: str,
        *,
        fingerprint: str,
        size: int,
        metadata: dict[str, JsonValue],
        now: float,
    ) -> Version:
        """See `Index`."""
        (record,) = await self._about_task(
            "register",
            key,
            digest=digest,
            fingerprint=fingerprint,
            size=size,
            metadata=json.dumps(metadata),
            now=now,
        )
        return fields.version_record(record)

    async def set_state(self, key: TaskKey, version: int, state: ProofState, *, now: float) -> None:
        """See `Index`."""
        await self._about_task("set_state", key, version=version, state=state, now=now)

    async def activate(
        self, key: TaskKey, version: int, *, expected: int | None, now: float
    ) -> None:
        """See `Index`."""
        await self._about_task("activate", key, version=version, expected=expected, now=now)

    async def rollback(
        self, key: TaskKey, fingerprint: str, *, expected: int, now: float
    ) -> AdapterRef:
        """See `Index`."""
        (pointer,) = await self._about_task(
            "rollback", key, fingerprint=fingerprint, expected=expected, now=now
        )
        return fields.active_ref(key, pointer)

    async def rollback_target(self, key: TaskKey, fingerprint: str, *, expected: int) -> AdapterRef:
        """See `Index`."""
        (pointer,) = await self._about_task(
            "rollback_target", key, fingerprint=fingerprint, expected=expected
        )
        return fields.active_ref(key, pointer)

    async def retire(self, key: TaskKey, version: int, *, now: float) -> None:
        """See `Index`."""
        await self._about_task("retire", key, version=version, now=now)

    async def delete_task(self, key: TaskKey, *, now: float) -> None:
        """See `Index`."""
        await self._about_task("delete_task", key, now=now)

    async def resolve(self, key: TaskKey, fingerprint: str) -> AdapterRef:
        """See `Index`."""
        pointer, created_at = await self._command(
            "HMGET",
            key_of("task", key.tenant, key.task),
            fields.active_field(fingerprint),
            "created_at",
        )
        if created_at is None:
            raise refusals.unknown_task(key)
        if pointer is None:
            raise refusals.no_active_version(key, fingerprint)
        return fields.active_ref(key, pointer)

    async def get_task(self, key: TaskKey) -> Task:
        """See `Index`."""
        task = await self._command("HGETALL", key_of("task", key.tenant, key.task))
        if "created_at" not in task:
            raise refusals.unknown_task(key)
        return fields.task_record(key, task)

    async def get_version(self, key: TaskKey, version: int) -> Version:
        """See `Index`."""
        (record,) = await self._about_task("get_version", key, version=version)
        return fields.version_record(record)

    async def list_tasks(self, tenant: str, *, after: str = "", limit: int) -> list[Task]:
        """See `Index`."""
        _, tasks = await self._script("list_tasks", tenant, after, limit)
        return [
            fields.task_record(TaskKey(tenant=tenant, task=task), fields.pairs(flat))
            for task, flat in tasks
        ]

    async def list_versions(self, key: TaskKey, *, after: int = 0, limit: int) -> list[Version]:
        """See `Index`."""
        (versions,) = await self._about_task("list_versions", key, after=after, limit=limit)
        return [fields.version_record(record) for record in versions]

    async def list_pending(self, fingerprint: str, *, limit: int) -> list[Version]:
        """See `Index`."""
        _, versions = await self._script("list_pending", fingerprint, limit)
        return [fields.version_record(record) for record in versions]

    async def usage(self, tenant: str) -> Usage:
        """See `Index`."""
        _, tasks, stored_bytes = await self._script("usage", tenant)
        return Usage(tasks=tasks, stored_bytes=int(stored_bytes))

    async def last_change(self) -> int:
        """See `Index`."""
        return int(await self._command("GET", key_of("sequence")) or 0)

    async def changes(self, since: int, *, limit: int) -> list[ChangeEvent]:
        """See `Index`."""
        entries = await self._command(
            "XRANGE", key_of("changes"), f"({since}-0", "+", "COUNT", limit
        )
        return [fields.change_event(entry) for entry in entries]

    async def wait_for_change(self, since: int, *, timeout: float) -> None:
        """See `Index`."""
        milliseconds = max(1, int(1_000 * min(timeout, LONGEST_WAIT)))
        await self._command(
            "XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", key_of("changes"), f"{since}-0"
        )

    async def warnings(self) -> list[str]:
        """See `Index`."""
        try:
            settings = {}
            for pattern in ("appendonly", "save", "maxmemory*"):
                settings.update(await self._redis.command("CONFIG GET", pattern))
        except StoreUnavailable as error:
            # Managed servers often refuse; their operators know.
            return [f"How the index is kept on disk cannot be told: {error.__cause__}"]
        return fields.warnings(settings)

    async def referenced_digests(self) -> set[str]:
        """See `Index`."""
        found: set[str] = set()
        cursor = 0
        # Piece by piece, so that nobody else waits; what is there throughout is found for certain.
        while True:
            cursor, counts = await self._command(
                "HSCAN", key_of("references"), cursor, "COUNT", DIGESTS_PER_READ
            )
            found.update(counts)
            if int(cursor) == 0:
                return found

    async def is_referenced(self, digest: str) -> bool:
        """See `Index`."""
        return bool(await self._command("HEXISTS", key_of("references"), digest))

    async def put_verdict(self, replay: Replay, verdict: Verdict) -> None:
        """See `Index`."""
        await self._command(
            "HSET",
            key_of("verdicts", replay.digest),
            fields.verdict_field(replay),
            verdict.model_dump_json(),
        )

    async def get_verdict(self, replay: Replay) -> Verdict | None:
        """See `Index`."""
        text = await self._command(
            "HGET", key_of("verdicts", replay.digest), fields.verdict_field(replay)
        )
        return None if text is None else fields.verdict_record(text)

    async def forget_verdicts(self, digest: str) -> None:
        """See `Index`."""
        await self._command("DEL", key_of("verdicts", digest))

    async def verdicts(self, digest: str) -> dict[Replay, Verdict]:
        """See `Index`."""
        found = await self._command("HGETALL", key_of("verdicts", digest))
        return {
            fields.replay_record(digest, field): fields.verdict_record(text)
            for field, text in found.items()
        }

    async def dump(self, after: TaskKey | None, *, limit: int) -> list[TaskDump]:
        """See `Index`."""
        name = "" if after is None else f"{after.tenant}:{after.task}"
        return [fields.task_dump(*task) for task in await self._script("dump", name, limit)]

    async def restore(self, task: TaskDump, *, now: float) -> None:
        """See `Index`."""
        await self._about_task(
            "restore",
            task.key,
            created_at=task.created_at,
            last_version=task.last_version,
            versions=json.dumps([fields.version_fields(version) for version in task.versions]),
            histories=json.dumps(
                {
                    name: [str(number) for number in numbers]
                    for name, numbers in task.history.items()
                }
            ),
            now=now,
        )

    async def close(self) -> None:
        """See `Index`."""
        await self._redis.close()

    async def _about_task(self, name: str, key: TaskKey, **given: Argument) -> list[Any]:
        """Run a script about a task; the order of what is given is that of its arguments."""
        outcome, *results = await self._script(name, key.tenant, key.task, *given.values())
        if outcome != "ok":
            raise _REFUSALS[outcome](key, given, *results)
        return results

    async def _script(self, name: str, *arguments: Argument) -> Reply:
        await self._check_layout()
        given = ["" if argument is None else argument for argument in arguments]
        return await self._redis.script(name, *given)

    async def _command(self, *parts: str | float) -> Reply:
        await self._check_layout()
        return await self._redis.command(*parts)

    async def _check_layout(self) -> None:
        """Before the first operation: is this an index of a release that we know?"""
        if self._is_checked:
            return
        await self._redis.command("SET", key_of("layout"), LAYOUT_VERSION, "NX")
        found = int(await self._redis.command("GET", key_of("layout")))
        if found > LAYOUT_VERSION:
            raise IndexTooNew(
                f"The index in Redis has layout {found}; this release knows up to "
                f"{LAYOUT_VERSION}. Upgrade protuning, or use another database."
            )
        self._is_checked = True


def _pointer_moved(key: TaskKey, given: Mapping[str, Any], active: str) -> StoreError:
    return refusals.pointer_moved(key, int(active) if active else None, given["expected"])


_REFUSALS: dict[str, Callable[..., StoreError]] = {
    "unknown_task": lambda key, _: refusals.unknown_task(key),
    "unknown_version": lambda key, given: refusals.unknown_version(key, given["version"]),
    "version_not_ready": lambda key, given, state: refusals.version_not_ready(
        key, given["version"], state
    ),
    "version_in_use": lambda key, given: refusals.version_in_use(key, given["version"]),
    "pointer_moved": _pointer_moved,
    "nothing_to_roll_back_to": lambda key, given: refusals.nothing_to_roll_back_to(
        key, given["expected"]
    ),
}
