"""Which part of one flat memory is whose: pure arithmetic on spans, no memory of its own."""

from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

from service.errors import EngineFull


class Span(NamedTuple):
    """Values `start` to `stop` (exclusive) of the memory."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many values it holds."""
        return self.stop - self.start


class SlotAllocator:
    """Hands out spans of a memory of `capacity` values that never overlap.

    Slots of any size start at a multiple of it, so that the memory read as [-1, size] holds each
    of them as one row. They come from the bottom; rows, which are small and many and need not lie
    together, come from the top and are aligned to the end. So the two kinds share one budget
    without a fixed border, and neither breaks up the room of the other.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._holes = [Span(0, capacity)] if capacity else []

    @property
    def used(self) -> int:
        """How many values are handed out."""
        return self.capacity - sum(hole.size for hole in self._holes)

    def take_slot(self, size: int) -> Span:
        """The lowest free span of `size` values that starts at a multiple of `size`.

        Raises:
            EngineFull: no hole is large enough.
        """
        for hole in self._holes:
            start = -(-hole.start // size) * size
            if start + size <= hole.stop:
                return self._take(Span(start, start + size))
        raise EngineFull(f"No {size:,} values in one piece are free. Unload another adapter.")

    def take_rows(self, width: int, count: int) -> tuple[Span, ...]:
        """The highest free rows, `count` of them, neighbours in one span.

        Every row lies a multiple of `width` from the end of the memory.

        Raises:
            EngineFull: there are fewer; none is taken.
        """
        spans: list[Span] = []
        missing = count
        for hole in reversed(self._holes):
            if not missing:
                break
            stop = self.capacity - -(-(self.capacity - hole.stop) // width) * width
            rows = min(missing, (stop - hole.start) // width)
            if rows > 0:
                spans.append(Span(stop - rows * width, stop))
                missing -= rows
        if missing:
            raise EngineFull(
                f"{missing:,} of {count:,} rows of {width:,} values find no room. "
                "Unload another adapter."
            )
        return tuple(self._take(span) for span in spans)

    def give_back(self, span: Span) -> None:
        """Free a span that was taken.

        Raises:
            ValueError: part of it is free already.
        """
        number = bisect_right(self._holes, span.start, key=attrgetter("start"))
        first, last, merged = number, number, span
        if number and (below := self._holes[number - 1]).stop >= span.start:
            first, merged = number - 1, Span(below.start, span.stop)
        if number < len(self._holes) and (above := self._holes[number]).start <= span.stop:
            last, merged = number + 1, Span(merged.start, above.stop)
        if merged.size != span.size + sum(hole.size for hole in self._holes[first:last]):
            raise ValueError(f"Part of {span} is free already.")
        self._holes[first:last] = [merged]

    def _take(self, span: Span) -> Span:
        number = bisect_right(self._holes, span.start, key=attrgetter("start")) - 1
        hole = self._holes[number]
        rests = Span(hole.start, span.start), Span(span.stop, hole.stop)
        self._holes[number : number + 1] = [rest for rest in rests if rest.size]
        return span
