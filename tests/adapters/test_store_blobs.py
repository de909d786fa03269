"""What blobs in a directory do beyond the contract: layout, full disks, killed writers."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.errors import StoreFull, StoreUnavailable
from adapters.store.blobs import BlobStore

LIMIT = 10_000_000
PUT_FOREVER = """
import hashlib, itertools, sys
from adapters.store.blobs import BlobStore

sha256 = lambda data: hashlib.sha256(data).hexdigest()
store = BlobStore(sys.argv[1], sha256)
for number in itertools.count(int(sys.argv[2])):
    data = number.to_bytes(8, "big") * 100_000
    store.put(sha256(data), data)
    print(sha256(data), flush=True)
"""


def sha256(data: bytes) -> str:
    """The digest of these tests."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A store in a directory that is not there yet."""
    return BlobStore(str(tmp_path / "store"), sha256)


def files(root: Path) -> list[Path]:
    """All files below a directory."""
    return [path for path in root.rglob("*") if path.is_file()]


def test_blobs_fan_out_over_two_levels(store: BlobStore, tmp_path: Path) -> None:
    """No directory grows with the number of blobs, and no temporary file stays."""
    digest = sha256(b"adapter")
    store.put(digest, b"adapter")
    expected = tmp_path / "store" / "blobs" / digest[:2] / digest[2:4] / digest
    assert files(tmp_path) == [expected]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A put that finds no space raises StoreFull and removes what it wrote."""

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="no space is left"):
        store.put(sha256(b"adapter"), b"adapter")
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    """Where the root is no directory, every operation that matters raises StoreUnavailable."""
    (tmp_path / "file").touch()
    store = BlobStore(str(tmp_path / "file"), sha256)
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        store.put(sha256(b"adapter"), b"adapter")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        store.get(sha256(b"adapter"), LIMIT)


def test_blob_and_directories_are_synced(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When put returns, the file and every directory on the way to it have been synced."""
    synced = []
    sync = os.fsync

    def recorded(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        sync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    store.put(sha256(b"adapter"), b"adapter")
    (blob,) = files(tmp_path)
    on_the_way = [blob, *blob.parents]
    needed = on_the_way[: on_the_way.index(tmp_path) + 1]
    assert {path.stat().st_ino for path in needed} <= set(synced)


def test_sweeping_takes_only_old_leftovers(store: BlobStore, tmp_path: Path) -> None:
    """A file that a killed writer left is invisible, and removed once it is old."""
    store.put(sha256(b"adapter"), b"adapter")
    leftover = tmp_path / "store" / "incoming" / "tmp1234"
    leftover.write_bytes(b"half")
    store.sweep(time.time() - 60)
    assert leftover.exists()
    assert store.digests() == {sha256(b"adapter")}
    store.sweep(time.time() + 60)
    assert files(tmp_path / "store" / "incoming") == []
    assert store.exists(sha256(b"adapter"))


def test_a_killed_writer_leaves_whole_blobs_only(store: BlobStore, tmp_path: Path) -> None:
    """After kill -9 all acknowledged blobs are there, and every visible one is whole."""
    acknowledged: set[str] = set()
    for count in range(1, 4):
        acknowledged |= put_until_killed(tmp_path / "store", count, start=1000 * count)
        stored = store.digests()
        assert acknowledged <= stored
        assert len(stored - acknowledged) <= count
        assert all(sha256(store.get(digest, LIMIT)) == digest for digest in stored)


def put_until_killed(root: Path, count: int, start: int) -> set[str]:
    """Let a child put blobs, kill it after `count` acknowledgements; all it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", PUT_FOREVER, str(root), str(start)],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        lines = [child.stdout.readline() for _ in range(count)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return {line.strip() for line in lines if line.endswith("\n")}
