"""Admission: bounded, and fair between tenants."""

from contextlib import ExitStack

import pytest

from service.admission import Admission
from service.errors import Overloaded


def fill(admission, stack, tenant):
    """Take places until none is given; returns how many there were."""
    for taken in range(1_000):
        try:
            stack.enter_context(admission.admit(tenant))
        except Overloaded:
            return taken
    return 1_000


def test_one_tenant_gets_half_and_a_newcomer_finds_room():
    """A flood by one tenant leaves places to the others, and the bound always holds."""
    admission = Admission(16)
    with ExitStack() as stack:
        taken = [fill(admission, stack, tenant) for tenant in "abcde"]
        assert taken[0] == 8
        assert all(taken[:4])
        assert sum(taken) <= 16


def test_places_come_back_however_a_request_ends():
    """After answers and after errors all places are free, and no tenant is remembered."""
    admission = Admission(2)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), admission.admit("a"):
            raise ZeroDivisionError
        with admission.admit("a"):
            pass
    assert not admission._held


def test_a_refusal_says_when_to_come_back():
    """It is the server's overload, with a time."""
    admission = Admission(1)
    with admission.admit("a"), pytest.raises(Overloaded) as refused, admission.admit("b"):
        pass
    assert refused.value.retry_after > 0
