"""Which of very many keys are used most, within bounded memory. Pure."""

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Ranking(Generic[Key]):
    """The `places` keys that were used most, lately more than long ago.

    The first keys get the free places at once. Every `period` uses the places are given anew, and
    all counts are halved; up to `tracked` keys are counted at a time, so that a flood of keys that
    are used once neither takes memory nor a place.
    """

    def __init__(self, places: int, *, period: int, tracked: int) -> None:
        self._places = places
        self._period = period
        self._tracked = tracked
        self._counts: Counter[Key] = Counter()
        self._placed: set[Key] = set()
        self._uses = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._placed

    def use(self, key: Key) -> set[Key]:
        """Count a use; the keys that have lost their places by it."""
        if key in self._counts or len(self._counts) < self._tracked:
            self._counts[key] += 1
        if len(self._placed) < self._places:
            self._placed.add(key)
        self._uses += 1
        return set() if self._uses % self._period else self._rank()

    def _rank(self) -> set[Key]:
        # Among equals whoever has a place keeps it.
        ranked = sorted(
            self._counts, key=lambda key: (self._counts[key], key in self._placed), reverse=True
        )
        before, self._placed = self._placed, {*ranked[: self._places]}
        self._counts = Counter({key: n // 2 for key, n in self._counts.items() if n > 1})
        return before - self._placed
