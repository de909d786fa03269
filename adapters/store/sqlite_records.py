"""Records in the SQLite file of the index."""

import asyncio
import json
from pathlib import Path
from sqlite3 import Connection

from pydantic import JsonValue

from adapters.store.records import Record
from adapters.store.sqlite_schema import connect, create_index
from adapters.store.sqlite_worker import Worker, sqlite_errors

# An index that an earlier release has made gets the table when it is needed.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    revision INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID
"""


class SqliteRecords:
    """`Records` in a local file, which several processes may open.

    The constructor blocks for a moment and makes the file where it is missing.

    Raises:
        CorruptIndex: the file is something else.
        IndexTooNew: a newer release has written it.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        with sqlite_errors(self._name):
            create_index(path)
            db = connect(path)
            db.execute(_SCHEMA)
            self._writer = Worker(db, "IMMEDIATE")
            self._reader = Worker(connect(path), "DEFERRED")

    async def put(self, kind: str, name: str, document: dict[str, JsonValue] | None) -> int:
        """See `Records`."""
        with sqlite_errors(self._name):
            return await self._writer.run(_put, kind, name, json.dumps(document))

    async def since(self, revision: int, *, limit: int) -> list[Record]:
        """See `Records`."""
        with sqlite_errors(self._name):
            return await self._reader.run(_since, revision, limit)

    async def newest(self) -> int:
        """See `Records`."""
        with sqlite_errors(self._name):
            return await self._reader.run(_newest)

    async def close(self) -> None:
        """See `Records`."""
        await asyncio.to_thread(self._reader.close)
        await asyncio.to_thread(self._writer.close)


def _put(db: Connection, kind: str, name: str, document: str) -> int:
    revision = _newest(db) + 1
    db.execute(
        "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (kind, name, document, revision)
    )
    return revision


def _since(db: Connection, revision: int, limit: int) -> list[Record]:
    found = db.execute(
        "SELECT * FROM records WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit)
    )
    return [
        Record(**{**dict(row), "document": json.loads(row["document"])}) for row in found.fetchall()
    ]


def _newest(db: Connection) -> int:
    (newest,) = db.execute("SELECT coalesce(max(revision), 0) FROM records").fetchone()
    return int(newest)
