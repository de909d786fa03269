"""Failed loads, remembered for a moment, so that not every request tries in vain."""

from collections import OrderedDict


class HoldOff:
    """The failures of the last `seconds`, by digest: pure, with time as an argument."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # All are kept equally long, so the first to come is the first to go.
        self._failures: OrderedDict[str, tuple[float, BaseException]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, digest: str, error: BaseException, now: float) -> None:
        """Remember that a load has failed at `now`."""
        self.forget(digest)
        self._failures[digest] = now + self._seconds, error

    def get(self, digest: str, now: float) -> BaseException | None:
        """Why the last load failed; None if it is time to try again."""
        while self._failures and next(iter(self._failures.values()))[0] <= now:
            self._failures.popitem(last=False)
        _, error = self._failures.get(digest, (None, None))
        return error

    def forget(self, digest: str) -> None:
        """Let the next request try."""
        self._failures.pop(digest, None)
