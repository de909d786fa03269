"""Rates counted in memory and in a real Redis, and what happens when that is gone."""

import pytest

from service.errors import RateLimited, TooManyImages
from service.metrics import Metrics
from service.rate_limits import HOLD_OFF_SECONDS, RateCounters
from tests.redis_servers import RedisServer
from tests.service.policy_fakes import Clock

pytestmark = pytest.mark.anyio


class _Counted(Metrics):
    """How often a count was made in memory instead."""

    def __init__(self):
        self.in_memory = 0

    def limits_in_memory(self):
        """See Metrics."""
        self.in_memory += 1


@pytest.fixture(params=["memory", "redis"])
def url(request):
    """Where rates are counted."""
    return None if request.param == "memory" else request.getfixturevalue("redis").emptied()


@pytest.fixture
def metrics():
    """What was counted where."""
    return _Counted()


@pytest.fixture
async def counters(url, metrics):
    """Nothing has been counted yet."""
    counters = RateCounters(url, metrics)
    yield counters
    await counters.close()


async def test_a_quota_is_spent_and_then_refused(counters, metrics):
    """All of it and no more; the refusal says when to come back, and takes nothing."""
    left = [(await counters.spend("acme", "images", 2, 4)).remaining for _ in range(5)]
    assert left == [16, 12, 8, 4, 0]
    for _ in range(3):
        with pytest.raises(RateLimited, match="images") as caught:
            await counters.spend("acme", "images", 2, 1)
        assert 0 < caught.value.retry_after <= 20
        assert caught.value.allowances[0].remaining == 0
    assert metrics.in_memory == 0


async def test_tenants_and_names_are_counted_apart(counters):
    """One that is used up leaves the others as they are."""
    await counters.spend("acme", "images", 1, 10)
    assert (await counters.spend("other", "images", 1, 10)).remaining == 0
    assert (await counters.spend("acme", "requests", 1, 1)).remaining == 9


async def test_more_than_ever_fits_is_told_apart(counters):
    """Waiting would not help."""
    with pytest.raises(TooManyImages, match="at most 10"):
        await counters.spend("acme", "images", 1, 11)


async def test_servers_on_one_redis_count_together(redis):
    """Half through one, half through the other, and then no more through either."""
    url = redis.emptied()
    servers = [RateCounters(url, _Counted()) for _ in range(2)]
    for server in servers:
        await server.spend("acme", "images", 1, 5)
    for server in servers:
        with pytest.raises(RateLimited):
            await server.spend("acme", "images", 1, 1)
        await server.close()


async def test_without_redis_each_server_counts_for_itself_and_says_so(tmp_path, metrics):
    """Nobody is refused for it, a flood still is, and Redis is asked again after a while."""
    clock = Clock()
    with RedisServer(tmp_path, "--save", "") as redis:
        counters = RateCounters(redis.url, metrics, clock=clock)
        await counters.spend("acme", "images", 1, 10)
        redis.kill()
        assert (await counters.spend("acme", "images", 1, 10)).remaining == 0
        with pytest.raises(RateLimited):
            await counters.spend("acme", "images", 1, 1)
        assert metrics.in_memory == 2
        redis.start()
        with pytest.raises(RateLimited):
            await counters.spend("acme", "images", 1, 1)
        assert metrics.in_memory == 3
        clock.now += HOLD_OFF_SECONDS
        assert (await counters.spend("acme", "images", 1, 1)).remaining == 9
        assert metrics.in_memory == 3
        await counters.close()
