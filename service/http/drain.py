"""Which requests are in flight, and no new ones once the server is to stop.

A server leaves in two steps: first it says that it is not ready any more, while it still serves
what balancers send that have not asked yet; then it refuses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ShuttingDown

# By then a load balancer has noticed, or another server has taken the address.
RETRY_AFTER = 2.0


class Drain:
    """Counts the requests in flight; once it has begun, they finish and new ones are refused."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._is_announced = False
        self._has_begun = False

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet."""
        return self._in_flight

    @property
    def is_announced(self) -> bool:
        """Whether the server is about to leave."""
        return self._is_announced

    def announce(self) -> None:
        """Be ready no more; requests are still taken."""
        self._is_announced = True

    def begin(self) -> None:
        """Refuse new requests from now on."""
        self._is_announced = True
        self._has_begun = True

    def check_ready(self) -> None:
        """Do nothing while balancers should send requests.

        Raises:
            ShuttingDown: the end is announced.
        """
        if self._is_announced:
            raise _shutting_down()

    def check(self) -> None:
        """Do nothing while new requests are taken.

        Raises:
            ShuttingDown: it has begun.
        """
        if self._has_begun:
            raise _shutting_down()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One request that is taken even now, from its arrival to its answer."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, from its admission to its answer.

        Raises:
            ShuttingDown: it has begun.
        """
        self.check()
        with self.counted():
            yield


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "The server is about to stop and takes no new requests. Try again: another one may answer.",
        retry_after=RETRY_AFTER,
    )
