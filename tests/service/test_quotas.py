"""Quotas: whose limits hold, what is under way, and what a refusal leaves behind."""

import pytest

from service.errors import QuotaExceeded, RateLimited
from service.limits import TenantLimits
from tests.service import policy_fakes

pytestmark = pytest.mark.anyio


async def test_limits_follow_the_records():
    """Set through one server, they hold on another after its next read."""
    records = policy_fakes.MemoryRecords()
    here = policy_fakes.quotas(records)
    mirror = policy_fakes.policies(records, TenantLimits)
    there = policy_fakes.quotas(mirror=mirror)
    await here.override("acme", TenantLimits(weight=5))
    assert here.limits("acme").weight == 5
    assert there.limits("acme").weight == 1
    await mirror.refresh()
    assert there.limits("acme").weight == 5
    await here.reset("acme")
    assert here.limits("acme") == policy_fakes.UNLIMITED


async def test_images_under_way_are_bounded():
    """Beside what is under way no more; when it has ended, again."""
    quotas = policy_fakes.quotas(defaults=TenantLimits(concurrent_images=10))
    async with quotas.admit("acme", 6):
        with pytest.raises(RateLimited, match="6 of your images"):
            async with quotas.admit("acme", 5):
                pass
        async with quotas.admit("acme", 4), quotas.admit("other", 10):
            pass
    async with quotas.admit("acme", 10):
        pass


async def test_one_request_alone_is_always_let_in():
    """Else a limit below a request's own would mean never."""
    quotas = policy_fakes.quotas(defaults=TenantLimits(concurrent_images=1))
    async with quotas.admit("acme", 64):
        pass


async def test_a_refused_request_holds_nothing():
    """After any number of refusals the places are free."""
    quotas = policy_fakes.quotas(
        defaults=TenantLimits(concurrent_images=2, requests_per_second=0.1)
    )
    async with quotas.admit("acme", 1) as allowances:
        assert [each.name for each in allowances] == ["requests"]
    for _ in range(10):
        with pytest.raises(RateLimited, match="requests"):
            async with quotas.admit("acme", 1):
                pass
    await quotas.override("acme", TenantLimits(requests_per_second=None))
    async with quotas.admit("acme", 2):
        pass


async def test_without_rates_nothing_is_counted():
    """No allowance, so no header either."""
    async with policy_fakes.quotas().admit("acme", 64) as allowances:
        assert allowances == ()


async def test_what_is_stored_is_bounded():
    """Exactly at the limit it is still fine."""
    quotas = policy_fakes.quotas(defaults=TenantLimits(tasks=2, stored_bytes=100))
    quotas.check_stored("acme", tasks=2, stored_bytes=100)
    with pytest.raises(QuotaExceeded, match="limited to 2"):
        quotas.check_stored("acme", tasks=3, stored_bytes=100)
    with pytest.raises(QuotaExceeded, match="100 bytes"):
        quotas.check_stored("acme", tasks=2, stored_bytes=101)
    await quotas.override("acme", TenantLimits(tasks=None, stored_bytes=None))
    quotas.check_stored("acme", tasks=10**9, stored_bytes=10**15)
