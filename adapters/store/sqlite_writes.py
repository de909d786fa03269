"""The SQLite index's write operations: each runs inside a transaction that its caller has begun."""

import json
from sqlite3 import Connection

from pydantic import JsonValue

from adapters.manifest import AdapterRef
from adapters.store.index import (
    KEPT_ACTIVATIONS,
    KEPT_CHANGES,
    ChangeKind,
    ProofState,
    Replay,
    TaskKey,
    Verdict,
    Version,
)
from adapters.store.refusals import version_in_use, version_not_ready
from adapters.store.sqlite_reads import (
    active_version,
    expect_active,
    get_task,
    get_version,
    rollback_target,
    rows,
    version_record,
)


def register(
    db: Connection,
    key: TaskKey,
    digest: str,
    fingerprint: str,
    size: int,
    metadata: dict[str, JsonValue],
    now: float,
) -> Version:
    """See `Index.register`."""
    values = {"digest": digest, "fingerprint": fingerprint, "size": size, "now": now}
    renewed = rows(
        db,
        """UPDATE versions SET renewed_at = :now
        WHERE (tenant, task, digest) = (:tenant, :task, :digest) RETURNING *""",
        key,
        **values,
    )
    if renewed:
        return version_record(renewed[0])
    (added,) = rows(
        db,
        """INSERT INTO versions VALUES (:tenant, :task, :version, :digest, :fingerprint, :size,
        'pending', :metadata, :now, :now) RETURNING *""",
        key,
        **values,
        version=_next_number(db, key, now),
        metadata=json.dumps(metadata),
    )
    record(db, "registered", key, added["version"], now)
    return version_record(added)


def set_state(db: Connection, key: TaskKey, version: int, state: ProofState, now: float) -> None:
    """See `Index.set_state`."""
    if get_version(db, key, version).state not in (state, "ready"):
        rows(
            db,
            """UPDATE versions SET state = :state
            WHERE (tenant, task, version) = (:tenant, :task, :version)""",
            key,
            version=version,
            state=state,
        )
        record(db, state, key, version, now)


def activate(db: Connection, key: TaskKey, version: int, expected: int | None, now: float) -> None:
    """See `Index.activate`."""
    wanted = get_version(db, key, version)
    if wanted.state != "ready":
        raise version_not_ready(key, version, wanted.state)
    active = active_version(db, key, wanted.fingerprint)
    if active == version:
        return
    expect_active(key, active, expected)
    _push(db, key, wanted.fingerprint, version)
    record(db, "activated", key, version, now)


def rollback(
    db: Connection, key: TaskKey, fingerprint: str, expected: int, now: float
) -> AdapterRef:
    """See `Index.rollback`."""
    target = rollback_target(db, key, fingerprint, expected)
    rows(
        db,
        """DELETE FROM activations
        WHERE (tenant, task, fingerprint) = (:tenant, :task, :fingerprint)
        AND position > (SELECT max(position) FROM activations
        WHERE (tenant, task, fingerprint, version) = (:tenant, :task, :fingerprint, :version))""",
        key,
        fingerprint=fingerprint,
        version=target.version,
    )
    record(db, "activated", key, target.version, now)
    return target


def retire(db: Connection, key: TaskKey, version: int, now: float) -> None:
    """See `Index.retire`."""
    fingerprint = get_version(db, key, version).fingerprint
    if active_version(db, key, fingerprint) == version:
        raise version_in_use(key, version)
    rows(
        db,
        "DELETE FROM activations WHERE (tenant, task, version) = (:tenant, :task, :version)",
        key,
        version=version,
    )
    rows(
        db,
        "DELETE FROM versions WHERE (tenant, task, version) = (:tenant, :task, :version)",
        key,
        version=version,
    )
    record(db, "retired", key, version, now)


def delete_task(db: Connection, key: TaskKey, now: float) -> None:
    """See `Index.delete_task`."""
    get_task(db, key)
    rows(db, "DELETE FROM activations WHERE (tenant, task) = (:tenant, :task)", key)
    rows(db, "DELETE FROM versions WHERE (tenant, task) = (:tenant, :task)", key)
    rows(db, "UPDATE tasks SET deleted = 1 WHERE (tenant, task) = (:tenant, :task)", key)
    record(db, "deleted", key, None, now)


def put_verdict(db: Connection, replay: Replay, verdict: Verdict) -> None:
    """See `Index.put_verdict`."""
    db.execute(
        """INSERT OR REPLACE INTO verdicts
        VALUES (:digest, :fingerprint, :engine, :dtype, :passed, :detail, :at)""",
        {**replay.model_dump(), **verdict.model_dump()},
    )


def forget_verdicts(db: Connection, digest: str) -> None:
    """See `Index.forget_verdicts`."""
    db.execute("DELETE FROM verdicts WHERE digest = ?", (digest,))


def _next_number(db: Connection, key: TaskKey, now: float) -> int:
    """Count up, and bring the task into being where it is new or was deleted."""
    ((number,),) = rows(
        db,
        """INSERT INTO tasks VALUES (:tenant, :task, :now, 1, 0)
        ON CONFLICT DO UPDATE SET last_version = last_version + 1,
        created_at = iif(deleted, :now, created_at), deleted = 0 RETURNING last_version""",
        key,
        now=now,
    )
    return int(number)


def _push(db: Connection, key: TaskKey, fingerprint: str, version: int) -> None:
    pointer = {"fingerprint": fingerprint, "version": version}
    ((position,),) = rows(
        db,
        """INSERT INTO activations
        SELECT :tenant, :task, :fingerprint, coalesce(max(position), 0) + 1, :version
        FROM activations WHERE (tenant, task, fingerprint) = (:tenant, :task, :fingerprint)
        RETURNING position""",
        key,
        **pointer,
    )
    rows(
        db,
        """DELETE FROM activations
        WHERE (tenant, task, fingerprint) = (:tenant, :task, :fingerprint)
        AND position <= :forgotten""",
        key,
        **pointer,
        forgotten=position - KEPT_ACTIVATIONS,
    )


def record(db: Connection, kind: ChangeKind, key: TaskKey, version: int | None, now: float) -> None:
    """Number an event; the oldest ones go."""
    event = rows(
        db,
        """INSERT INTO changes (kind, tenant, task, version, at)
        VALUES (:kind, :tenant, :task, :version, :now) RETURNING sequence""",
        key,
        kind=kind,
        version=version,
        now=now,
    )
    db.execute("DELETE FROM changes WHERE sequence <= ?", (event[0]["sequence"] - KEPT_CHANGES,))
