"""Holds tenants to their limits: which ones are theirs, and how much of them is in use."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import QuotaExceeded, RateLimited
from service.limits import TenantLimits
from service.policies import Policies
from service.rate_limits import RateCounters
from service.types import Allowance

RETRY_AFTER = 1.0


class Quotas:
    """The limits of tenants, and what is under way for each.

    Args:
        policies: Has the limits that were set for single tenants.
        defaults: Those of all others.
        counters: Count requests and images.
    """

    def __init__(self, policies: Policies, defaults: TenantLimits, counters: RateCounters) -> None:
        self._policies = policies
        self._defaults = defaults
        self._counters = counters
        self._under_way: Counter[str] = Counter()

    def limits(self, tenant: str) -> TenantLimits:
        """What holds for a tenant."""
        return self._defaults.changed_by(self._policies.get(TenantLimits, tenant))

    def overridden(self) -> dict[str, TenantLimits]:
        """The tenants for which something was set, and what."""
        return self._policies.all(TenantLimits)

    async def override(self, tenant: str, overrides: TenantLimits) -> None:
        """Set those of a tenant's limits that `overrides` sets, and no others.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._policies.put(tenant, overrides)

    async def reset(self, tenant: str) -> None:
        """Let the defaults hold for a tenant.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._policies.remove(TenantLimits, tenant)

    @asynccontextmanager
    async def admit(
        self, tenant: str, images: int, *, predictions: int = 1
    ) -> AsyncIterator[tuple[Allowance, ...]]:
        """One request with so many images in all its predictions, from its arrival to its answer.

        What is refused for its images has been counted as a prediction all the same.

        Raises:
            RateLimited: over the tenant's limit.
            TooManyImages: over it by itself.
        """
        limits = self.limits(tenant)
        self._check_under_way(limits, tenant, images)
        self._under_way[tenant] += images
        try:
            yield await self._spend(limits, tenant, images, predictions)
        finally:
            self._under_way[tenant] -= images
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    def check_stored(self, tenant: str, *, tasks: int, stored_bytes: int) -> None:
        """Return if a tenant may have so many tasks and bytes.

        Raises:
            QuotaExceeded: it may not.
        """
        limits = self.limits(tenant)
        if limits.tasks is not None and tasks > limits.tasks:
            raise QuotaExceeded(
                f"The number of your tasks is limited to {limits.tasks:,}. Delete one, or ask the "
                "operator for more."
            )
        if limits.stored_bytes is not None and stored_bytes > limits.stored_bytes:
            raise QuotaExceeded(
                f"Your checkpoints may weigh {limits.stored_bytes:,} bytes together, and would be "
                f"{stored_bytes:,}. Retire versions or delete tasks, or ask the operator for more."
            )

    def _check_under_way(self, limits: TenantLimits, tenant: str, images: int) -> None:
        held = self._under_way[tenant]
        # One request alone is always let in: the limits of a request bound it.
        if limits.concurrent_images is None or not held:
            return
        if held + images > limits.concurrent_images:
            raise RateLimited(
                f"{held} of your images are under way; you may have {limits.concurrent_images}. "
                "Try again when some are answered.",
                retry_after=RETRY_AFTER,
            )

    async def _spend(
        self, limits: TenantLimits, tenant: str, images: int, predictions: int
    ) -> tuple[Allowance, ...]:
        rates = [
            ("requests", limits.requests_per_second, predictions),
            ("images", limits.images_per_second, images),
        ]
        return tuple(
            [
                await self._counters.spend(tenant, name, per_second, cost)
                for name, per_second, cost in rates
                if per_second is not None
            ]
        )
