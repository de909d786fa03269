"""The SQLite index's tables, and connections to a file that has them."""

import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

from adapters.durable import sync_directory
from adapters.errors import CorruptIndex, IndexTooNew

SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0

# An active version is the newest of its activations; rolling back removes the newest ones.
_SCHEMA = f"""
CREATE TABLE tasks (
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    created_at REAL NOT NULL,
    last_version INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    PRIMARY KEY (tenant, task)
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    size INTEGER NOT NULL,
    state TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL,
    renewed_at REAL NOT NULL,
    PRIMARY KEY (tenant, task, version),
    UNIQUE (tenant, task, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions (digest);
CREATE INDEX pending_versions ON versions (fingerprint, created_at) WHERE state = 'pending';

CREATE TABLE activations (
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    position INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (tenant, task, fingerprint, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    version INTEGER,
    at REAL NOT NULL
) STRICT;

CREATE TABLE verdicts (
    digest TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    engine TEXT NOT NULL,
    dtype TEXT NOT NULL,
    passed INTEGER NOT NULL,
    detail TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (digest, fingerprint, engine, dtype)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = {SCHEMA_VERSION};
"""


def create_index(path: Path) -> None:
    """Make an empty index file where there is none; it appears whole, or not at all.

    Raises:
        OSError: the directory cannot be written.
        sqlite3.Error: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
            new = Path(directory) / path.name
            _write_schema(new)
            # Another process may have been faster.
            with suppress(FileExistsError):
                path.hardlink_to(new)
    sync_directory(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing index; the caller says where transactions begin and end.

    Raises:
        CorruptIndex: the file is something else.
        IndexTooNew: a newer release has written it.
        sqlite3.Error: it cannot be opened.
    """
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _check_schema(db, path)
        # In WAL mode only FULL keeps an acknowledged transaction through a power cut.
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    db.row_factory = sqlite3.Row
    return db


def _write_schema(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
    finally:
        db.close()


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise IndexTooNew(
            f"The index {path} has schema {found}; this release knows up to {SCHEMA_VERSION}. "
            "Upgrade protuning, or use another index."
        )
    if found < SCHEMA_VERSION:
        raise CorruptIndex(
            f"{path} is not an index written by protuning. Name another file, or remove this one."
        )
