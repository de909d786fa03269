"""Which requests a canary gets: as many as it should, and the same ones each time."""

import random
from itertools import pairwise

import pytest
from scipy.stats import binomtest, kstest

from service.canary import Canary, place_of
from service.types import TaskKey

FLOWERS = TaskKey("acme", "flowers")


def _keys(count):
    return [f"user-{number}" for number in range(count)]


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_the_share_is_within_statistics(percent):
    """Of 20,000 keys, and of 20,000 draws, as many as a fair coin of that weight could give."""
    canary = Canary(version=2, percent=percent)
    draw = random.Random(0).random
    by_key = sum(canary.takes(place_of(FLOWERS, 2, key)) for key in _keys(20_000))
    drawn = sum(canary.takes(draw()) for _ in range(20_000))
    for taken in (by_key, drawn):
        assert binomtest(taken, 20_000, percent / 100).pvalue > 0.001


def test_places_are_spread_evenly():
    """Also for keys that hardly differ."""
    assert kstest([place_of(FLOWERS, 2, key) for key in _keys(5_000)], "uniform").pvalue > 0.001


def test_a_key_stays_where_it_is():
    """Every time, and also when the percentage grows."""
    for key in _keys(500):
        place = place_of(FLOWERS, 2, key)
        assert place == place_of(FLOWERS, 2, key)
        taken = [Canary(version=2, percent=p).takes(place) for p in (1, 10, 50, 100)]
        assert all(later or not earlier for earlier, later in pairwise(taken))
        assert taken[-1]


def test_tasks_and_versions_draw_apart():
    """Whoever gets one canary does not get all of them: half of the pairs agree."""
    others = [(FLOWERS, 3), (TaskKey("acme", "birds"), 2), (TaskKey("other", "flowers"), 2)]
    half = Canary(version=2, percent=50)
    for task, version in others:
        agreeing = sum(
            half.takes(place_of(FLOWERS, 2, key)) == half.takes(place_of(task, version, key))
            for key in _keys(4_000)
        )
        assert binomtest(agreeing, 4_000, 0.5).pvalue > 0.001


@pytest.mark.parametrize("key", ["", "é" * 256, "\udcff", "a/b"])
def test_any_header_is_a_key(key):
    """What a client can send has a place."""
    assert 0 <= place_of(FLOWERS, 2, key) < 1
