"""What only blobs in an object store do: outages, and no cache that lies."""

import hashlib

import pytest

from adapters.errors import BlobMissing, StoreUnavailable, UnsupportedStoreUrl
from adapters.store.blobs import BlobStore
from tests.s3_servers import S3Server

LIMIT = 1_000


def sha256(data: bytes) -> str:
    """The digest of these tests."""
    return hashlib.sha256(data).hexdigest()


def test_an_outage_is_unavailable_and_then_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation tells, none by a guess or another library's error; then all goes on."""
    digest = sha256(b"adapter")
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = BlobStore(f"{server.url}/outage", sha256)
        store.put(digest, b"adapter")
        assert store.digests() == {digest}
        server.stop()
        for operation in (
            lambda: store.get(digest, LIMIT),
            lambda: store.put(digest, b"adapter"),
            lambda: store.exists(digest),
            lambda: store.is_older(digest, 0),
            lambda: store.discard(digest),
            store.digests,
            store.check,
        ):
            with pytest.raises(StoreUnavailable):
                operation()
        server.start()
        store.put(digest, b"adapter")
        assert store.get(digest, LIMIT) == b"adapter"


def test_what_another_server_deletes_is_gone_here(s3: S3Server) -> None:
    """Neither lists nor look-ups come from a memory of how it was."""
    digest = sha256(b"adapter")
    ours, theirs = (BlobStore(f"{s3.url}/shared", sha256) for _ in range(2))
    ours.put(digest, b"adapter")
    assert ours.exists(digest)
    assert ours.digests() == {digest}
    theirs.purge(theirs.discard(digest))
    assert not ours.exists(digest)
    assert ours.digests() == set()
    with pytest.raises(BlobMissing):
        ours.get(digest, LIMIT)


@pytest.mark.parametrize("url", ["no-such-scheme://place", "hdfs+nothing://place"])
def test_places_that_nothing_reaches_are_refused(url: str) -> None:
    """The message says what to write."""
    with pytest.raises(UnsupportedStoreUrl, match="s3://BUCKET/PREFIX"):
        BlobStore(url, sha256)
