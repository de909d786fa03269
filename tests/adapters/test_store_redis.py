"""What only the Redis index does: addresses, refusals, restarts, warnings about its settings."""

import subprocess

import pytest
import trustme

from adapters.errors import IndexTooNew, StoreFull, StoreUnavailable, UnsupportedStoreUrl
from adapters.store.index import TaskKey
from adapters.store.opening import open_index
from tests.redis_servers import RedisServer, free_port, program

FLOWERS = TaskKey(task="flowers")
RESNET = "a" * 64

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on."""
    return "asyncio"


async def register(index, number=1):
    """Register the checkpoint of a number."""
    return await index.register(
        FLOWERS, f"{number:064x}", fingerprint=RESNET, size=1, metadata={}, now=0
    )


async def test_a_killed_redis_is_unavailable_and_then_back(tmp_path):
    """No operation hangs or half happens meanwhile, and what was acknowledged is still there."""
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        index = open_index(server.url)
        first = await register(index)
        server.kill()
        for operation in (
            register(index, 2),
            index.resolve(FLOWERS, RESNET),
            index.get_version(FLOWERS, 1),
            index.wait_for_change(1, timeout=1),
            index.referenced_digests(),
        ):
            with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1"):
                await operation
        server.start()
        assert await index.list_versions(FLOWERS, limit=9) == [first]
        assert (await register(index, 2)).version == 2
        await index.close()


async def test_an_index_is_opened_before_its_redis_is_there(tmp_path):
    """A server may start first; the index works as soon as Redis does."""
    server = RedisServer(tmp_path)
    index = open_index(server.url)
    with pytest.raises(StoreUnavailable):
        await index.last_change()
    with server:
        assert await index.last_change() == 0
        await index.close()


async def test_sentinels_lead_to_the_master(redis, tmp_path):
    """The client asks a Sentinel that answers, where another does not, and works on the master."""
    redis.emptied()
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"port {port}\nsentinel monitor tasks 127.0.0.1 {redis.port} 1\n")
    process = subprocess.Popen(
        [program(), configuration, "--sentinel"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert any("+monitor master tasks" in line for line in process.stdout)
        index = open_index(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/tasks/0")
        await register(index)
        await index.close()
    finally:
        process.kill()
        process.communicate()
    plain = open_index(redis.url)
    assert (await plain.get_version(FLOWERS, 1)).version == 1
    await plain.close()


@pytest.fixture
def certificate(tmp_path):
    """The path of an authority's certificate, and of a key with a chain for 127.0.0.1."""
    authority, server = tmp_path / "authority.pem", tmp_path / "server.pem"
    maker = trustme.CA()
    maker.cert_pem.write_to_path(authority)
    maker.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    return str(authority), str(server)


async def test_tls_is_in_the_url(tmp_path, certificate):
    """`rediss` encrypts and checks the certificate against the authority that the URL names."""
    authority, own = certificate
    port = free_port()
    arguments = ("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no")
    with RedisServer(tmp_path, *arguments, "--tls-cert-file", own, "--tls-key-file", own):
        trusting = open_index(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority}")
        await register(trusting)
        await trusting.close()
        doubting = open_index(f"rediss://127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailable, match="certificate"):
            await register(doubting)
        await doubting.close()


async def test_passwords_are_checked_and_never_shown(tmp_path):
    """The right one opens, the wrong one is refused by a message that does not tell it."""
    with RedisServer(tmp_path, "--requirepass", "right") as server:
        address = f"127.0.0.1:{server.port}/1"
        index = open_index(f"redis://:right@{address}")
        await register(index)
        await index.close()
        other = open_index(f"redis://:wrong-one@{address}")
        with pytest.raises(StoreUnavailable) as refusal:
            await register(other)
        await other.close()
    assert "wrong-one" not in str(refusal.value)
    assert address in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis+ring://user:secret@host",
        "redis+sentinel://user:secret@host:1",
        "redis+sentinel://user:secret@/group",
        "redis://user:secret@host:port/0",
        "rediss+cluster://user:secret@host/0?no_such_option=1",
        "http://user:secret@host",
    ],
)
def test_unusable_urls_are_refused(url):
    """The message says what to write and keeps the password."""
    with pytest.raises(UnsupportedStoreUrl, match=r"redis://HOST:PORT") as refusal:
        open_index(url)
    assert "secret" not in str(refusal.value)


async def test_a_newer_layout_is_refused(redis):
    """An older release touches nothing that a newer one has laid out."""
    redis.emptied()
    with redis.client() as client:
        client.set("{protuning}:layout", 2)
        index = open_index(redis.url)
        with pytest.raises(IndexTooNew, match="Upgrade protuning"):
            await register(index)
        await index.close()
        assert client.keys("*") == ["{protuning}:layout"]


async def test_a_full_redis_is_told_from_one_that_is_gone(tmp_path):
    """Out of memory is StoreFull, nothing of the operation is kept, reading and deleting go on."""
    with RedisServer(tmp_path) as server, server.client() as client:
        index = open_index(server.url)
        await register(index)
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreFull, match="maxmemory"):
            await register(index, 2)
        assert len(await index.list_versions(FLOWERS, limit=9)) == 1
        await index.delete_task(FLOWERS, now=1.0)
        client.config_set("maxmemory", 0)
        assert (await register(index, 2)).version == 2
        await index.close()


async def test_risky_settings_are_told(tmp_path):
    """A Redis that forgets or evicts is named; a careful one is not."""
    with RedisServer(tmp_path) as server, server.client() as client:
        index = open_index(server.url)
        for settings, words in (
            ({"appendonly": "no", "save": ""}, ["keeps nothing on disk"]),
            ({"save": "3600 1"}, ["no append-only file"]),
            ({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, ["append-only", "evict"]),
            ({"appendonly": "yes", "maxmemory-policy": "noeviction"}, []),
        ):
            for name, value in settings.items():
                client.config_set(name, value)
            found = await index.warnings()
            assert len(found) == len(words)
            assert all(word in sentence for word, sentence in zip(words, found, strict=True))
        client.acl_setuser("default", commands=["-config"])
        (sentence,) = await index.warnings()
        assert "cannot be told" in sentence
        await index.close()
