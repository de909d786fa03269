"""What a tenant may have and do, and how rates are counted in sliding windows. Pure."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.tenants import Policy
from service.types import PRIORITIES, Allowance

WINDOW_SECONDS = 10
# What a step of a tenant's priority is worth in its weight among the other tenants.
TENANT_PRIORITY_STEP = 4.0

Rate = Annotated[float, Field(ge=0.1, le=1e6)]
Amount = Annotated[int, Field(ge=0, le=2**53)]


class TenantLimits(Policy):
    """A tenant's limits; as a record, those fields that differ from the server's defaults.

    None is no limit of the tenant's own: the server's, which all share, hold in any case.

    Args:
        requests_per_second: Of predictions, on average over ten seconds.
        images_per_second: Likewise; an image counts once for each task that looks at it.
        concurrent_images: Images between their arrival and their answer.
        tasks: How many it may have.
        stored_bytes: What the checkpoints of all versions may weigh together.
        weight: Its share of the engine in relation to other tenants that have work waiting.
        priority: A step up is worth a fourfold weight. (A request's own priority ranks it among the
            tenant's other requests.)
    """

    kind = "tenant"

    requests_per_second: Rate | None = None
    images_per_second: Rate | None = None
    concurrent_images: Annotated[int, Field(ge=1, le=2**31)] | None = None
    tasks: Amount | None = 10_000
    stored_bytes: Amount | None = 256 * 2**30
    weight: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    priority: Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[-1])] = 0

    @property
    def share(self) -> float:
        """The weight in the fair queue."""
        return self.weight * TENANT_PRIORITY_STEP**self.priority

    def changed_by(self, overrides: "TenantLimits | None") -> "TenantLimits":
        """These limits, but for the fields that `overrides` sets."""
        if overrides is None:
            return self
        return self.model_copy(update=overrides.model_dump(exclude_unset=True))


@dataclass(frozen=True, slots=True)
class Window:
    """Counts of a sliding window: what the window before still weighs, and the current one.

    Args:
        before: Counted in the window before.
        before_expires_in: Seconds until that counts no more.
        current: Counted in the current one.
        current_expires_in: Seconds until that counts no more: over a window's length, since it
            counts on as the one before.
        seconds: The window's length.
    """

    before: int
    before_expires_in: float
    current: int
    current_expires_in: float
    seconds: int = WINDOW_SECONDS

    @property
    def weighted(self) -> float:
        """What counts now."""
        return self.before * self.before_expires_in / self.seconds + self.current

    def allowance(self, name: str, quota: int) -> Allowance:
        """What is left of a quota."""
        remaining = max(0, quota - math.floor(self.weighted))
        reset = self.current_expires_in if self.current else self.before_expires_in
        return Allowance(name, quota, self.seconds, remaining, reset)

    def seconds_until(self, cost: int, quota: int) -> float:
        """How long until `cost` more fit into a quota, if nobody else takes anything."""
        room = quota - cost
        if self.weighted <= room:
            return 0.0
        if self.current <= room:
            # The window before fades evenly.
            return self.before_expires_in - (room - self.current) * self.seconds / self.before
        rolls_over_in = max(0.0, self.current_expires_in - self.seconds)
        return rolls_over_in + self.seconds * (1 - max(0, room) / self.current)


def quota_of(per_second: float) -> int:
    """How much a rate allows in a window, at least 1."""
    return max(1, math.floor(per_second * WINDOW_SECONDS))
