"""A flood over HTTP: it is refused before its bodies are read, and leaves room for others."""

import asyncio
import base64
import json
from dataclasses import replace

import httpx
import pytest

from service.admission import Admission
from service.errors import DeadlineExceeded
from service.http.app import create_app, create_front_app
from service.http.relay import Relay
from tests import makers
from tests.service import http_fakes, policy_fakes

pytestmark = pytest.mark.anyio
PNG = makers.encode(makers.picture())
CAPACITY = 8
_INPUT = {"name": "image", "datatype": "BYTES", "shape": [1]}
INFERENCE = json.dumps({"inputs": [{**_INPUT, "data": [base64.b64encode(PNG).decode()]}]}).encode()


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


async def test_one_tenant_fills_half_of_the_buffer_and_another_finds_room(behind):
    """Bodies that stall before their end hold what has come of them, and no more than a half."""
    body = replace(behind.limits.body, max_buffered_bytes=2**20)
    behind = replace(behind, limits=replace(behind.limits, body=body))
    tokens = [(await behind.keys.create(name, {"predict"}))[1] for name in ("loud", "quiet")]
    loud, quiet = [{**policy_fakes.bearer(token), "content-type": "image/png"} for token in tokens]
    stalled, gate = asyncio.Semaphore(0), asyncio.Event()

    async def stalling(size):
        yield bytes(size)
        stalled.release()
        await gate.wait()
        yield b"."

    async with http_fakes.client(behind) as client:

        async def status(headers, content):
            path = "/tasks/flowers/predict"
            return (await client.post(path, content=content, headers=headers)).status_code

        hogs = [asyncio.create_task(status(loud, stalling(2**18 - 1))) for _ in range(2)]
        for _ in hogs:
            await stalled.acquire()
        assert await status(loud, bytes(2**10)) == httpx.codes.SERVICE_UNAVAILABLE
        assert await status(quiet, bytes(2**18)) == httpx.codes.UNSUPPORTED_MEDIA_TYPE
        gate.set()
        assert await asyncio.gather(*hogs) == [httpx.codes.UNSUPPORTED_MEDIA_TYPE] * 2
        assert await status(loud, bytes(2**19)) == httpx.codes.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("app", ["whole", "front"])
async def test_no_body_is_read_before_it_is_known_whose_it_is(behind, app):
    """On every route that takes one, in every process: a stranger holds nothing of the buffer."""
    whole = create_app(behind)
    relay = Relay("nowhere", behind.drain, behind.keys)
    apps = {"whole": whole, "front": create_front_app(behind, relay)}
    read = []

    async def body():
        read.append(True)
        yield b"."

    taking = [
        (method, path.replace("{", "").replace("}", "").replace("versions/version", "versions/1"))
        for path, operations in whole.openapi()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    ]
    assert len(taking) > 8
    transport = httpx.ASGITransport(apps[app])
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        for method, path in taking:
            query = {"tasks": "flowers"}
            answer = await client.request(method, path, content=body(), params=query)
            assert (path, answer.status_code) == (path, httpx.codes.UNAUTHORIZED)
    assert read == []
    await relay.close()


class _Gate:
    """What the fake predictor asks of a threading event."""

    def __init__(self, event):
        self._event = event

    def is_set(self):
        """Whether predictions may end."""
        return self._event.is_set()


def _without_room(behind, place):
    """The same services, with no room or no time in one place on a request's way."""
    match place:
        case "door":
            return replace(behind, admission=Admission(0))
        case "buffer":
            body = replace(behind.limits.body, max_buffered_bytes=8)
            return replace(behind, limits=replace(behind.limits, body=body))
        case "decoding":
            behind.images._admission = Admission(0, "images")
        case "stopping":
            behind.drain.begin()
        case "engine":
            behind.predictor.error = DeadlineExceeded("It is too late. Allow more time.")
    return behind


@pytest.mark.parametrize(
    ("place", "reason", "status"),
    [
        ("door", "Overloaded", 503),
        ("buffer", "Overloaded", 503),
        ("decoding", "Overloaded", 503),
        ("stopping", "ShuttingDown", 503),
        ("engine", "DeadlineExceeded", 504),
    ],
)
@pytest.mark.parametrize(
    ("path", "route", "content"),
    [
        ("/tasks/flowers/predict", "/tasks/{task}/predict", PNG),
        ("/predict?tasks=flowers", "/predict", PNG),
        ("/v2/models/flowers/infer", "/v2/models/{task}/infer", INFERENCE),
    ],
)
async def test_a_refusal_is_counted_once_wherever_it_happens(
    place, reason, status, path, route, content
):
    """By its reason and its route: the two series that the overload alert compares."""
    with http_fakes.services() as services:
        behind = _without_room(services, place)
        async with http_fakes.client(behind) as client:
            answer = await client.post(path, content=content, headers={"content-type": "image/png"})
        assert answer.status_code == status
        scrape = behind.metrics.render()[0].decode().splitlines()
    refused = [line for line in scrape if line.startswith("protuning_rejected_total{")]
    assert refused == [f'protuning_rejected_total{{reason="{reason}"}} 1.0']
    labels = f'method="POST",route="{route}",status="{status}"'
    assert f"protuning_http_requests_total{{{labels}}} 1.0" in scrape


async def test_what_a_client_does_wrong_is_no_refusal():
    """An unknown task or a broken image says nothing of the server's room."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            for path, content in (("/tasks/none/predict", PNG), ("/tasks/flowers/predict", b"no")):
                answer = await client.post(
                    path, content=content, headers={"content-type": "image/png"}
                )
                assert 400 <= answer.status_code < 500
        assert b"protuning_rejected_total{" not in behind.metrics.render()[0]
