"""What a tier of memory holds, by bytes: least recently used first out, except what is pinned.

The map decides and does no I/O: `put` returns what has to go, and the caller frees it.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import CacheFull, CacheTooSmall

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Evicted(Generic[Key, Value]):
    """An entry that had to make room; its `size` is in bytes."""

    key: Key
    value: Value
    size: int


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    size: int
    pins: int = 0


class LruMap(Generic[Key, Value]):
    """A map of at most `capacity` bytes.

    A pinned entry (a lease, a load under way) is never evicted. An entry counts as used when it
    is put, got, pinned or unpinned. Every operation is O(1), per entry evicted in `put`.

    Args:
        capacity: Most bytes held at a time.
        ghosts: How many evicted keys are remembered, the latest ones, so that an entry that
            comes back soon can be counted: many of these mean that the tier is too small.
    """

    def __init__(self, capacity: int, *, ghosts: int = 1024) -> None:
        self.capacity = capacity
        self._bytes = 0
        self._pinned_bytes = 0
        self._pinned: dict[Key, _Entry[Value]] = {}
        self._unpinned: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._max_ghosts = ghosts
        self._ghosts: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pinned) + len(self._unpinned)

    def __contains__(self, key: Key) -> bool:
        return key in self._pinned or key in self._unpinned

    @property
    def used_bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes held that cannot be evicted now."""
        return self._pinned_bytes

    def put(self, key: Key, value: Value, size: int) -> list[Evicted[Key, Value]]:
        """Add an entry of `size` bytes and return those that it drove out, oldest first.

        Raises:
            CacheTooSmall: the entry is larger than the map.
            CacheFull: it would fit if less were pinned; nothing has been evicted.
            ValueError: the key is there already (entries are immutable), or the size negative.
        """
        if key in self or size < 0:
            raise ValueError(f"{key!r} is there already, or its size of {size} is negative.")
        self._check_room(size)
        evicted = []
        while self._bytes + size > self.capacity:
            evicted.append(self._evict())
        self._ghosts.pop(key, None)
        self._unpinned[key] = _Entry(value, size)
        self._bytes += size
        return evicted

    def get(self, key: Key) -> Value | None:
        """The value, which counts as used now, or None."""
        entry = self._unpinned.get(key) or self._pinned.get(key)
        if entry is None:
            return None
        if not entry.pins:
            self._unpinned.move_to_end(key)
        return entry.value

    def pin(self, key: Key) -> Value:
        """Keep an entry until as many `unpin` calls have followed.

        Raises:
            KeyError: there is no such entry.
        """
        entry = self._pinned.get(key)
        if entry is None:
            entry = self._pinned[key] = self._unpinned.pop(key)
            self._pinned_bytes += entry.size
        entry.pins += 1
        return entry.value

    def unpin(self, key: Key) -> None:
        """Take one pin back.

        Raises:
            KeyError: the entry is not pinned.
        """
        entry = self._pinned[key]
        entry.pins -= 1
        if not entry.pins:
            self._unpinned[key] = self._pinned.pop(key)
            self._pinned_bytes -= entry.size

    def is_pinned(self, key: Key) -> bool:
        """Whether the key is there and may not be evicted now."""
        return key in self._pinned

    def remove(self, key: Key) -> Value:
        """Take an unpinned entry out, for good: it leaves no ghost.

        Raises:
            KeyError: there is no such entry, or it is pinned.
        """
        entry = self._unpinned.pop(key)
        self._bytes -= entry.size
        return entry.value

    def evicted_lately(self, key: Key) -> bool:
        """Whether the key is among the latest evicted and has not come back since."""
        return key in self._ghosts

    def _check_room(self, size: int) -> None:
        if size > self.capacity:
            raise CacheTooSmall(
                f"{size:,} bytes can never fit into {self.capacity:,}. Give the cache more."
            )
        if size > self.capacity - self._pinned_bytes:
            raise CacheFull(
                f"{size:,} bytes do not fit: {self._pinned_bytes:,} of {self.capacity:,} are in "
                "use. Wait until some are released, or give the cache more."
            )

    def _evict(self) -> Evicted[Key, Value]:
        key, entry = self._unpinned.popitem(last=False)
        self._bytes -= entry.size
        self._ghosts[key] = None
        if len(self._ghosts) > self._max_ghosts:
            self._ghosts.popitem(last=False)
        return Evicted(key, entry.value, entry.size)
