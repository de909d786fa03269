"""Moving a store: embedded to Redis and S3 and back, interrupted, repeated, damaged."""

import asyncio
import hashlib
import json
import uuid

import pytest
from typer.testing import CliRunner

import protuning.cli
from adapters.container import digest_of
from adapters.errors import BlobMissing, StoreUnavailable
from adapters.store.blobs import BlobStore
from adapters.store.copying import Store, copy_store
from adapters.store.index import Replay, TaskKey, Verdict
from adapters.store.opening import open_index, open_records
from tests import makers

RESNET = "a" * 64
KEYS = [TaskKey(task="flowers"), TaskKey(task="birds"), TaskKey(tenant="acme", task="flowers")]

pytestmark = pytest.mark.anyio


def sha256(data):
    """The digest of these tests."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def embedded(tmp_path):
    """The URLs of an index and of blobs on a disk."""
    return f"sqlite:///{tmp_path}/index.db", str(tmp_path / "store")


@pytest.fixture
def shared(redis, s3):
    """The URLs of an index in Redis and of blobs in S3."""
    return redis.emptied(), f"{s3.url}/{uuid.uuid4().hex}"


@pytest.fixture
async def opened():
    """Opens stores by their URLs."""
    stores = []

    def open_store(urls):
        index, blobs = urls
        stores.append(Store(open_index(index), open_records(index), BlobStore(blobs, sha256)))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.records.close()
        await store.index.close()


async def filled(store):
    """Three tasks with two versions each, a deleted one, verdicts, a key and a removed one."""
    for number, key in enumerate([*KEYS, TaskKey(task="gone")]):
        for version in (1, 2):
            data = f"{number} {version}".encode()
            store.blobs.put(sha256(data), data)
            await store.index.register(
                key, sha256(data), fingerprint=RESNET, size=len(data), metadata={}, now=number
            )
            await store.index.set_state(key, version, "ready", now=number)
            await store.index.activate(
                key, version, expected=None if version == 1 else 1, now=number
            )
            replay = Replay(
                digest=sha256(data), fingerprint=RESNET, engine="torch", dtype="float32"
            )
            await store.index.put_verdict(replay, Verdict(passed=True, detail="", at=number))
    await store.index.delete_task(TaskKey(task="gone"), now=9)
    await store.records.put("key", "one", {"tenant": "acme"})
    await store.records.put("key", "two", {"tenant": "acme"})
    await store.records.put("key", "two", None)


async def contents(store):
    """Everything that a user or an operator could notice."""
    tasks = {task.key: task for task in await store.index.dump(None, limit=100)}
    digests = {version.digest for task in tasks.values() for version in task.versions}
    return (
        tasks,
        {digest: store.blobs.get(digest, 99) for digest in digests},
        {digest: await store.index.verdicts(digest) for digest in digests},
        {
            (each.kind, each.name): each.document
            for each in await store.records.since(0, limit=9)
            if each.document is not None
        },
    )


async def test_there_and_back_again(opened, embedded, shared, tmp_path):
    """Nothing is lost between a disk and Redis with S3, in either direction."""
    first, second = opened(embedded), opened(shared)
    third = opened((f"sqlite:///{tmp_path}/back.db", str(tmp_path / "back")))
    await filled(first)
    copied = await copy_store(first, second, max_bytes=99, now=10)
    assert (copied.tasks, copied.new_tasks, copied.blobs, copied.new_blobs) == (4, 4, 6, 6)
    await copy_store(second, third, max_bytes=99, now=11)
    assert await contents(first) == await contents(second) == await contents(third)
    assert (await second.index.rollback(KEYS[0], RESNET, expected=2, now=12)).version == 1
    version = await third.index.register(
        TaskKey(task="gone"), "f" * 64, fingerprint=RESNET, size=1, metadata={}, now=12
    )
    assert version.version == 3


async def test_a_second_copy_brings_what_is_new(opened, embedded, shared):
    """What is there already is left alone, so that no server reads it again."""
    source, target = opened(embedded), opened(shared)
    await filled(source)
    await copy_store(source, target, max_bytes=99, now=10)
    events = await target.index.last_change()
    again = await copy_store(source, target, max_bytes=99, now=11)
    assert (again.new_tasks, again.new_blobs) == (0, 0)
    assert await target.index.last_change() == events
    await source.index.rollback(KEYS[1], RESNET, expected=2, now=12)
    target.blobs._fs.pipe_file(target.blobs._blob(sha256(b"0 1")), b"damaged")
    mending = await copy_store(source, target, max_bytes=99, now=13)
    assert (mending.new_tasks, mending.new_blobs) == (1, 1)
    assert await contents(source) == await contents(target)


async def test_an_interrupted_copy_goes_on(opened, embedded, shared):
    """Blobs come before the task that needs them, and what was copied is not copied again."""
    source, target = opened(embedded), opened(shared)
    await filled(source)
    put, puts = target.blobs.put, []

    def failing(digest, data):
        if len(puts) == 3:
            raise StoreUnavailable("The network is gone.")
        puts.append(digest)
        put(digest, data)

    target.blobs.put = failing
    with pytest.raises(StoreUnavailable):
        await copy_store(source, target, max_bytes=99, now=10)
    for task in await target.index.dump(None, limit=9):
        assert all(target.blobs.exists(version.digest) for version in task.versions)
    target.blobs.put = put
    copied = await copy_store(source, target, max_bytes=99, now=11)
    assert copied.new_blobs == 3
    assert await contents(source) == await contents(target)


async def test_a_missing_blob_is_named(opened, embedded, shared):
    """A version that could not be served is not copied in silence."""
    source, target = opened(embedded), opened(shared)
    await filled(source)
    source.blobs.purge(source.blobs.discard(sha256(b"2 1")))
    with pytest.raises(BlobMissing, match=sha256(b"2 1")):
        await copy_store(source, target, max_bytes=99, now=10)


def test_the_commands(embedded, shared):
    """From the command line: a copy, what it says, and a collection that finds no garbage."""
    checkpoint = makers.checkpoint()
    BlobStore(embedded[1], digest_of).put(checkpoint.digest, checkpoint.data)

    async def register():
        index = open_index(embedded[0])
        await index.register(
            KEYS[0], checkpoint.digest, fingerprint=RESNET, size=1, metadata={}, now=1
        )
        await index.close()

    asyncio.run(register())
    run = CliRunner().invoke(protuning.cli.app, ["store", "copy", *embedded, *shared, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["new_blobs"] == 1
    run = CliRunner().invoke(protuning.cli.app, ["store", "collect", *shared])
    assert "deleted: 0" in run.stdout


def test_a_wrong_path_is_no_empty_index(embedded, shared, tmp_path):
    """Commands that read an index do not make one, whose every checkpoint would be garbage."""
    wrong = tmp_path / "typo" / "index.db"
    for arguments in (
        ("copy", f"sqlite:///{wrong}", embedded[1], *shared),
        ("collect", f"sqlite:///{wrong}", embedded[1]),
    ):
        run = CliRunner().invoke(protuning.cli.app, ["store", *arguments])
        assert isinstance(run.exception, StoreUnavailable)
        assert str(wrong) in str(run.exception)
    assert not wrong.parent.exists()
