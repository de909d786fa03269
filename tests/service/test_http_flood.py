"""A flood over HTTP: it is refused before its bodies are read, and leaves room for others."""

import asyncio

import httpx
import pytest

from service.admission import Admission
from tests import makers
from tests.service import http_fakes, policy_fakes

pytestmark = pytest.mark.anyio
PNG = makers.encode(makers.picture())
CAPACITY = 8


@pytest.fixture
def behind():
    """Room for eight predictions at a time, none of which ends before the gate is open."""
    ring = policy_fakes.key_ring(required=True)
    with http_fakes.services(keys=ring, admission=Admission(CAPACITY)) as services:
        yield services


@pytest.mark.parametrize("path", ["/tasks/flowers/predict", "/predict?tasks=flowers"])
async def test_one_tenant_takes_half_and_another_still_gets_in(behind, path):
    """What is over it is refused unread, and once all have left there is room again."""
    gate = asyncio.Event()
    behind.predictor.gate = _Gate(gate)
    tokens = [(await behind.keys.create(name, {"predict"}))[1] for name in ("loud", "quiet")]
    loud, quiet = [{**policy_fakes.bearer(token), "content-type": "image/png"} for token in tokens]
    read = []

    async def body():
        read.append(True)
        yield PNG

    async with http_fakes.client(behind) as client:
        waiting = [
            asyncio.create_task(client.post(path, content=PNG, headers=loud))
            for _ in range(CAPACITY // 2)
        ]
        while len(behind.predictor.asked) < CAPACITY // 2:
            await asyncio.sleep(0)
        refused = await client.post(path, content=body(), headers=loud)
        assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert "retry-after" in refused.headers
        assert read == []
        other = asyncio.create_task(client.post(path, content=PNG, headers=quiet))
        while len(behind.predictor.asked) < CAPACITY // 2 + 1:
            await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*waiting, other)
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert (await client.post(path, content=PNG, headers=loud)).status_code == 200
    assert b'protuning_rejected_total{reason="Overloaded"} 1.0' in behind.metrics.render()[0]


class _Gate:
    """What the fake predictor asks of a threading event."""

    def __init__(self, event):
        self._event = event

    def is_set(self):
        """Whether predictions may end."""
        return self._event.is_set()
