"""Register, fetch and garbage collection: nothing acknowledged is lost, whatever happens."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.errors import (
    BlobMissing,
    CorruptBlob,
    DigestMismatch,
    ForeignBlobs,
    StoreFull,
    UnknownTask,
)
from adapters.manifest import BackboneSpec, HeadSpec, Manifest, Provenance
from adapters.store.blobs import BlobStore
from adapters.store.index import Replay, TaskKey, Verdict
from adapters.store.registry import GRACE_SECONDS, Registry
from adapters.store.sqlite import SqliteIndex

FLOWERS, BIRDS, CARS = (TaskKey(task=name) for name in ("flowers", "birds", "cars"))
RESNET = "a" * 64
MANIFEST = Manifest.model_construct(
    backbone=BackboneSpec.model_construct(name="resnet50", fingerprint=RESNET),
    head=HeadSpec(in_features=8, classes=3),
    provenance=Provenance(method="pro-tuning"),
)

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Read:
    """A checkpoint that holds, as far as the registry looks."""

    digest: str
    manifest: Manifest = MANIFEST


def sha256(data: bytes) -> str:
    """The digest of these tests."""
    return hashlib.sha256(data).hexdigest()


def verify(data: bytes) -> Read:
    """Take everything but `bad` for a checkpoint."""
    if data == b"bad":
        raise DigestMismatch("bad")
    return Read(sha256(data))


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    """A fresh blob store."""
    return BlobStore(str(tmp_path / "blobs"), sha256)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[SqliteIndex]:
    """A fresh index."""
    index = SqliteIndex(tmp_path / "index.db")
    yield index
    await index.close()


@pytest.fixture
def registry(blobs: BlobStore, index: SqliteIndex) -> Registry:
    """A registry on both."""
    return Registry(blobs, index, verify, max_bytes=1_000_000)


def later() -> float:
    """A moment when whatever has been put by now is old."""
    return time.time() + GRACE_SECONDS + 60


async def test_what_is_registered_can_be_fetched(registry: Registry, index: SqliteIndex) -> None:
    """The version describes the checkpoint, and its bytes come back."""
    version = await registry.register(FLOWERS, b"adapter", now=5)
    assert await registry.fetch(version.ref) == b"adapter"
    assert await index.get_version(FLOWERS, 1) == version
    assert (version.fingerprint, version.size, version.state) == (RESNET, 7, "pending")
    assert version.metadata == {"backbone": "resnet50", "classes": 3, "method": "pro-tuning"}


async def test_registering_again_is_the_same_version(registry: Registry) -> None:
    """A repeated request changes nothing but the age."""
    versions = [await registry.register(FLOWERS, b"adapter", now=now) for now in (1, 2)]
    assert [version.version for version in versions] == [1, 1]
    assert versions[1].renewed_at == 2


async def test_a_refused_checkpoint_leaves_nothing(
    registry: Registry, blobs: BlobStore, index: SqliteIndex
) -> None:
    """Verification comes first: neither a blob nor a task is there afterwards."""
    with pytest.raises(DigestMismatch):
        await registry.register(FLOWERS, b"bad", now=0)
    assert blobs.digests() == set()
    with pytest.raises(UnknownTask):
        await index.get_task(FLOWERS)


async def test_no_version_without_its_blob(
    registry: Registry, index: SqliteIndex, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blob comes before the index: where it cannot be stored, no version appears."""

    def full(*_: object) -> None:
        raise StoreFull("full")

    monkeypatch.setattr(blobs, "put", full)
    with pytest.raises(StoreFull):
        await registry.register(FLOWERS, b"adapter", now=0)
    assert await index.last_change() == 0


async def test_damage_is_named_and_registering_mends_it(
    registry: Registry, blobs: BlobStore
) -> None:
    """A damaged blob is refused until the checkpoint is registered again."""
    version = await registry.register(FLOWERS, b"adapter", now=0)
    Path(blobs._blob(version.digest)).write_bytes(b"damaged")
    with pytest.raises(CorruptBlob, match=version.digest):
        await registry.fetch(version.ref)
    with pytest.raises(BlobMissing):
        await registry.fetch(version.ref)
    assert (await registry.register(FLOWERS, b"adapter", now=1)).ref == version.ref
    assert await registry.fetch(version.ref) == b"adapter"


async def test_only_old_and_unreferenced_blobs_are_collected(
    registry: Registry, blobs: BlobStore, index: SqliteIndex
) -> None:
    """A blob goes when its last version is gone and an hour has passed, and its verdicts too."""
    kept = await registry.register(FLOWERS, b"kept", now=0)
    shared = await registry.register(FLOWERS, b"shared", now=0)
    await registry.register(BIRDS, b"shared", now=0)
    alone = await registry.register(BIRDS, b"alone", now=0)
    replay = Replay(digest=alone.digest, fingerprint=RESNET, engine="torch", dtype="float32")
    await index.put_verdict(replay, Verdict(passed=True, detail="", at=0))
    await index.delete_task(BIRDS, now=0)
    assert await registry.collect_garbage(now=time.time()) == []
    assert await registry.collect_garbage(now=later()) == [alone.digest]
    assert blobs.digests() == {kept.digest, shared.digest}
    assert blobs.discarded() == set()
    assert await index.get_verdict(replay) is None
    assert await registry.collect_garbage(now=later()) == []


