"""Whole tasks out of the SQLite index and into it, each inside a transaction of its caller."""

import json
from sqlite3 import Connection, Row

from adapters.store.index import TaskDump, TaskKey
from adapters.store.sqlite_reads import rows, version_record
from adapters.store.sqlite_writes import record


def dump(db: Connection, after: TaskKey | None, limit: int) -> list[TaskDump]:
    """See `Index.dump`."""
    found = db.execute(
        """SELECT * FROM tasks WHERE (tenant, task) > (:tenant, :task)
        ORDER BY tenant, task LIMIT :limit""",
        {**(after.model_dump() if after else {"tenant": "", "task": ""}), "limit": limit},
    )
    return [_dump(db, row) for row in found.fetchall()]


def restore(db: Connection, task: TaskDump, now: float) -> None:
    """See `Index.restore`."""
    key = task.key
    for table in ("activations", "versions", "tasks"):
        rows(db, f"DELETE FROM {table} WHERE (tenant, task) = (:tenant, :task)", key)  # noqa: S608
    rows(
        db,
        "INSERT INTO tasks VALUES (:tenant, :task, :created_at, :last_version, :deleted)",
        key,
        created_at=task.created_at or 0.0,
        last_version=task.last_version,
        deleted=task.created_at is None,
    )
    for version in task.versions:
        rows(
            db,
            """INSERT INTO versions VALUES (:tenant, :task, :version, :digest, :fingerprint, :size,
            :state, :metadata, :created_at, :renewed_at)""",
            key,
            **version.model_dump(exclude={"key", "metadata"}),
            metadata=json.dumps(version.metadata),
        )
    for fingerprint, history in task.history.items():
        for position, number in enumerate(history, 1):
            rows(
                db,
                """INSERT INTO activations
                VALUES (:tenant, :task, :fingerprint, :position, :version)""",
                key,
                fingerprint=fingerprint,
                position=position,
                version=number,
            )
    record(db, "deleted" if task.created_at is None else "registered", key, None, now)


def _dump(db: Connection, row: Row) -> TaskDump:
    key = TaskKey(tenant=row["tenant"], task=row["task"])
    versions = rows(
        db,
        "SELECT * FROM versions WHERE (tenant, task) = (:tenant, :task) ORDER BY version",
        key,
    )
    history: dict[str, list[int]] = {}
    for activation in rows(
        db,
        """SELECT fingerprint, version FROM activations
        WHERE (tenant, task) = (:tenant, :task) ORDER BY fingerprint, position""",
        key,
    ):
        history.setdefault(activation["fingerprint"], []).append(activation["version"])
    return TaskDump(
        key=key,
        created_at=None if row["deleted"] else row["created_at"],
        last_version=row["last_version"],
        versions=tuple(version_record(version) for version in versions),
        history={fingerprint: tuple(numbers) for fingerprint, numbers in history.items()},
    )
