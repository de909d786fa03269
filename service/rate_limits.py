"""Counts requests and images of tenants: in Redis for all servers together, or in memory."""

import time
from collections.abc import Callable

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from service.errors import RateLimited, TooManyImages
from service.limits import WINDOW_SECONDS, Window, quota_of
from service.metrics import Metrics
from service.types import Allowance

ANSWER_SECONDS = 0.25
HOLD_OFF_SECONDS = 5.0
PREFIX = "{protuning}:limits"

log = structlog.get_logger(__name__)


class RateCounters:
    """Sliding windows by tenant and by what is counted.

    While Redis is gone each server counts for itself: nobody is refused for a failure of ours, and
    a flood is still held to the limit on each server.

    Args:
        url: A Redis (`redis://`, `rediss://`), or None for this process's memory.
        metrics: Told of every count that had to be made in memory instead.
        clock: Monotonic seconds.
    """

    def __init__(
        self, url: str | None, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = MemoryStorage()
        self._redis = None if url is None else _redis(url)
        self._metrics = metrics
        self._clock = clock
        self._redis_is_gone_until = 0.0

    async def spend(self, tenant: str, name: str, per_second: float, cost: int) -> Allowance:
        """Take `cost` from a tenant's allowance called `name`.

        Raises:
            RateLimited: less is left now; nothing was taken.
            TooManyImages: more than is ever there at once.
        """
        quota = quota_of(per_second)
        if cost > quota:
            raise TooManyImages(
                f"{cost} {name} in one request are more than your limit of {per_second:g} a second "
                f"allows in {WINDOW_SECONDS} seconds. Send at most {quota} at once."
            )
        item = RateLimitItemPerSecond(quota, WINDOW_SECONDS)
        is_taken, window = await self._count(item, tenant, name, cost)
        allowance = window.allowance(name, quota)
        if is_taken:
            return allowance
        retry_after = window.seconds_until(cost, quota)
        raise RateLimited(
            f"Your limit of {per_second:g} {name} a second is used up. Try again in "
            f"{retry_after:.1f} s, or ask the operator for more.",
            retry_after=retry_after,
            allowances=(allowance,),
        )

    async def close(self) -> None:
        """Free the connections."""
        if self._redis is not None:
            client = self._redis.bridge.get_connection()  # type: ignore[attr-defined] # redis-py's
            await client.aclose()

    async def _count(
        self, item: RateLimitItemPerSecond, tenant: str, name: str, cost: int
    ) -> tuple[bool, Window]:
        if self._redis is not None and self._clock() >= self._redis_is_gone_until:
            try:
                return await _hit(self._redis, item, tenant, name, cost)
            except StorageError as error:
                self._redis_is_gone_until = self._clock() + HOLD_OFF_SECONDS
                log.warning("limits_in_memory", exc_info=error)
        if self._redis is not None:
            self._metrics.limits_in_memory()
        return await _hit(self._memory, item, tenant, name, cost)


def _redis(url: str) -> RedisStorage:
    return RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix=PREFIX,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
    )


async def _hit(
    storage: MemoryStorage | RedisStorage,
    item: RateLimitItemPerSecond,
    tenant: str,
    name: str,
    cost: int,
) -> tuple[bool, Window]:
    limiter = SlidingWindowCounterRateLimiter(storage)
    is_taken = await limiter.hit(item, name, tenant, cost=cost)
    counts = await storage.get_sliding_window(item.key_for(name, tenant), item.get_expiry())
    return is_taken, Window(*counts)
