"""Lines that take turns."""

from hypothesis import given
from hypothesis import strategies as st

from service.batching.lines import FairLines


def drain(lines):
    """Everything that waits, in its order."""
    drained = []
    while (item := lines.pop()) is not None:
        drained.append(item)
    return drained


def test_tenants_take_turns_and_each_keeps_its_order():
    """A thousand items of one tenant are no more than one line beside the others."""
    lines = FairLines()
    for number in range(1_000):
        lines.push("flood", ("flood", number))
    for number in range(3):
        lines.push("a", ("a", number))
        lines.push("b", ("b", number))
    drained = drain(lines)
    first = drained[:9]
    assert {tenant: [n for t, n in first if t == tenant] for tenant in ("a", "b")} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }
    assert [number for tenant, number in drained if tenant == "flood"] == [*range(1_000)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans())))
def test_what_is_neither_dropped_nor_popped_waits(steps):
    """Against a plain set, whatever comes and goes; nothing of the past is kept."""
    lines, waiting = FairLines(), set()
    for tenant, number, push in steps:
        item = (tenant, number)
        if push and item not in waiting:
            lines.push(tenant, item)
            waiting.add(item)
        else:
            lines.drop(tenant, item)
            waiting.discard(item)
    drained = drain(lines)
    assert len(drained) == len(waiting)
    assert {*drained} == waiting
    assert not lines._lines
    assert not lines._turns
