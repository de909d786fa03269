"""Commands and scripts sent to Redis: whole or not at all, with this project's errors."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
)

from adapters.errors import StoreFull, StoreUnavailable
from adapters.store.index import KEPT_ACTIVATIONS, KEPT_CHANGES
from adapters.store.redis_url import CONNECTIONS, close, connect, public_name

# One hash tag: in a cluster all keys lie on one node, and a script may use them all.
ROOT = "{protuning}"

# Strings, numbers and lists of them: it depends on the command.
Reply = Any


class RedisScripts:
    """One Redis, by its URL (see `connect`). The constructor sends nothing.

    Every method can raise StoreUnavailable. What was sent runs to its end although the caller is
    cancelled.
    """

    def __init__(self, url: str) -> None:
        self._name = public_name(url)
        self._client = connect(url)
        # A cluster's pool and that of Sentinels refuse what they have no connection for.
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._running: set[asyncio.Task[Any]] = set()

    async def command(self, *parts: str | float) -> Reply:
        """Run a command, such as `command("GET", key_of("sequence"))`; see Redis for its result."""
        return await self._finish(lambda: self._client.execute_command(*parts))

    async def script(self, name: str, *arguments: str | float) -> Reply:
        """Run `lua/<name>.lua` with the arguments; returns what it returns."""
        return await self._finish(lambda: self._evaluate(name, arguments))

    async def close(self) -> None:
        """Let what was sent end, then free the connections."""
        if self._running:
            await asyncio.wait(self._running)
        with _store_errors(self._name):
            await close(self._client)

    async def _evaluate(self, name: str, arguments: tuple[str | float, ...]) -> Reply:
        source, digest = _source(name)
        try:
            return await self._client.execute_command("EVALSHA", digest, 1, ROOT, *arguments)
        except NoScriptError:
            return await self._client.execute_command("EVAL", source, 1, ROOT, *arguments)

    async def _finish(self, work: Callable[[], Awaitable[Any]]) -> Reply:
        """A caller that is cancelled leaves the work, and its connection, to finish."""
        task = asyncio.create_task(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _run(self, work: Callable[[], Awaitable[Any]]) -> Reply:
        async with self._connections:
            with _store_errors(self._name):
                return await work()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more


def key_of(*parts: str) -> str:
    """The full name of a key; docs/store.md draws the layout."""
    return ":".join([ROOT, *parts])


@cache
def _source(name: str) -> tuple[str, str]:
    """A script's text behind what it stands on, and the digest that Redis knows it by."""
    lua = files("adapters.store") / "lua"
    source = "\n".join(
        [
            f"local kept_changes, kept_activations = {KEPT_CHANGES}, {KEPT_ACTIVATIONS}",
            (lua / "layout.lua").read_text(),
            (lua / f"{name}.lua").read_text(),
        ]
    )
    return source, sha1(source.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def _store_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull(
            f"The index {name} has no memory left ({error}). Raise its maxmemory, then try again."
        ) from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise StoreUnavailable(
            f"The index {name} cannot be used ({error}). Check the address, the credentials and "
            "the server's log, then try again."
        ) from error
