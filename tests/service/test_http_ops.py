"""Health, metrics, the page, request ids, and what the log says of a request."""

import base64
import io
import json
import re
from pathlib import Path

import httpx
import pytest

import service.http.page
from adapters.errors import StoreUnavailable
from service import logs
from service.http.ops import create_ops_app
from service.types import TaskKey
from tests import makers
from tests.service import http_fakes

pytestmark = pytest.mark.anyio

STATIC = Path(service.http.page.__file__).with_name("static")


async def _get(path, **changes):
    with http_fakes.services(**changes) as behind:
        async with http_fakes.client(behind) as client:
            return await client.get(path)


async def test_a_healthy_server_is_live_and_ready():
    """Both answer 200."""
    assert (await _get("/health/live")).json() == {"status": "live"}
    assert (await _get("/health/ready")).json() == {"status": "ready", "problems": []}


async def test_a_server_that_goes_on_without_a_part_is_degraded_and_ready():
    """Traffic still comes, and the operator reads what is wrong."""

    async def check():
        return ["The index is gone. Start it."]

    answer = await _get("/health/ready", check=check)
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "problems": ["The index is gone. Start it."]}


async def test_a_server_without_its_store_is_live_but_not_ready():
    """A load balancer looks elsewhere; nobody restarts the process."""

    async def check():
        raise StoreUnavailable("The disk is gone. Mount it.")

    answer = await _get("/health/ready", check=check)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert (await _get("/health/live", check=check)).status_code == 200


async def test_a_server_that_is_about_to_stop_takes_no_work():
    """503 for tasks and predictions and readiness; life and metrics go on."""
    with http_fakes.services() as behind:
        behind.drain.begin()
        async with http_fakes.client(behind) as client:
            for path, status in {
                "/tasks": 503,
                "/health/ready": 503,
                "/health/live": 200,
                "/metrics": 200,
            }.items():
                assert (await client.get(path)).status_code == status, path
            answer = await client.post("/tasks/flowers/predict", content=b"")
    assert answer.json()["type"].endswith(":shutting-down")
    assert answer.headers["retry-after"] == "2"


async def test_requests_are_counted_until_they_are_answered():
    """Also those that fail."""
    with http_fakes.services() as behind:
        behind.manager.error = ZeroDivisionError()
        async with http_fakes.client(behind) as client:
            await client.get("/tasks")
            await client.get("/tasks/none")
        assert behind.drain.in_flight == 0


async def test_strangers_do_not_read_what_is_wrong():
    """Where there are keys, or a port for operators, readiness is one word, or a status."""

    async def check():
        return ["Redis at 10.0.0.7 is gone. Start it."]

    async def gone():
        raise StoreUnavailable("The disk /mnt/x is gone. Mount it.")

    for changes in (
        {"keys": http_fakes.policy_fakes.key_ring(required=True)},
        {"has_own_ops_port": True},
    ):
        answer = await _get("/health/ready", check=check, **changes)
        assert answer.json() == {"status": "degraded", "problems": []}
        assert "/mnt/x" not in (await _get("/health/ready", check=gone, **changes)).text


async def test_only_administrators_scrape_where_there_are_keys():
    """The metrics name tasks of all tenants."""
    with http_fakes.services(keys=http_fakes.policy_fakes.key_ring(required=True)) as behind:
        headers = {}
        for scope in ("predict", "manage", "admin"):
            _, token = await behind.keys.create("default", frozenset({scope}))
            headers[scope] = {"authorization": f"Bearer {token}"}
        async with http_fakes.client(behind) as client:
            statuses = [
                (await client.get("/metrics", headers=given)).status_code
                for given in ({}, headers["predict"], headers["manage"], headers["admin"])
            ]
    assert statuses == [401, 403, 403, 200]


async def test_operators_have_a_port_of_their_own():
    """Metrics and reasons without a key there, and no metrics at all where tenants are."""
    answers = [["The index is gone. Start it."], StoreUnavailable("All is gone. Begin anew.")]

    async def check():
        answer = answers.pop(0) if answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer

    keys = http_fakes.policy_fakes.key_ring(required=True)
    with http_fakes.services(keys=keys, check=check, has_own_ops_port=True) as behind:
        transport = httpx.ASGITransport(create_ops_app(behind))
        async with httpx.AsyncClient(transport=transport, base_url="http://ops") as client:
            degraded = await client.get("/health/ready")
            down = await client.get("/health/ready")
            assert (await client.get("/health/ready")).json() == {"status": "ready", "problems": []}
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/metrics")).text.startswith("# HELP")
            assert (await client.get("/tasks")).status_code == 404
            behind.drain.begin()
            assert (await client.get("/health/ready")).status_code == 503
        async with http_fakes.client(behind) as client:
            assert (await client.get("/metrics")).status_code == 404
    assert degraded.json() == {"status": "degraded", "problems": ["The index is gone. Start it."]}
    assert (down.status_code, down.json()["status"]) == (503, "down")
    assert down.json()["problems"] == ["All is gone. Begin anew."]


