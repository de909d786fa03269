"""How many requests are let in at a time, and that no tenant takes all the places."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded

RETRY_AFTER = 1.0


class Admission:
    """At most `capacity` requests in flight.

    One more is let in if its tenant would then hold no more places than are free before it, so
    that one flooding tenant fills half of them, and a newcomer finds room.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: Counter[str] = Counter()

    @contextmanager
    def admit(self, tenant: str) -> Iterator[None]:
        """Hold a place.

        Raises:
            Overloaded: there is none for this tenant now.
        """
        free = self._capacity - self._held.total()
        if self._held[tenant] + 1 > free:
            raise Overloaded(
                f"{self._held[tenant]} of your requests are under way, and no more than {free} "
                "can be taken. Try again when some are answered.",
                retry_after=RETRY_AFTER,
            )
        self._held[tenant] += 1
        try:
            yield
        finally:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]
