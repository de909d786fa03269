"""An index, and the records beside it, by their URL."""

from contextlib import suppress
from pathlib import Path

from adapters.errors import StoreUnavailable, UnsupportedStoreUrl
from adapters.store.index import Index
from adapters.store.records import Records
from adapters.store.redis_index import RedisIndex
from adapters.store.redis_records import RedisRecords
from adapters.store.redis_url import public_name
from adapters.store.sqlite import SqliteIndex
from adapters.store.sqlite_records import SqliteRecords

_SQLITE = "sqlite:///"
_REDIS = ("redis:", "rediss:", "redis+", "rediss+")


def open_index(url: str) -> Index:
    """Open the index at `sqlite:///PATH` (an absolute PATH makes it four slashes), or in Redis.

    For Redis see `adapters.store.redis_url.connect`.

    Raises:
        UnsupportedStoreUrl: another kind of URL.
        StoreError: see `SqliteIndex`.
    """
    return RedisIndex(url) if url.startswith(_REDIS) else SqliteIndex(_sqlite_path(url))


def require_index(url: str) -> None:
    """Return unless `url` names a file that is not there: opening it would make an empty one.

    Raises:
        UnsupportedStoreUrl: another kind of URL.
        StoreUnavailable: there is no such index.
    """
    if not index_exists(url):
        raise StoreUnavailable(f"There is no index at {_sqlite_path(url)}. Check the path.")


def index_exists(url: str) -> bool:
    """Whether opening `url` finds an index; a Redis has always one.

    Raises:
        UnsupportedStoreUrl: another kind of URL.
    """
    return url.startswith(_REDIS) or _sqlite_path(url).is_file()


def open_records(url: str) -> Records:
    """Open the records beside the index at `url`.

    Raises:
        UnsupportedStoreUrl: another kind of URL.
        StoreError: see `SqliteRecords`.
    """
    return RedisRecords(url) if url.startswith(_REDIS) else SqliteRecords(_sqlite_path(url))


def _sqlite_path(url: str) -> Path:
    path = url.removeprefix(_SQLITE)
    with suppress(RuntimeError):  # nobody's home
        if path not in ("", url):
            return Path(path).expanduser()
    raise UnsupportedStoreUrl(
        f"{public_name(url)!r} is not the URL of an index. Write sqlite:///PATH, such as "
        "sqlite:////var/lib/protuning/index.db, or redis://HOST:PORT/DATABASE."
    )
