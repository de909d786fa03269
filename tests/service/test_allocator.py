"""The slot allocator: by table, and against a memory that writes down the owner of every value."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engines.allocator import SlotAllocator, Span
from service.errors import EngineFull

CAPACITY = 60
SIZES = st.integers(1, 13)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("slot"), SIZES),
        st.tuples(st.just("rows"), SIZES, st.integers(1, 8)),
        st.tuples(st.just("free"), st.integers(0, 100)),
    ),
    max_size=40,
)


class Oracle:
    """The obvious allocator: it looks at every value."""

    def __init__(self):
        self.free = [True] * CAPACITY

    def slot(self, size):
        """The values of the first place that is free."""
        for start in range(0, CAPACITY - size + 1, size):
            if all(self.free[start : start + size]):
                return list(range(start, start + size))
        return None

    def rows(self, width, count):
        """The values of the free rows nearest to the end."""
        rows = []
        for start in range(CAPACITY - width, -1, -width):
            if all(self.free[start : start + width]) and len(rows) < count:
                rows.append(range(start, start + width))
        return sorted(itertools.chain(*rows)) if len(rows) == count else None

    def mark(self, values, free):
        """Note that values are free, or not; each changes."""
        assert all(self.free[value] is not free for value in values)
        for value in values:
            self.free[value] = free


def take(allocator, step):
    """The spans that a step gets, or None."""
    try:
        if step[0] == "slot":
            return (allocator.take_slot(step[1]),)
        return allocator.take_rows(step[1], step[2])
    except EngineFull:
        return None


def values_of(spans):
    """All values of some spans, in order."""
    return sorted(value for span in spans for value in range(span.start, span.stop))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(STEPS)
def test_it_takes_what_the_oracle_takes(steps):
    """Slots and rows of any sizes never overlap, go where they should, and come back whole."""
    allocator, oracle, held = SlotAllocator(CAPACITY), Oracle(), []
    for step in steps:
        if step[0] == "free":
            if held:
                spans = held.pop(step[1] % len(held))
                oracle.mark(values_of(spans), free=True)
                for span in spans:
                    allocator.give_back(span)
        else:
            wanted = oracle.slot(step[1]) if step[0] == "slot" else oracle.rows(*step[1:])
            spans = take(allocator, step)
            assert (spans and values_of(spans)) == wanted
            if spans:
                oracle.mark(wanted, free=False)
                held.append(spans)
        assert allocator.used == oracle.free.count(False)
    for spans in held:
        for span in spans:
            allocator.give_back(span)
    assert allocator.take_slot(CAPACITY) == Span(0, CAPACITY)


def test_slots_come_from_the_bottom_and_rows_from_the_top():
    """The two kinds meet in the middle and fill the memory to the last value."""
    allocator = SlotAllocator(20)
    assert allocator.take_slot(7) == Span(0, 7)
    assert allocator.take_rows(3, 2) == (Span(14, 20),)
    assert allocator.take_slot(7) == Span(7, 14)
    assert allocator.used == allocator.capacity


def test_rows_fill_the_gaps_between_others():
    """A head need not lie in one piece."""
    allocator = SlotAllocator(20)
    (first,) = allocator.take_rows(2, 2)
    allocator.take_rows(2, 1)
    allocator.give_back(first)
    assert allocator.take_rows(2, 4) == (Span(16, 20), Span(10, 14))


@pytest.mark.parametrize("take_more", [lambda a: a.take_slot(6), lambda a: a.take_rows(2, 4)])
def test_what_does_not_fit_takes_nothing(take_more):
    """After a refusal everything is as it was."""
    allocator = SlotAllocator(10)
    allocator.take_slot(4)
    with pytest.raises(EngineFull):
        take_more(allocator)
    assert allocator.used == 4
    assert allocator.take_rows(2, 3) == (Span(4, 10),)


@pytest.mark.parametrize("span", [Span(0, 4), Span(2, 6), Span(6, 8), Span(4, 10)])
def test_nothing_is_freed_twice(span):
    """A span that is partly free cannot come from here."""
    allocator = SlotAllocator(10)
    allocator.take_slot(10)
    allocator.give_back(Span(0, 4))
    allocator.give_back(Span(6, 10))
    with pytest.raises(ValueError, match="free already"):
        allocator.give_back(span)


def test_a_memory_of_nothing_gives_nothing():
    """An engine without a budget refuses every adapter."""
    with pytest.raises(EngineFull):
        SlotAllocator(0).take_slot(1)