async def test_requests_are_counted_by_route_and_status():
    """By the route's template, so that task names and made-up addresses are no labels."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            for path in ("/tasks/a", "/tasks/b", "/v2/models/a/ready", "/x/1", "/x/2"):
                await client.get(path)
            await client.request("BREW", "/tasks/a")
            text = (await client.get("/metrics")).text
    counted = dict(re.findall(r"^protuning_http_requests_total(\{.*\}) (.*)$", text, re.MULTILINE))
    assert counted == {
        '{method="GET",route="/tasks/{task}",status="404"}': "2.0",
        '{method="GET",route="/v2/models/{task}/ready",status="404"}': "1.0",
        '{method="GET",route="none",status="404"}': "2.0",
        '{method="other",route="/tasks/{task}",status="405"}': "1.0",
    }


async def test_metrics_are_prometheus_text():
    """What the parts have counted comes out."""
    with http_fakes.services() as behind:
        behind.metrics.request(TaskKey("default", "flowers"), "ok")
        async with http_fakes.client(behind) as client:
            answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'protuning_requests_total{outcome="ok",task="default/flowers"} 1.0' in answer.text


async def test_the_page_needs_nothing_from_elsewhere():
    """Everything it names is served here, and the policy allows nothing else."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            page = await client.get("/")
            assert page.status_code == 200
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            named = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
            assert {"/static/page.css", "/static/page.js"} <= set(named)
            for path in named:
                assert (await client.get(path)).status_code == 200, path
            assert (await client.get("/static/../page.py")).status_code == 404
    for file in STATIC.iterdir():
        assert "://" not in file.read_text(), file


async def test_no_markup_is_made_of_what_the_server_says():
    """Labels and task names are somebody else's text."""
    script = (STATIC / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


async def test_the_page_keeps_no_key():
    """What a reader types in is gone with the page: no storage, no cookie, no address."""
    script = (STATIC / "page.js").read_text()
    assert not re.search(
        r"localStorage|sessionStorage|indexedDB|cookie|location\.(hash|href)", script
    )
    assert 'type="password" autocomplete="off"' in (STATIC / "index.html").read_text()


@pytest.mark.parametrize("given", ["abc-123", "x" * 64])
async def test_a_sane_request_id_is_kept(given):
    """The client can follow its request."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            answer = await client.get("/health/live", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "a\tb"])
async def test_any_other_request_id_is_replaced(given):
    """Nobody writes into the log through a header."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            answer = await client.get("/health/live", headers={"x-request-id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_request_is_one_line_in_the_log_without_its_content():
    """Method, path, status, time and id; no query, no header, no body; a crash with traceback."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            await client.post(
                "/tasks/flowers/predict?top_k=1",
                content=makers.encode(makers.picture()),
                headers={"content-type": "image/png", "authorization": "Bearer 4711"},
            )
            behind.predictor.error = ZeroDivisionError("oh")
            await client.post(
                "/tasks/flowers/predict",
                content=makers.encode(makers.picture()),
                headers={"content-type": "image/png", "x-request-id": "second"},
            )
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ours = [line for line in lines if line["logger"].startswith("service.")]
    first, crash, second = ours
    assert (first["event"], first["method"], first["status"]) == ("request", "POST", 200)
    assert first["path"] == "/tasks/flowers/predict"
    assert first["seconds"] > 0
    assert "ZeroDivisionError" in crash["exception"]
    assert (second["status"], second["request_id"], crash["request_id"]) == (
        500,
        "second",
        "second",
    )
    assert "4711" not in stream.getvalue()
    assert "PNG" not in stream.getvalue()
    assert "top_k" not in "".join(json.dumps(line) for line in ours)


async def test_no_key_and_no_image_gets_into_the_log():
    """Wherever a client puts them, whatever goes wrong, and at the lowest level."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    picture = makers.encode(makers.picture(seed=7))
    with http_fakes.services(keys=http_fakes.policy_fakes.key_ring(required=True)) as behind:
        _, token = await behind.keys.create("default", frozenset({"predict", "manage"}))
        key = str(token)
        bearer = {"authorization": f"Bearer {key}", "content-type": "image/png"}
        behind.predictor.error = ZeroDivisionError(f"crash with {key}")
        async with http_fakes.client(behind) as client:
            await client.post("/tasks/flowers/predict", content=picture, headers=bearer)
            await client.post("/tasks/flowers/predict", content=picture[:99], headers=bearer)
            await client.get("/tasks", headers={"x-api-key": key})
            await client.get("/tasks", headers={"x-api-key": key[:-1]})
            await client.get("/tasks", headers={"cookie": key, "x-request-id": key})
            await client.get(f"/tasks/{key}?key={key}", headers={"authorization": f"Basic {key}"})
            await client.get(f"/{'x' * 200}/{key}")
            text = base64.b64encode(picture).decode()
            for body in ({"images": [text]}, {"images": [text[:-2]]}, {"imagez": [text]}):
                await client.post("/tasks/flowers/predict", json=body, headers={"x-api-key": key})
            await client.post("/v2/models/flowers/infer", content=picture, headers=bearer)
    written = stream.getvalue()
    assert written.count('"event": "request"') == 11
    assert token.secret[:8] not in written
    assert "PNG" not in written
    assert text[:16] not in written
