"""The SQLite index's read operations: each runs inside a transaction that its caller has begun."""

import json
from sqlite3 import Connection, Row
from typing import Any

from adapters.manifest import AdapterRef
from adapters.store.index import ChangeEvent, Replay, Task, TaskKey, Usage, Verdict, Version
from adapters.store.refusals import (
    no_active_version,
    nothing_to_roll_back_to,
    pointer_moved,
    unknown_task,
    unknown_version,
)


def resolve(db: Connection, key: TaskKey, fingerprint: str) -> AdapterRef:
    """See `Index.resolve`."""
    found = rows(
        db,
        """SELECT tenant, task, version, digest
        FROM activations JOIN versions USING (tenant, task, version)
        WHERE (tenant, task, activations.fingerprint) = (:tenant, :task, :fingerprint)
        ORDER BY position DESC LIMIT 1""",
        key,
        fingerprint=fingerprint,
    )
    if found:
        return AdapterRef(**found[0])
    get_task(db, key)
    raise no_active_version(key, fingerprint)


def get_task(db: Connection, key: TaskKey) -> Task:
    """See `Index.get_task`."""
    found = rows(
        db, "SELECT * FROM tasks WHERE (tenant, task) = (:tenant, :task) AND NOT deleted", key
    )
    if not found:
        raise unknown_task(key)
    return _task(db, found[0])


def get_version(db: Connection, key: TaskKey, version: int) -> Version:
    """See `Index.get_version`."""
    found = rows(
        db,
        "SELECT * FROM versions WHERE (tenant, task, version) = (:tenant, :task, :version)",
        key,
        version=version,
    )
    if found:
        return version_record(found[0])
    get_task(db, key)
    raise unknown_version(key, version)


def rollback_target(db: Connection, key: TaskKey, fingerprint: str, expected: int) -> AdapterRef:
    """See `Index.rollback_target`."""
    get_task(db, key)
    expect_active(key, active_version(db, key, fingerprint), expected)
    found = rows(
        db,
        """SELECT tenant, task, version, digest
        FROM activations JOIN versions USING (tenant, task, version)
        WHERE (tenant, task, activations.fingerprint) = (:tenant, :task, :fingerprint)
        AND version <> :expected ORDER BY position DESC LIMIT 1""",
        key,
        fingerprint=fingerprint,
        expected=expected,
    )
    if not found:
        raise nothing_to_roll_back_to(key, expected)
    return AdapterRef(**found[0])


def list_tasks(db: Connection, tenant: str, after: str, limit: int) -> list[Task]:
    """See `Index.list_tasks`."""
    found = db.execute(
        "SELECT * FROM tasks WHERE tenant = ? AND task > ? AND NOT deleted ORDER BY task LIMIT ?",
        (tenant, after, limit),
    )
    return [_task(db, row) for row in found.fetchall()]


def list_versions(db: Connection, key: TaskKey, after: int, limit: int) -> list[Version]:
    """See `Index.list_versions`."""
    get_task(db, key)
    found = rows(
        db,
        """SELECT * FROM versions WHERE (tenant, task) = (:tenant, :task) AND version > :after
        ORDER BY version LIMIT :limit""",
        key,
        after=after,
        limit=limit,
    )
    return [version_record(row) for row in found]


def list_pending(db: Connection, fingerprint: str, limit: int) -> list[Version]:
    """See `Index.list_pending`."""
    found = db.execute(
        """SELECT * FROM versions WHERE state = 'pending' AND fingerprint = ?
        ORDER BY created_at LIMIT ?""",
        (fingerprint, limit),
    )
    return [version_record(row) for row in found.fetchall()]


def usage(db: Connection, tenant: str) -> Usage:
    """See `Index.usage`."""
    tasks, stored_bytes = db.execute(
        """SELECT (SELECT count(*) FROM tasks WHERE tenant = :tenant AND NOT deleted),
        (SELECT coalesce(sum(size), 0) FROM versions WHERE tenant = :tenant)""",
        {"tenant": tenant},
    ).fetchone()
    return Usage(tasks=tasks, stored_bytes=stored_bytes)


