"""Fair turns: by table, against naive counters, and the bound that the module promises."""

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.fairness import FairShare


def serve(share, turns, work=1):
    """Charge whoever has the turn, so many times; the sequence of names."""
    names = []
    for _ in range(turns):
        names.append(share.turn())
        share.charge(names[-1], work)
    return "".join(names)


def share_of(**weights):
    """A share whose members have joined in this order."""
    share = FairShare()
    for name, weight in weights.items():
        share.join(name, weight)
    return share


@pytest.mark.parametrize(
    ("weights", "sequence"),
    [
        ({"a": 1, "b": 1, "c": 1}, "abcabcabc"),
        ({"a": 1, "b": 2}, "babbabbab"),
        ({"a": 1, "b": 3}, "babbbabbb"),
        ({"a": 0.5, "b": 0.5}, "ababab"),
        ({"b": 1, "a": 1}, "baba"),
        ({"a": 1}, "aaa"),
    ],
)
def test_turns_follow_the_weights(weights, sequence):
    """The least counter is next; ties go to the heavier, then to the one that stood there first."""
    assert serve(share_of(**weights), len(sequence)) == sequence


def test_a_large_charge_is_paid_for_with_turns():
    """Who got four images at once waits until the other has got four."""
    share = share_of(a=1, b=1)
    share.charge(share.turn(), 4)
    assert serve(share, 6) == "bbbbab"


def test_a_newcomer_is_level_with_the_others():
    """Work done before it came counts neither for nor against it."""
    share = share_of(a=1)
    serve(share, 100)
    share.join("b", 1)
    assert serve(share, 4) == "baba"


def test_idling_earns_no_credit():
    """A member that was away while others were served gets no burst when it comes back."""
    share = share_of(a=1, b=1)
    serve(share, 2)
    share.leave("b")
    serve(share, 50)
    share.join("b", 1)
    assert serve(share, 4) == "baba"


def test_leaving_pays_no_debt():
    """A member that leaves after each large charge does not come back in front."""
    share = share_of(a=1, b=1)
    share.charge(share.turn(), 4)
    share.leave("a")
    share.join("a", 1)
    assert serve(share, 5) == "bbbba"


def test_when_nobody_waits_all_is_forgotten():
    """Without competition there is neither credit nor debt, and no memory is kept."""
    share = share_of(a=1, b=1)
    share.charge(share.turn(), 100)
    share.leave("a")
    share.leave("b")
    assert not share._members
    share.join("a", 1)
    share.join("b", 1)
    assert serve(share, 4) == "abab"


def test_a_new_weight_holds_from_the_next_charge_on():
    """Joining again while active changes the weight and nothing else."""
    share = share_of(a=1, b=1)
    assert serve(share, 2) == "ab"
    share.join("b", 3)
    assert len(share) == 2
    assert serve(share, 9) == "abbbbabbb"


def test_the_turn_stays_until_it_is_used():
    """Asking twice changes nothing."""
    share = share_of(a=1, b=1)
    assert share.turn() == share.turn() == "a"


def test_a_member_out_of_turn_can_be_charged():
    """Work that was done ahead of the turn is paid for afterwards."""
    share = share_of(a=1, b=1, c=1)
    share.charge("b", 2)
    assert serve(share, 7) == "acacbac"


def test_nobody_waiting_has_no_turn():
    """Asking for a turn, leaving or charging without being there is an error."""
    share = share_of(a=1)
    share.leave("a")
    assert len(share) == 0
    with pytest.raises(LookupError):
        share.turn()
    with pytest.raises(KeyError):
        share.leave("a")
    share.join("b", 1)
    with pytest.raises(KeyError):
        share.charge("a", 1)


def test_idle_members_are_forgotten():
    """Ten thousand members that come once and go leave nothing behind but the one that stays."""
    share = share_of(stays=1)
    for name in range(10_000):
        share.join(name, 1)
        turns = [share.turn()]
        share.charge(turns[0], 1)
        turns.append(share.turn())
        share.charge(turns[1], 1)
        assert set(turns) == {"stays", name}
        share.leave(name)
    assert len(share) == 1
    assert len(share._members) <= 3
    assert len(share._heap) <= 3


class NaiveShare:
    """Counters that are never dropped, and a scan for the least."""

    def __init__(self):
        self.counters = Counter()
        self.weights = {}
        self.active = set()
        self.reached = 0.0

    def join(self, name, weight):
        self.weights[name] = weight
        if name not in self.active:
            self.active.add(name)
            self.counters[name] = max(self.counters[name], self.reached)

    def leave(self, name):
        self.active.remove(name)
        if not self.active:
            self.counters.clear()
            self.reached = 0.0

    def candidates(self):
        least = min(self.counters[name] for name in self.active)
        self.reached = least
        return {name for name in self.active if self.counters[name] == least}

    def charge(self, name, work):
        self.counters[name] += work / self.weights[name]


MEMBERS = st.integers(0, 4)
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0])
STEPS = st.one_of(
    st.tuples(st.just("join"), MEMBERS, WEIGHTS),
    st.tuples(st.just("leave"), MEMBERS, st.none()),
    st.tuples(st.just("charge"), MEMBERS, st.integers(1, 5)),
    st.tuples(st.just("turn"), st.none(), st.integers(1, 5)),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_the_turn_is_always_the_least_naive_counter(steps):
    """Dropping counters and correcting the heap late changes no decision."""
    share, naive = FairShare(), NaiveShare()
    for action, name, value in steps:
        if action == "join":
            share.join(name, value)
            naive.join(name, value)
        elif action == "leave" and name in naive.active:
            share.leave(name)
            naive.leave(name)
        elif action == "charge" and name in naive.active:
            share.charge(name, value)
            naive.charge(name, value)
        elif action == "turn" and naive.active:
            turn = share.turn()
            assert turn in naive.candidates()
            share.charge(turn, value)
            naive.charge(turn, value)
        assert len(share) == len(naive.active)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.lists(WEIGHTS, min_size=5, max_size=5),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["join", "leave"]), MEMBERS),
            st.tuples(st.just("turn"), st.integers(1, 5)),
        ),
        min_size=20,
        max_size=120,
    ),
)
def test_the_promised_bound_holds(weights, steps):
    """While two members stay active, their work by weight drifts apart no further than promised."""
    share, active, largest = FairShare(), set(), 5
    served = [0.0] * 5
    drift = {}
    for action, value in steps:
        if action == "join":
            share.join(value, weights[value])
            active.add(value)
        elif action == "leave" and value in active:
            share.leave(value)
            active.remove(value)
        elif action == "turn" and active:
            turn = share.turn()
            share.charge(turn, value)
            served[turn] += value / weights[turn]
        for pair in combinations(range(5), 2):
            if not active.issuperset(pair):
                drift.pop(pair, None)
                continue
            gap = served[pair[0]] - served[pair[1]]
            low, high = drift.get(pair, (math.inf, -math.inf))
            drift[pair] = low, high = min(low, gap), max(high, gap)
            assert high - low <= sum(largest / weights[name] for name in pair) + 1e-9
