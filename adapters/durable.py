"""Files that appear whole or not at all, and that a power cut does not take back."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Write a file atomically and synced: a crash leaves the old file or the new one.

    With a `root` above the file, the half-written file lies in `root/incoming` and missing
    directories are made; without, it lies beside the file, and its directory must be there.

    Raises:
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    incoming = path.parent if root is None else root / "incoming"
    if root is not None:
        incoming.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=incoming, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    _sync_directories(path, root or path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directories(path: Path, root: Path) -> None:
    """Sync all directories from the file's up to the one that names `root`.

    A directory that was there already may have been made a moment ago by another process that
    has not synced it yet.
    """
    for directory in path.parents:
        sync_directory(directory)
        if directory == root.parent:
            return