def last_change(db: Connection) -> int:
    """See `Index.last_change`."""
    (newest,) = db.execute("SELECT coalesce(max(sequence), 0) FROM changes").fetchone()
    return int(newest)


def changes(db: Connection, since: int, limit: int) -> list[ChangeEvent]:
    """See `Index.changes`."""
    found = db.execute(
        "SELECT * FROM changes WHERE sequence > ? ORDER BY sequence LIMIT ?", (since, limit)
    )
    return [ChangeEvent(**_keyed(row)) for row in found.fetchall()]


def referenced_digests(db: Connection) -> set[str]:
    """See `Index.referenced_digests`."""
    return {digest for (digest,) in db.execute("SELECT DISTINCT digest FROM versions")}


def is_referenced(db: Connection, digest: str) -> bool:
    """See `Index.is_referenced`."""
    return bool(
        db.execute("SELECT EXISTS (SELECT 1 FROM versions WHERE digest = ?)", (digest,)).fetchone()[
            0
        ]
    )


def get_verdict(db: Connection, replay: Replay) -> Verdict | None:
    """See `Index.get_verdict`."""
    row = db.execute(
        """SELECT passed, detail, at FROM verdicts
        WHERE (digest, fingerprint, engine, dtype) = (:digest, :fingerprint, :engine, :dtype)""",
        replay.model_dump(),
    ).fetchone()
    return row and Verdict(passed=bool(row["passed"]), detail=row["detail"], at=row["at"])


def verdicts(db: Connection, digest: str) -> dict[Replay, Verdict]:
    """See `Index.verdicts`."""
    found = db.execute("SELECT * FROM verdicts WHERE digest = ?", (digest,)).fetchall()
    return {
        Replay(**{name: row[name] for name in Replay.model_fields}): Verdict(
            passed=bool(row["passed"]), detail=row["detail"], at=row["at"]
        )
        for row in found
    }


def active_version(db: Connection, key: TaskKey, fingerprint: str) -> int | None:
    """The number of the active version, None where there is none."""
    found = rows(
        db,
        """SELECT version FROM activations
        WHERE (tenant, task, fingerprint) = (:tenant, :task, :fingerprint)
        ORDER BY position DESC LIMIT 1""",
        key,
        fingerprint=fingerprint,
    )
    return found[0]["version"] if found else None


def expect_active(key: TaskKey, active: int | None, expected: int | None) -> None:
    """Raise PointerMoved where another version than `expected` is active."""
    if active != expected:
        raise pointer_moved(key, active, expected)


def rows(db: Connection, statement: str, key: TaskKey, **values: object) -> list[Row]:
    """Run a statement about one task; `:tenant` and `:task` stand for its key."""
    return db.execute(statement, {"tenant": key.tenant, "task": key.task, **values}).fetchall()


def _keyed(row: Row) -> dict[str, Any]:
    """A row as a record's fields, tenant and task as its key."""
    fields = dict(row)
    fields["key"] = TaskKey(tenant=fields.pop("tenant"), task=fields.pop("task"))
    return fields


def version_record(row: Row) -> Version:
    """A row of the table `versions`."""
    return Version(**{**_keyed(row), "metadata": json.loads(row["metadata"])})


def _task(db: Connection, row: Row) -> Task:
    key = TaskKey(tenant=row["tenant"], task=row["task"])
    pointers = rows(
        db,
        # SQLite takes the other columns from the row that has the maximum.
        """SELECT fingerprint, version, max(position) FROM activations
        WHERE (tenant, task) = (:tenant, :task) GROUP BY fingerprint""",
        key,
    )
    active = {pointer["fingerprint"]: pointer["version"] for pointer in pointers}
    return Task(key=key, created_at=row["created_at"], active=active)
