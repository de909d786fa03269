"""What every place for blobs must do; a new one is one more entry in `PLACES`."""

import hashlib
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapters.errors import BlobMissing, CheckpointTooLarge, CorruptBlob
from adapters.store.blobs import BlobStore

PLACES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "directory": lambda request: str(request.getfixturevalue("tmp_path") / "store"),
    "memory": lambda _: f"memory://{uuid.uuid4().hex}",
    "s3": lambda request: f"{request.getfixturevalue('s3').url}/{uuid.uuid4().hex}",
}
LIMIT = 1_000_000


def sha256(data: bytes) -> str:
    """The digest of these tests."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest) -> str:
    """A fresh place."""
    return PLACES[request.param](request)


@pytest.fixture
def store(url: str) -> BlobStore:
    """A store in a fresh place."""
    return BlobStore(url, sha256)


def damage(store: BlobStore, digest: str) -> None:
    """Change a stored blob behind the store's back."""
    store._fs.pipe_file(store._blob(digest), b"damaged")


@pytest.mark.parametrize("data", [b"", b"adapter", bytes(range(256)) * 400])
def test_bytes_come_back(store: BlobStore, data: bytes) -> None:
    """What was put is what is got."""
    store.put(sha256(data), data)
    assert store.exists(sha256(data))
    assert store.get(sha256(data), LIMIT) == data


def test_a_second_store_sees_the_blob(store: BlobStore, url: str) -> None:
    """The bytes lie in the place, not in the object."""
    store.put(sha256(b"adapter"), b"adapter")
    assert BlobStore(url, sha256).get(sha256(b"adapter"), LIMIT) == b"adapter"


def test_putting_twice_is_putting_once(store: BlobStore) -> None:
    """Put is idempotent."""
    for _ in range(2):
        store.put(sha256(b"adapter"), b"adapter")
    assert store.digests() == {sha256(b"adapter")}
    assert store.get(sha256(b"adapter"), LIMIT) == b"adapter"


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    """Get of an unknown digest raises, also in an empty store."""
    digest = sha256(b"never put")
    assert not store.exists(digest)
    with pytest.raises(BlobMissing, match=digest):
        store.get(digest, LIMIT)


def test_the_limit_is_inclusive(store: BlobStore) -> None:
    """A blob of exactly the limit is read, one byte more is refused."""
    store.put(sha256(b"12345"), b"12345")
    assert store.get(sha256(b"12345"), 5) == b"12345"
    with pytest.raises(CheckpointTooLarge, match="more than 4 bytes"):
        store.get(sha256(b"12345"), 4)


def test_a_damaged_blob_goes_into_quarantine(store: BlobStore) -> None:
    """It is named, kept aside as it is, and served to nobody."""
    digest = sha256(b"adapter")
    store.put(digest, b"adapter")
    damage(store, digest)
    with pytest.raises(CorruptBlob, match=digest):
        store.get(digest, LIMIT)
    assert store._fs.cat_file(store._aside("quarantine", digest)) == b"damaged"
    assert digest not in store.digests()
    with pytest.raises(BlobMissing):
        store.get(digest, LIMIT)


def test_putting_again_heals(store: BlobStore) -> None:
    """A damaged blob is whole after the next put, whether it was noticed or not."""
    digest = sha256(b"adapter")
    store.put(digest, b"adapter")
    damage(store, digest)
    store.put(digest, b"adapter")
    assert store.get(digest, LIMIT) == b"adapter"


def test_a_blob_healed_during_the_reading_is_kept(url: str) -> None:
    """Damage that another process has mended meanwhile is not taken for damage."""
    digest = sha256(b"adapter")

    def digest_of(data: bytes) -> str:
        if data == b"damaged":
            healer.put(digest, b"adapter")
        return sha256(data)

    healer, store = BlobStore(url, sha256), BlobStore(url, digest_of)
    store.put(digest, b"adapter")
    damage(store, digest)
    assert store.get(digest, LIMIT) == b"adapter"
    assert store.get(digest, LIMIT) == b"adapter"


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_digests_name_blobs(store: BlobStore, digest: str) -> None:
    """No name can lead out of the store."""
    with pytest.raises(ValueError, match="not a digest"):
        store.put(digest, b"adapter")


def test_digests_lists_what_was_put(store: BlobStore) -> None:
    """Exactly the digests, however many."""
    assert store.digests() == set()
    blobs = [str(number).encode() for number in range(30)]
    for blob in blobs:
        store.put(sha256(blob), blob)
    assert store.digests() == {sha256(blob) for blob in blobs}


def test_age_is_counted_from_the_last_put(store: BlobStore) -> None:
    """A blob is older than the future and not older than the past; a missing one has no age."""
    digest = sha256(b"adapter")
    assert not store.is_older(digest, time.time() + 60)
    store.put(digest, b"adapter")
    assert store.is_older(digest, time.time() + 60)
    assert not store.is_older(digest, time.time() - 60)


def test_discarded_blobs_can_be_restored(store: BlobStore) -> None:
    """Discarding hides a blob, restoring brings it back; repeating either is harmless."""
    digest = sha256(b"adapter")
    store.put(digest, b"adapter")
    name = store.discard(digest)
    assert not store.exists(digest)
    assert store.digests() == set()
    assert store.discarded() == {name}
    assert store.discard(digest) != name
    for _ in range(2):
        store.restore(name)
    assert store.discarded() == set()
    assert store.get(digest, LIMIT) == b"adapter"


def test_purging_takes_one_discarded_blob(store: BlobStore) -> None:
    """Neither a blob put since nor another one's discarded blob is touched."""
    digest = sha256(b"adapter")
    names = []
    for _ in range(2):
        store.put(digest, b"adapter")
        names.append(store.discard(digest))
    store.put(digest, b"adapter")
    for _ in range(2):
        store.purge(names[0])
    assert store.discarded() == {names[1]}
    assert store.get(digest, LIMIT) == b"adapter"


def test_readers_never_see_half_a_blob(store: BlobStore) -> None:
    """While several threads put a blob over and over, every get gives it whole."""
    data = bytes(200_000)
    digest = sha256(data)
    store.put(digest, data)
    with ThreadPoolExecutor(4) as pool:
        puts = [pool.submit(store.put, digest, data) for _ in range(40)]
        gets = [pool.submit(store.get, digest, LIMIT) for _ in range(80)]
        assert all(get.result() == data for get in gets)
        assert all(put.result() is None for put in puts)
