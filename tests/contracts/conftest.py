"""The implementations that the contract suites run on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from adapters.store.index import Index, TaskKey, Version
from adapters.store.opening import open_index
from tests.redis_servers import RedisServer

INDEXES = ("sqlite", "redis", "redis-cluster")
FLOWERS = TaskKey(task="flowers")
RESNET = "a" * 64


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


@pytest.fixture(params=INDEXES)
def new_index_url(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Gives the URL of a fresh index for each directory; in Redis it ends the one before."""
    if request.param == "sqlite":
        return lambda directory: f"sqlite:///{directory}/index.db"
    server: RedisServer = request.getfixturevalue(request.param.replace("-", "_"))
    return lambda _: server.emptied()


@pytest.fixture
def index_url(new_index_url: Callable[[Path], str], tmp_path: Path) -> str:
    """Where a fresh index is."""
    return new_index_url(tmp_path)


@pytest.fixture
async def index(index_url: str) -> AsyncIterator[Index]:
    """A fresh index."""
    index = open_index(index_url)
    yield index
    await index.close()


@pytest.fixture
def register(index: Index) -> Callable[..., Awaitable[Version]]:
    """Registers the checkpoint of a number, of which nothing but the digest matters."""

    async def register(
        key: TaskKey = FLOWERS, number: int = 1, fingerprint: str = RESNET, now: float = 0
    ) -> Version:
        return await index.register(
            key, f"{number:064x}", fingerprint=fingerprint, size=number, metadata={}, now=now
        )

    return register


@pytest.fixture
def make_active(
    index: Index, register: Callable[..., Awaitable[Version]]
) -> Callable[..., Awaitable[Version]]:
    """Registers a checkpoint, proves it and makes it the active one, whichever was before."""

    async def make_active(
        number: int, key: TaskKey = FLOWERS, fingerprint: str = RESNET
    ) -> Version:
        version = await register(key, number, fingerprint)
        await index.set_state(key, version.version, "ready", now=0)
        expected = (await index.get_task(key)).active.get(fingerprint)
        await index.activate(key, version.version, expected=expected, now=0)
        return version

    return make_active
