"""The index's records as the strings that Redis keeps, and back: pure."""

import json
from collections.abc import Mapping
from typing import Any

from adapters.manifest import AdapterRef
from adapters.store.index import ChangeEvent, Replay, Task, TaskDump, TaskKey, Verdict, Version

_ACTIVE = "active:"


def pairs(flat: list[str]) -> dict[str, str]:
    """A hash as a script returns it: names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def version_record(flat: list[str]) -> Version:
    """The hash of a version."""
    fields = pairs(flat)
    state: Any = fields["state"]
    return Version(
        key=TaskKey(tenant=fields["tenant"], task=fields["task"]),
        version=int(fields["version"]),
        digest=fields["digest"],
        fingerprint=fields["fingerprint"],
        size=int(fields["size"]),
        state=state,
        metadata=json.loads(fields["metadata"]),
        created_at=float(fields["created_at"]),
        renewed_at=float(fields["renewed_at"]),
    )


def version_fields(version: Version) -> list[str]:
    """A version as such a hash."""
    fields = {
        "tenant": version.key.tenant,
        "task": version.key.task,
        **version.model_dump(exclude={"key", "metadata"}),
        "metadata": json.dumps(version.metadata),
    }
    return [str(part) for field in fields.items() for part in field]


def task_dump(
    tenant: str, task: str, flat: list[str], versions: list[list[str]], histories: list[Any]
) -> TaskDump:
    """What `dump.lua` returns for one task."""
    fields = pairs(flat)
    created_at = fields.get("created_at")
    return TaskDump(
        key=TaskKey(tenant=tenant, task=task),
        created_at=None if created_at is None else float(created_at),
        last_version=int(fields["last_version"]),
        versions=tuple(map(version_record, versions)),
        history={fingerprint: tuple(map(int, numbers)) for fingerprint, numbers in histories},
    )


def task_record(key: TaskKey, fields: dict[str, str]) -> Task:
    """The hash of a live task."""
    active = {
        name.removeprefix(_ACTIVE): int(pointer.partition(":")[0])
        for name, pointer in fields.items()
        if name.startswith(_ACTIVE)
    }
    return Task(key=key, created_at=float(fields["created_at"]), active=active)


def warnings(settings: Mapping[str, str]) -> list[str]:
    """What is risky about a server's settings, as `CONFIG GET` tells them."""
    found = []
    if settings.get("appendonly") == "no":
        found.append(
            "Redis writes no append-only file, so that a crash takes back registrations that were "
            "acknowledged. Set appendonly yes."
            if settings.get("save")
            else "Redis keeps nothing on disk: a restart loses all tasks. Set appendonly yes."
        )
    if settings.get("maxmemory-policy") != "noeviction" and settings.get("maxmemory") != "0":
        found.append(
            "Redis may evict tasks when its memory is full. Set maxmemory-policy noeviction."
        )
    return found


def active_field(fingerprint: str) -> str:
    """The field of a task's hash that points to the active version."""
    return _ACTIVE + fingerprint


def active_ref(key: TaskKey, pointer: str) -> AdapterRef:
    """What such a field says: the number and the digest."""
    number, _, digest = pointer.partition(":")
    return AdapterRef(tenant=key.tenant, task=key.task, version=int(number), digest=digest)


def change_event(entry: tuple[str, dict[str, str]]) -> ChangeEvent:
    """An entry of the stream; its id is the sequence number."""
    name, fields = entry
    kind: Any = fields["kind"]
    return ChangeEvent(
        sequence=int(name.partition("-")[0]),
        kind=kind,
        key=TaskKey(tenant=fields["tenant"], task=fields["task"]),
        version=int(fields["version"]) if fields["version"] else None,
        at=float(fields["at"]),
    )


def verdict_field(replay: Replay) -> str:
    """The field of a digest's verdicts for one set of circumstances."""
    return replay.model_dump_json(exclude={"digest"})


def replay_record(digest: str, field: str) -> Replay:
    """The circumstances that such a field stands for."""
    return Replay(digest=digest, **json.loads(field))


def verdict_record(text: str) -> Verdict:
    """A verdict as it was written by `model_dump_json`."""
    return Verdict.model_validate_json(text)
