"""The use cases on blobs and index together: register, fetch, collect garbage."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from adapters.errors import BlobMissing, ForeignBlobs
from adapters.manifest import AdapterRef, Manifest
from adapters.store.blobs import BlobStore
from adapters.store.index import Index, TaskKey, Version

GRACE_SECONDS = 3_600
# So many may be deleted even if fewer stay.
FEW_BLOBS = 100
# In the metadata of a version that waits for somebody to activate it.
HELD = "held"


class VerifiedCheckpoint(Protocol):
    """What the registry reads of a checkpoint that holds (see `adapters.checkpoint`)."""

    @property
    def manifest(self) -> Manifest:
        """What it is and which backbone it was made for."""

    @property
    def digest(self) -> str:
        """The sha256 that identifies it."""


class Registry:
    """Adapters in a blob store and an index that belong to each other.

    `verify` reads a checkpoint's bytes and raises where they are not one that may be stored;
    `max_bytes` bounds what `fetch` reads. A blob store must have one index only: garbage
    collection deletes what this index does not know.
    """

    def __init__(
        self,
        blobs: BlobStore,
        index: Index,
        verify: Callable[[bytes], VerifiedCheckpoint],
        *,
        max_bytes: int,
    ) -> None:
        self._blobs = blobs
        self._index = index
        self._verify = verify
        self._max_bytes = max_bytes

    async def register(
        self, key: TaskKey, data: bytes, *, activate: bool = True, now: float
    ) -> Version:
        """Store a checkpoint as a version of a task, pending until a server proves it.

        Durable when it returns. After a crash before that it is as if it had not been called, or
        the version is there: calling it again gives the same version. Without `activate` its
        metadata tell that whoever proves it is not to make it the active one.

        Raises:
            CheckpointError: `verify` refused it.
            StoreFull: no space is left.
            StoreUnavailable: blobs or index cannot be reached.
        """
        checkpoint = await asyncio.to_thread(self._verify, data)
        digest, manifest = checkpoint.digest, checkpoint.manifest
        await asyncio.to_thread(self._blobs.put, digest, data)
        version = await self._index.register(
            key,
            digest,
            fingerprint=manifest.backbone.fingerprint,
            size=len(data),
            metadata={
                "backbone": manifest.backbone.name,
                "classes": manifest.head.classes,
                "method": manifest.provenance.method,
                **({} if activate else {HELD: True}),
            },
            now=now,
        )
        # A collector may have taken the blob before the index knew of it; from here on it would
        # bring it back (see `_settle`).
        if not await asyncio.to_thread(self._blobs.exists, digest):
            await asyncio.to_thread(self._blobs.put, digest, data)
        return version

    async def fetch(self, ref: AdapterRef) -> bytes:
        """A version's checkpoint, its digest verified.

        Raises:
            BlobMissing: the blob is gone.
            CheckpointTooLarge: over the limit.
            CorruptBlob: it was damaged.
            StoreUnavailable: the blobs cannot be reached.
        """
        try:
            return await asyncio.to_thread(self._blobs.get, ref.digest, self._max_bytes)
        except BlobMissing:
            # A collector may hold it for a moment, or may have been killed while it did.
            await asyncio.to_thread(self._restore, ref.digest)
            return await asyncio.to_thread(self._blobs.get, ref.digest, self._max_bytes)

    async def check(self) -> None:
        """Return if the blobs can be reached.

        Raises:
            StoreUnavailable: they cannot.
        """
        await asyncio.to_thread(self._blobs.check)

    async def collect_garbage(self, *, now: float, sure: bool = False) -> list[str]:
        """Delete the blobs that no version has and that were last put over an hour ago.

        Registrations may go on meanwhile. Returns the digests of the deleted blobs. An index that
        knows nothing of the store, or less than it would delete, is more likely a wrong or a lost
        one than one whose tasks were deleted: then nothing goes, unless the caller is `sure`.

        Raises:
            ForeignBlobs: index and blobs hardly belong together; nothing was deleted.
            StoreUnavailable: blobs or index cannot be reached; run it again later.
        """
        before = now - GRACE_SECONDS
        await asyncio.to_thread(self._blobs.sweep, before)
        # A collector that was killed may have left some undecided.
        discarded = await asyncio.to_thread(self._blobs.discarded)
        stored = await asyncio.to_thread(self._blobs.digests)
        referenced = await self._index.referenced_digests()
        orphans = [
            digest
            for digest in sorted(stored - referenced)
            if await asyncio.to_thread(self._blobs.is_older, digest, before)
        ]
        if not sure:
            everything = stored | {_digest(name) for name in discarded}
            doomed = (everything - stored - referenced) | {*orphans}
            _check_ownership(everything & referenced, doomed, everything)
        deleted = [name for name in sorted(discarded) if await self._settle(name)]
        for digest in orphans:
            name = await asyncio.to_thread(self._blobs.discard, digest)
            if await self._settle(name):
                deleted.append(name)
        return [_digest(name) for name in deleted]

    async def _settle(self, name: str) -> bool:
        """Purge a discarded blob, or restore it where a version has it; whether it was purged.

        Between a look at the index and a deletion a registration can slip in. The blob is out of
        sight already, so this look is the last: a registration that it sees gets the blob back,
        and one that it does not see finds the blob missing at its end and puts it again.
        """
        if await self._index.is_referenced(_digest(name)):
            await asyncio.to_thread(self._blobs.restore, name)
            return False
        await asyncio.to_thread(self._blobs.purge, name)
        await self._index.forget_verdicts(_digest(name))
        return True

    def _restore(self, digest: str) -> None:
        for name in self._blobs.discarded():
            if _digest(name) == digest:
                self._blobs.restore(name)


def _check_ownership(known: set[str], doomed: set[str], everything: set[str]) -> None:
    if doomed and (not known or len(doomed) > max(len(known), FEW_BLOBS)):
        raise ForeignBlobs(
            f"Only {len(known)} of the {len(everything)} checkpoints in the store are in this "
            f"index, and {len(doomed)} would be deleted, so nothing was. If it is the right index, "
            "run `protuning store collect --sure` with its URL and the store's."
        )


def _digest(name: str) -> str:
    """The digest of a discarded blob."""
    return name.partition(".")[0]
