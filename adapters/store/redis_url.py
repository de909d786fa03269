"""From an index's URL to a Redis client: one server, a cluster, or a group behind Sentinels."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import (
    ConnectionPool,
    Redis,
    RedisCluster,
    Sentinel,
    SentinelConnectionPool,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from adapters.errors import UnsupportedStoreUrl

CONNECTIONS = 32
CONNECT_SECONDS = 2.0
# An append-only file on a busy disk holds Redis up for two seconds before it gives way.
ANSWER_SECONDS = 5.0
SENTINEL_PORT = 26_379

RedisClient = Redis | RedisCluster

# A command is sent once: after a lost answer nobody knows whether it ran, so trying again is the
# caller's decision. A pooled connection that has died is replaced before anything is sent.
_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": ANSWER_SECONDS,
    "socket_connect_timeout": CONNECT_SECONDS,
}


def connect(url: str) -> RedisClient:
    """A client for one of these, each also with `rediss` for TLS; nothing is sent yet.

    - `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE][?OPTIONS]`
    - `redis+cluster://[[USER]:PASSWORD@]HOST[:PORT][?OPTIONS]`: any node of the cluster
    - `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/GROUP[/DATABASE][?OPTIONS]`

    OPTIONS are redis-py's own, such as `ssl_ca_certs=PATH`; Sentinels that want a password of
    their own get it by `sentinel_username` and `sentinel_password`.

    Raises:
        UnsupportedStoreUrl: it is none of these.
    """
    scheme, _, rest = url.partition("://")
    plain, _, topology = scheme.partition("+")
    try:
        if plain not in {"redis", "rediss"}:
            raise ValueError("unknown scheme")
        if topology == "cluster":
            return RedisCluster.from_url(f"{plain}://{rest}", **_OPTIONS)
        if topology == "sentinel":
            return _behind_sentinels(plain, rest)
        if topology:
            raise ValueError(f"unknown topology {topology!r}")
        return Redis.from_url(url, **_OPTIONS)
    except (ValueError, TypeError) as error:
        raise UnsupportedStoreUrl(
            f"{public_name(url)!r} is not a Redis URL ({error}). Write redis://HOST:PORT/DATABASE, "
            "redis+cluster://HOST:PORT or redis+sentinel://HOST:PORT/GROUP, or rediss for TLS."
        ) from None  # the cause may show the password


async def close(client: RedisClient) -> None:
    """Free a client's connections, those to Sentinels among them."""
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()
    await client.aclose()


def public_name(url: str) -> str:
    """The URL as messages and logs may show it: without credentials and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def _behind_sentinels(plain: str, rest: str) -> Redis:
    credentials, _, address = rest.partition("?")[0].rpartition("@")
    hosts, _, path = address.partition("/")
    group, _, database = path.partition("/")
    if not group:
        raise ValueError("the group that the Sentinels watch is missing")
    query = dict(parse_qsl(rest.partition("?")[2]))
    own = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    # redis-py's parser knows all options and their types.
    options = ConnectionPool.from_url(
        f"{plain}://{credentials}@_/{database}?{urlencode(query)}", **_OPTIONS
    ).connection_kwargs
    options.pop("host")
    tls = {"ssl": True} if plain == "rediss" else {}
    sentinels = [_address(host) for host in hosts.split(",")]
    sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis-py leaves it so
        sentinels, sentinel_kwargs={**_OPTIONS, **own, **tls}, **options, **tls
    )
    client: Redis = sentinel.master_for(unquote(group))
    return client


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("a Sentinel's host is missing")
    return parts.hostname, parts.port or SENTINEL_PORT