async def test_an_orphan_blob_is_collected_later(registry: Registry, blobs: BlobStore) -> None:
    """What a crash between blob and index leaves is kept for an hour, then deleted."""
    await registry.register(FLOWERS, b"kept", now=0)
    blobs.put(sha256(b"orphan"), b"orphan")
    assert await registry.collect_garbage(now=time.time() + GRACE_SECONDS - 60) == []
    assert await registry.collect_garbage(now=later()) == [sha256(b"orphan")]


async def test_blobs_of_another_index_are_left_alone(
    registry: Registry, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is new, lost or not meant deletes nothing, unless somebody is sure."""
    monkeypatch.setattr("adapters.store.registry.FEW_BLOBS", 2)
    for number in range(3):
        blobs.put(sha256(b"%d" % number), b"%d" % number)
    with pytest.raises(ForeignBlobs, match="0 of the 3"):
        await registry.collect_garbage(now=later())
    await registry.register(FLOWERS, b"the first after a loss", now=0)
    with pytest.raises(ForeignBlobs, match="1 of the 4"):
        await registry.collect_garbage(now=later())
    assert len(blobs.digests()) == 4
    for task in (BIRDS, CARS):
        await registry.register(task, task.task.encode(), now=0)
    assert len(await registry.collect_garbage(now=later())) == 3
    blobs.put(sha256(b"orphan"), b"orphan")
    for task in (FLOWERS, BIRDS, CARS):
        await registry._index.delete_task(task, now=0)
    assert len(await registry.collect_garbage(now=later(), sure=True)) == 4


async def test_a_collector_killed_before_its_last_look_costs_nothing(
    registry: Registry, blobs: BlobStore
) -> None:
    """A blob that a version has is served and kept although a collector has set it aside."""
    version = await registry.register(FLOWERS, b"adapter", now=0)
    blobs.discard(version.digest)
    assert await registry.fetch(version.ref) == b"adapter"
    blobs.discard(version.digest)
    assert await registry.collect_garbage(now=time.time()) == []
    assert blobs.exists(version.digest)
    assert blobs.discarded() == set()


async def test_the_next_collector_finishes_for_a_killed_one(
    registry: Registry, blobs: BlobStore
) -> None:
    """A blob that was set aside and that no version has is deleted, whatever its age.

    But not by an index that knows nothing of the store.
    """
    blobs.put(sha256(b"orphan"), b"orphan")
    blobs.discard(sha256(b"orphan"))
    with pytest.raises(ForeignBlobs):
        await registry.collect_garbage(now=time.time())
    await registry.register(FLOWERS, b"kept", now=0)
    assert await registry.collect_garbage(now=time.time()) == [sha256(b"orphan")]
    assert blobs.discarded() == set()


async def test_kill_loses_nothing_acknowledged(
    registry: Registry, blobs: BlobStore, index: SqliteIndex, tmp_path: Path
) -> None:
    """After kill -9 every acknowledged version and every listed one can be fetched."""
    acknowledged: set[str] = set()
    for count in range(1, 6):
        acknowledged |= register_until_killed(tmp_path, count, start=1000 * count)
        versions = await index.list_versions(FLOWERS, limit=10_000)
        assert acknowledged <= {version.digest for version in versions}
        assert len(versions) - len(acknowledged) <= count
        for version in versions:
            assert sha256(await registry.fetch(version.ref)) == version.digest
    await registry.collect_garbage(now=later())
    assert blobs.digests() == {version.digest for version in versions}


REGISTER_FOREVER = """
import asyncio, hashlib, itertools, sys
from pathlib import Path
from types import SimpleNamespace as Some
from adapters.store.blobs import BlobStore
from adapters.store.index import TaskKey
from adapters.store.registry import Registry
from adapters.store.sqlite import SqliteIndex

sha256 = lambda data: hashlib.sha256(data).hexdigest()
manifest = Some(
    backbone=Some(name="", fingerprint="a" * 64), head=Some(classes=1), provenance=Some(method="")
)
verify = lambda data: Some(digest=sha256(data), manifest=manifest)

async def main(root, start):
    index = SqliteIndex(root / "index.db")
    registry = Registry(BlobStore(str(root / "blobs"), sha256), index, verify, max_bytes=10**6)
    for number in itertools.count(start):
        data = number.to_bytes(8, "big") * 1_000
        await registry.register(TaskKey(task="flowers"), data, now=0)
        print(sha256(data), flush=True)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def register_until_killed(root: Path, count: int, start: int) -> set[str]:
    """Let a child register, kill it after `count` acknowledgements; all it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", REGISTER_FOREVER, str(root), str(start)],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        lines = [child.stdout.readline() for _ in range(count)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return {line.strip() for line in lines if line.endswith("\n")}
