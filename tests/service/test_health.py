"""Ready, degraded and down are told apart, however slowly a part answers."""

import asyncio

import pytest

from adapters.errors import StoreUnavailable
from service.health import PROBE_SECONDS, HealthCheck
from tests.service.fakes import ANYIO_BACKEND, advance, breathe

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """The loop that the service runs on, with a clock that tests move."""
    return ANYIO_BACKEND


async def works():
    """A part that answers."""


async def fails():
    """A part that is gone."""
    raise StoreUnavailable("The index is gone. Start it.")


async def test_a_server_whose_parts_work_has_no_problems():
    """Whether or not it has tasks yet."""
    assert await HealthCheck({"index": works, "store": works}, lambda: False)() == []


async def test_a_server_that_can_go_on_is_degraded():
    """What does not work is told, each part by its own words."""
    check = HealthCheck({"index": fails, "store": works}, lambda: True)
    assert await check() == ["The index is gone. Start it."]


async def test_a_server_that_has_nothing_to_serve_is_down():
    """Without the index and without a task in memory, it is of no use."""
    with pytest.raises(StoreUnavailable, match="Start it"):
        await HealthCheck({"index": fails}, lambda: False)()


async def test_a_part_that_hangs_is_told_in_time_and_asked_once():
    """A probe gets its answer, and probes do not pile up behind a part that gives none."""
    asked, gate = [], asyncio.Event()

    async def hangs():
        asked.append(1)
        await gate.wait()

    check = HealthCheck({"blob store": hangs}, lambda: True)
    for _ in range(3):
        probe = asyncio.create_task(check())
        await breathe()
        assert not probe.done()
        await advance(PROBE_SECONDS)
        assert await probe == [
            "The blob store does not answer. Check that it runs and can be reached."
        ]
    assert len(asked) == 1
    gate.set()
    assert await check() == []
