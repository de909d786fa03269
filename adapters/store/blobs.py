"""Blobs by digest in any place that fsspec reaches: a directory, an object store."""

import errno
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from adapters.durable import write_durably
from adapters.errors import (
    BlobMissing,
    CheckpointTooLarge,
    CorruptBlob,
    StoreFull,
    StoreUnavailable,
)
from adapters.store.places import open_place

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class BlobStore:
    """Immutable bytes, each under the digest that `digest_of` gives for them.

    Safe for any number of threads and processes. Every method but the constructor does I/O and
    blocks. Any of them can raise StoreUnavailable; nothing is half done then. In an object store a
    move is a copy and a deletion: what is interrupted between them leaves both, and a later
    collection of garbage one.

    Below `url` lie `blobs/ab/cd/<digest>`; `discarded/`, see `discard`; `quarantine/`, the blobs
    that `get` found damaged, for a person to look at; `incoming/`, files being written.
    """

    def __init__(self, url: str, digest_of: Callable[[bytes], str]) -> None:
        place = open_place(url)
        self._fs, self._root = place.fs, place.root
        self._failures: tuple[type[Exception], ...] = (OSError, *place.failures)
        self._digest_of = digest_of

    def put(self, digest: str, data: bytes) -> None:
        """Store `data`, whole and durable when this returns; its age begins anew.

        It writes even where the blob lies already: that renews the age and heals damage.

        Raises:
            StoreFull: no space is left.
        """
        path = self._blob(digest)
        with self._errors(f"Blob {digest} cannot be written"):
            if isinstance(self._fs, LocalFileSystem):
                write_durably(Path(path), data, root=Path(self._root))
            else:
                self._fs.pipe_file(path, data)

    def get(self, digest: str, max_bytes: int) -> bytes:
        """The blob's bytes, verified.

        Raises:
            BlobMissing: there is none.
            CheckpointTooLarge: it has more than `max_bytes`.
            CorruptBlob: the bytes are not the digest's; the blob is in quarantine now.
        """
        data = self._read(self._blob(digest), max_bytes)
        if self._digest_of(data) == digest:
            return data
        quarantined = self._aside("quarantine", digest)
        self._move(self._blob(digest), quarantined)
        # Another process may have put a sound blob between the reading and the moving.
        data = self._read(quarantined, max_bytes)
        if self._digest_of(data) == digest:
            self._move(quarantined, self._blob(digest))
            return data
        raise CorruptBlob(
            f"Blob {digest} was damaged and is now {quarantined}. Register the checkpoint again, "
            "and check the disk."
        )

    def exists(self, digest: str) -> bool:
        """Whether `get` would find a blob."""
        with self._errors(f"Blob {digest} cannot be looked up"):
            return bool(self._fs.exists(self._blob(digest)))

    def check(self) -> None:
        """Return if the store can be reached."""
        self._find("incoming")

    def digests(self) -> set[str]:
        """The digests of all blobs."""
        return {name for name in self._names("blobs") if _DIGEST.fullmatch(name)}

    def is_older(self, digest: str, time: float) -> bool:
        """Whether a blob was last put before `time`, in seconds of the store's own clock."""
        return self._was_written_before(self._blob(digest), time)

    def discard(self, digest: str) -> str:
        """Take a blob out of sight of `get`; returns the name for `restore` or `purge`.

        No two calls give the same name, so that nobody purges what another has discarded.
        """
        name = f"{digest}.{uuid.uuid4().hex}"
        self._move(self._blob(digest), self._aside("discarded", name))
        return name

    def discarded(self) -> set[str]:
        """The names of all that was discarded and neither restored nor purged."""
        return self._names("discarded")

    def restore(self, name: str) -> None:
        """Bring a discarded blob back, if it is still there."""
        digest, _, _ = name.partition(".")
        self._move(self._aside("discarded", name), self._blob(digest))

    def purge(self, name: str) -> None:
        """Remove a discarded blob for good, if it is still there."""
        self._remove(self._aside("discarded", name))

    def sweep(self, time: float) -> None:
        """Remove what killed writers left behind before `time`, in seconds of the store's clock."""
        for path in self._find("incoming"):
            if self._was_written_before(path, time):
                self._remove(path)

    def _blob(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a digest: pass 64 hex characters")
        return f"{self._root}/blobs/{digest[:2]}/{digest[2:4]}/{digest}"

    def _aside(self, area: str, name: str) -> str:
        return f"{self._root}/{area}/{name}"

    def _find(self, area: str) -> list[str]:
        with self._errors(f"{self._root}/{area} cannot be listed"):
            return list(self._fs.find(f"{self._root}/{area}"))

    def _names(self, area: str) -> set[str]:
        return {path.rsplit("/", 1)[-1] for path in self._find(area)}

    def _read(self, path: str, max_bytes: int) -> bytes:
        with self._errors(f"{path} cannot be read"):
            try:
                if self._fs.size(path) > max_bytes:
                    raise CheckpointTooLarge(
                        f"{path} has more than {max_bytes:,} bytes. Raise the limit to load it."
                    )
                return bytes(self._fs.cat_file(path))
            except FileNotFoundError as error:
                raise BlobMissing(
                    f"There is no blob {path}. Register the checkpoint again, or point the "
                    "service at the store that holds it."
                ) from error

    def _move(self, source: str, target: str) -> None:
        with self._errors(f"{source} cannot be moved"):
            self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            # Where two processes move one blob, the second finds it gone.
            with suppress(FileNotFoundError):
                self._fs.mv(source, target)

    def _remove(self, path: str) -> None:
        with self._errors(f"{path} cannot be removed"), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _was_written_before(self, path: str, time: float) -> bool:
        with self._errors(f"{path} cannot be looked up"):
            try:
                return bool(self._fs.modified(path).timestamp() < time)
            except FileNotFoundError:
                return False

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            if getattr(error, "errno", None) in _NO_SPACE:
                raise StoreFull(f"{what}: no space is left. Free some, then try again.") from error
            raise StoreUnavailable(
                f"{what} ({error}). Check the path, the permissions and the connection, then try "
                "again."
            ) from error
