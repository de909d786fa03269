"""What stands behind keys and limits in their tests: records in memory that can be unreachable."""

import httpx

from adapters.errors import StoreUnavailable
from adapters.store.records import Record
from service.keys import KeyRing
from service.limits import TenantLimits
from service.metrics import NullMetrics
from service.policies import Policies
from service.quotas import Quotas
from service.rate_limits import RateCounters
from service.tenants import Key

UNLIMITED = TenantLimits(tasks=None, stored_bytes=None)


class MemoryRecords:
    """`Records` in a dictionary; while `gone` is set, every call fails. `reads` counts pages."""

    def __init__(self):
        self.written: dict[tuple[str, str], Record] = {}
        self.gone = False
        self.reads = 0

    async def put(self, kind, name, document):
        """See Records."""
        self._require()
        revision = await self.newest() + 1
        self.written[kind, name] = Record(
            kind=kind, name=name, document=document, revision=revision
        )
        return revision

    async def since(self, revision, *, limit):
        """See Records."""
        self._require()
        self.reads += 1
        newer = [record for record in self.written.values() if record.revision > revision]
        return sorted(newer, key=lambda record: record.revision)[:limit]

    async def newest(self):
        """See Records."""
        self._require()
        return max((record.revision for record in self.written.values()), default=0)

    async def close(self):
        """See Records."""

    def _require(self):
        if self.gone:
            raise StoreUnavailable("The records are gone. Bring them back.")


class Clock:
    """Seconds that only a test moves."""

    def __init__(self, now=1_000.0):
        self.now = now

    def __call__(self):
        """The time."""
        return self.now


def policies(records=None, *kinds, clock=None):
    """A mirror of records, which were never read yet."""
    return Policies(records or MemoryRecords(), kinds or (Key,), clock=clock or Clock())


def key_ring(records=None, *, required=False, clock=None, wall_clock=None):
    """A key ring over records, which were never read yet."""
    clock = clock or Clock()
    return KeyRing(
        policies(records, clock=clock),
        required=required,
        clock=clock,
        wall_clock=wall_clock or Clock(),
    )


def quotas(records=None, *, defaults=UNLIMITED, counters=None, mirror=None):
    """Quotas over records, which were never read yet; without limits unless told."""
    return Quotas(
        mirror or policies(records, TenantLimits),
        defaults,
        counters or RateCounters(None, NullMetrics()),
    )


def bearer(token):
    """The header that presents a token."""
    return httpx.Headers({"Authorization": f"Bearer {token}"})
