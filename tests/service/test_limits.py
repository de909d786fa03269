"""Limits without any store: what holds for whom, and sliding windows against a slow oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.limits import WINDOW_SECONDS, TenantLimits, Window, quota_of
from service.types import Allowance


def test_what_was_set_goes_before_the_defaults():
    """Field by field, also where it is set to no limit."""
    defaults = TenantLimits(requests_per_second=5, tasks=10, weight=2)
    overrides = TenantLimits(tasks=None, weight=3)
    limits = defaults.changed_by(overrides)
    assert (limits.requests_per_second, limits.tasks, limits.weight) == (5, None, 3)
    assert defaults.changed_by(None) == defaults


def test_what_was_set_survives_the_store():
    """A record holds what was set only, so that later defaults reach the rest."""
    record = TenantLimits(weight=3).model_dump(mode="json", exclude_unset=True)
    assert record == {"weight": 3}
    again = TenantLimits.model_validate(record)
    assert TenantLimits(tasks=7).changed_by(again).tasks == 7


def test_a_step_of_priority_is_a_fourfold_weight():
    """In both directions."""
    assert TenantLimits(weight=2).share == 2
    assert TenantLimits(weight=2, priority=1).share == 8
    assert TenantLimits(weight=2, priority=-2).share == 2 / 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0},
        {"weight": float("inf")},
        {"priority": 4},
        {"tasks": -1},
        {"concurrent_images": 0},
    ],
    ids=str,
)
def test_limits_that_nobody_could_keep_are_refused(wrong):
    """When they are set, not when they are met."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TenantLimits(**wrong)


@pytest.mark.parametrize(("rate", "quota"), [(5, 50), (0.1, 1), (0.25, 2), (1_000, 10_000)])
def test_a_rate_is_a_quota_in_ten_seconds(rate, quota):
    """Whole ones, and never none at all."""
    assert quota_of(rate) == quota


def _after(window, seconds):
    """The same window a while later, with nothing counted meanwhile."""
    before, before_left = window.before, window.before_expires_in - seconds
    current, current_left = window.current, window.current_expires_in - seconds
    if current_left <= window.seconds:
        before, before_left, current, current_left = current, current_left, 0, 0.0
    if before_left <= 0:
        before, before_left = 0, 0.0
    return Window(before, before_left, current, current_left)


WINDOWS = st.builds(
    lambda before, current, left: Window(before, left, current, left + WINDOW_SECONDS),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0.1, WINDOW_SECONDS - 0.1),
)


@given(WINDOWS, st.integers(1, 50))
def test_the_wait_is_as_long_as_it_has_to_be(window, cost):
    """A little earlier there is no room yet, a little later there is, whichever window it is in."""
    quota = 50
    seconds = window.seconds_until(cost, quota)
    assert _after(window, seconds + 0.01).weighted + cost <= quota + 1e-6
    if seconds:
        assert _after(window, seconds - 0.01).weighted + cost > quota - 1e-6


def test_an_allowance_says_what_is_left_and_when_all_is_there_again():
    """Half of the window before counts still, and the current one in full."""
    window = Window(before=20, before_expires_in=5.0, current=7, current_expires_in=15.0)
    assert window.allowance("images", 50) == Allowance("images", 50, 10, 33, 15.0)
    assert Window(40, 5.0, 0, 0.0).allowance("images", 50).reset == 5.0
    assert Window(90, 9.0, 30, 19.0).allowance("images", 50).remaining == 0
