"""Lines of waiting items, one for each tenant, that take turns: pure, and without a bound."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from service.batching.fairness import FairShare

Item = TypeVar("Item", bound=Hashable)


class FairLines(Generic[Item]):
    """First in, first out within a tenant; between tenants as many items each.

    Every operation costs O(log tenants).
    """

    def __init__(self) -> None:
        self._lines: dict[str, OrderedDict[Item, None]] = {}
        self._turns: FairShare[str] = FairShare()

    def push(self, tenant: str, item: Item) -> None:
        """Let an item wait; it must not be waiting already."""
        self._lines.setdefault(tenant, OrderedDict())[item] = None
        self._turns.join(tenant, 1.0)

    def pop(self) -> Item | None:
        """The next item in turn, or None if nothing waits."""
        if not self._lines:
            return None
        tenant = self._turns.turn()
        item = next(iter(self._lines[tenant]))
        self._turns.charge(tenant, 1.0)
        self.drop(tenant, item)
        return item

    def drop(self, tenant: str, item: Item) -> None:
        """Let an item wait no more, if it still does."""
        line = self._lines.get(tenant)
        if line is None or item not in line:
            return
        del line[item]
        if not line:
            del self._lines[tenant]
            self._turns.leave(tenant)
