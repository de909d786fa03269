"""The most used of very many keys: found, kept, replaced, and bounded."""

import random

from service.ranking import Ranking


def test_the_first_keys_have_places_at_once():
    """Few keys need no ranking."""
    ranking = Ranking(2, period=100, tracked=10)
    assert ranking.use("a") == ranking.use("b") == ranking.use("c") == set()
    assert [key in ranking for key in "abc"] == [True, True, False]


def test_a_key_that_is_used_more_takes_the_place():
    """The next time that places are given, and the loser is told."""
    ranking = Ranking(2, period=10, tracked=10)
    lost = [ranking.use(key) for key in "aabccccccc"]
    assert lost == [set()] * 9 + [{"b"}]
    assert [key in ranking for key in "abc"] == [True, False, True]


def test_among_equals_places_are_kept():
    """Series do not come and go for nothing."""
    ranking = Ranking(2, period=4, tracked=10)
    for key in "abcd" * 20:
        assert ranking.use(key) == set()


def test_what_was_used_long_ago_fades():
    """Halved each time, so that today's favourite beats yesterday's."""
    ranking = Ranking(1, period=8, tracked=10)
    for key in "a" * 8 + "b" * 16:
        ranking.use(key)
    assert "b" in ranking
    assert "a" not in ranking


def test_a_flood_of_strangers_takes_neither_places_nor_memory():
    """Five thousand keys in Zipf's proportions: the true favourites have the places."""
    ranking = Ranking(20, period=5_000, tracked=400)
    rng = random.Random(0)
    keys = range(5_000)
    weights = [1 / (key + 1) for key in keys]
    for key in rng.choices(keys, weights, k=50_000):
        ranking.use(key)
        assert len(ranking._counts) <= 400
        assert len(ranking._placed) <= 20
    assert sum(key in ranking for key in range(20)) >= 17
    assert sum(key in ranking for key in range(30)) == 20
