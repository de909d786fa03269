"""From a store's URL to a file system: a directory, an S3 bucket, or what else fsspec reaches."""

from dataclasses import dataclass
from typing import Any

from fsspec.core import split_protocol, url_to_fs

from adapters.errors import UnsupportedStoreUrl

# A dead server is told from a slow one within seconds; s3fs alone would take a quarter of a minute.
_S3_OPTIONS: dict[str, Any] = {
    # What another server has written or deleted counts at once.
    "use_listings_cache": False,
    "skip_instance_cache": True,
    "config_kwargs": {"connect_timeout": 3, "read_timeout": 15, "retries": {"max_attempts": 1}},
}
_S3_TRIES = 2


@dataclass(frozen=True)
class Place:
    """Where blobs lie.

    Args:
        fs: An fsspec file system.
        root: The path in it, without a slash at the end.
        failures: What its methods raise when it cannot be reached, beside OSError.
    """

    fs: Any
    root: str
    failures: tuple[type[Exception], ...] = ()


def open_place(url: str) -> Place:
    """The place that a URL names, or a directory's path.

    Raises:
        UnsupportedStoreUrl: nothing that is installed reaches it.
    """
    if split_protocol(url)[0] in {"s3", "s3a"}:
        return _s3(url)
    try:
        fs, root = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UnsupportedStoreUrl(
            f"{url!r} is not the URL of a blob store ({error}). Write a directory's path or "
            "s3://BUCKET/PREFIX, or install what fsspec needs for it."
        ) from error
    return Place(fs, str(root).rstrip("/"))


def _s3(url: str) -> Place:
    from botocore.exceptions import BotoCoreError

    fs, root = url_to_fs(url, **_S3_OPTIONS)
    fs.retries = _S3_TRIES
    return Place(fs, str(root).rstrip("/"), (BotoCoreError,))
