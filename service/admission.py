"""How much is let in at a time, and that no tenant takes all the places."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded

RETRY_AFTER = 1.0


class Admission:
    """At most `capacity` places are held at a time, say by requests, by images or by bytes.

    More is let in if its tenant would then hold no more places than are free before it, so that
    one flooding tenant fills half of them, and a newcomer finds room.
    """

    def __init__(self, capacity: int, of: str = "requests") -> None:
        self._capacity = capacity
        self._of = of
        self._held: Counter[str] = Counter()

    @contextmanager
    def admit(self, tenant: str, places: int = 1) -> Iterator[None]:
        """Hold places inside.

        Raises:
            Overloaded: there are not so many for this tenant now.
        """
        self.take(tenant, places)
        try:
            yield
        finally:
            self.give_back(tenant, places)

    def take(self, tenant: str, places: int) -> None:
        """Hold places until they are given back.

        Raises:
            Overloaded: there are not so many for this tenant now.
        """
        free = self._capacity - self._held.total()
        if self._held[tenant] + places > free:
            raise Overloaded(
                f"{self._held[tenant]} of your {self._of} are under way, and no more than {free} "
                "can be taken. Try again when some are answered.",
                retry_after=RETRY_AFTER,
            )
        self._held[tenant] += places

    def give_back(self, tenant: str, places: int) -> None:
        """End the hold of places."""
        self._held[tenant] -= places
        if not self._held[tenant]:
            del self._held[tenant]
