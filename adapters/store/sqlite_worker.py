"""SQLite behind the store's protocols: transactions on a thread of their own, errors by cause."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Concatenate, Literal, ParamSpec, TypeVar

from adapters.errors import CorruptIndex, StoreError, StoreFull, StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")
Statement = Callable[Concatenate[sqlite3.Connection, P], T]


class Worker:
    """One connection on one thread: whole transactions, one after the other."""

    def __init__(self, db: sqlite3.Connection, mode: Literal["DEFERRED", "IMMEDIATE"]) -> None:
        self._db = db
        self._begin = f"BEGIN {mode}"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")

    async def run(self, statement: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a statement in a transaction; a caller that is cancelled leaves no half of it."""
        work = self._in_transaction(statement, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Let the queued transactions end."""
        self._thread.shutdown()
        self._db.close()

    def _in_transaction(
        self, statement: Statement[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[], T]:
        def work() -> T:
            self._db.execute(self._begin)
            try:
                result = statement(self._db, *args, **kwargs)
                self._db.execute("COMMIT")
            except BaseException:
                # Some errors, such as a full disk, have rolled back already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return result

        return work


_CAUSES: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_CORRUPT: CorruptIndex,
    sqlite3.SQLITE_NOTADB: CorruptIndex,
    sqlite3.SQLITE_BUSY: StoreUnavailable,
    sqlite3.SQLITE_LOCKED: StoreUnavailable,
    sqlite3.SQLITE_CANTOPEN: StoreUnavailable,
    sqlite3.SQLITE_IOERR: StoreUnavailable,
    sqlite3.SQLITE_PERM: StoreUnavailable,
    sqlite3.SQLITE_READONLY: StoreUnavailable,
}
_REMEDIES: dict[type[StoreError], str] = {
    StoreFull: "Free some space on its disk, then try again.",
    CorruptIndex: "Restore it from a backup, or name another file.",
    StoreUnavailable: "Check the path, the permissions and the disk, then try again.",
}


@contextmanager
def sqlite_errors(name: str) -> Iterator[None]:
    """Turn what SQLite and the disk raise about the file `name` into errors of the store."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"The index {name}: {error}. {_REMEDIES[StoreUnavailable]}"
        ) from error
    except sqlite3.Error as error:
        # The low byte is the cause, the others say where it was met.
        cause = _CAUSES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if cause is None:
            raise
        raise cause(f"The index {name}: {error}. {_REMEDIES[cause]}") from error
