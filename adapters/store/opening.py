"""An index by its URL."""

from pathlib import Path

from adapters.errors import UnsupportedStoreUrl
from adapters.store.index import Index
from adapters.store.sqlite import SqliteIndex

_SQLITE = "sqlite:///"


def open_index(url: str) -> Index:
    """Open the index at `sqlite:///PATH` (an absolute PATH makes it four slashes).

    Raises:
        UnsupportedStoreUrl: another kind of URL.
        StoreError: see `SqliteIndex`.
    """
    path = url.removeprefix(_SQLITE)
    if path in ("", url):
        raise UnsupportedStoreUrl(
            f"{url!r} is not the URL of an index. Write sqlite:///PATH, such as "
            "sqlite:////var/lib/protuning/index.db."
        )
    return SqliteIndex(Path(path))
