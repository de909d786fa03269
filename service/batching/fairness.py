"""Weighted fair turns: who is served next, so that work divided by weight stays level.

Every member has a counter: the work done for it, divided by its weight. The turn is the least
counter's (VTC and S-LoRA count tokens like this; start-time fair queueing proves the bound). Over
any interval in which two members both have work waiting and are charged in their turns only, what
they get, divided by their weights, differs by at most

    largest charge / weight of the one  +  largest charge / weight of the other.

A member that comes back from idle starts where the turns have got to, or where it stood itself,
whichever is further: neither does being idle earn credit, nor does leaving pay a debt.
"""

import heapq
import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class _Rank(NamedTuple):
    """The order of turns: least counter, then heaviest, then longest at its counter."""

    counter: float
    negative_weight: float
    arrival: int


@dataclass(slots=True)
class _Member:
    rank: _Rank
    weight: float
    active: bool = True


class FairShare(Generic[Key]):
    """Turns over the members that have work waiting.

    `join`, `leave` and `charge` are O(1) plus one heap push, `turn` is O(log members) amortised.
    An idle member is forgotten as soon as the turns have passed its counter, so the memory is
    bounded by the members that are active or were a moment ago.
    """

    def __init__(self) -> None:
        self._members: dict[Key, _Member] = {}
        # Exactly one entry a member. Ranks only get worse, so an entry may lag behind its member:
        # it then comes up too early, never too late, and is put right when it does.
        self._heap: list[tuple[_Rank, Key]] = []
        self._arrivals = itertools.count()
        self._reached = 0.0
        self._active = 0

    def __len__(self) -> int:
        return self._active

    def join(self, key: Key, weight: float) -> None:
        """Say that the member has work waiting; `weight` holds from its next charge on."""
        member = self._members.get(key)
        if member is None:
            self._members[key] = member = _Member(self._rank(self._reached, weight), weight)
            heapq.heappush(self._heap, (member.rank, key))
            self._active += 1
            return
        member.weight = weight
        if not member.active:
            member.active = True
            self._active += 1
            if self._reached > member.rank.counter:
                member.rank = self._rank(self._reached, weight)

    def leave(self, key: Key) -> None:
        """Say that the member has no more work waiting.

        Raises:
            KeyError: it had none.
        """
        self._active_member(key).active = False
        self._active -= 1
        if self._active == 0:
            # Nobody competes, so there is nothing to be fair about.
            self._members.clear()
            self._heap.clear()
            self._reached = 0.0

    def turn(self) -> Key:
        """Whose turn it is. Ask only to use it: whoever joins later starts from this turn.

        Raises:
            LookupError: nobody has work waiting.
        """
        if not self._active:
            raise LookupError("Nobody has work waiting.")
        while True:
            rank, key = self._heap[0]
            member = self._members[key]
            if member.rank != rank:
                heapq.heapreplace(self._heap, (member.rank, key))
            elif not member.active:
                heapq.heappop(self._heap)
                del self._members[key]
            else:
                self._reached = rank.counter
                return key

    def charge(self, key: Key, work: float) -> None:
        """Count `work` (> 0) that is done for a member, whose turn or not.

        Raises:
            KeyError: it has no work waiting.
        """
        member = self._active_member(key)
        member.rank = self._rank(member.rank.counter + work / member.weight, member.weight)

    def _active_member(self, key: Key) -> _Member:
        member = self._members[key]
        if not member.active:
            raise KeyError(key)
        return member

    def _rank(self, counter: float, weight: float) -> _Rank:
        return _Rank(counter, -weight, next(self._arrivals))
