"""Stopping a server: what is in flight is answered, what comes new is refused, then it is gone."""

import contextlib
import http.client
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from threading import Event
from types import SimpleNamespace

import httpx
import pytest

from service.errors import ShuttingDown
from service.http.drain import Drain
from tests import makers
from tests.service import http_fakes

PNG = makers.encode(makers.picture())


def _predict(address):
    with httpx.Client(base_url=address, timeout=20) as client:
        return client.post(
            "/tasks/flowers/predict", content=PNG, headers={"content-type": "image/png"}
        )


def _ask_until_nobody_listens(address):
    with contextlib.suppress(httpx.ConnectError):
        while True:
            httpx.get(f"{address}/health/live")


def test_requests_in_flight_finish_and_new_ones_get_503():
    """After the first signal, for as long as the last answer takes."""
    with http_fakes.services() as behind, ThreadPoolExecutor(1) as pool:
        behind.predictor.gate = Event()
        with http_fakes.live(behind) as server:
            address = server.address
            in_flight = pool.submit(_predict, address)
            assert behind.predictor.waiting.wait(20)
            server.handle_exit(signal.SIGTERM, None)
            refused = _predict(address)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert refused.json()["type"].endswith(":shutting-down")
            assert refused.headers["retry-after"] == "2"
            assert httpx.get(f"{address}/health/ready").status_code == 503
            assert httpx.get(f"{address}/health/live").status_code == 200
            behind.predictor.gate.set()
            assert in_flight.result(20).status_code == 200
            assert server.has_ended.wait(20)
            with pytest.raises(httpx.ConnectError):
                _predict(address)


def test_an_idle_server_ends_at_the_first_signal():
    """Nothing is in flight, so there is nothing to wait for."""
    with http_fakes.services() as behind, http_fakes.live(behind) as server:
        usual = _predict(server.address)
        assert usual.status_code == 200
        assert "connection" not in usual.headers
        server.handle_exit(signal.SIGINT, None)
        assert server.has_ended.wait(20)


def test_a_connection_without_a_request_hears_a_503(monkeypatch):
    """One that was opened before the end, and asks after the server has stopped listening."""
    now = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr("service.http.server.time", now)
    with http_fakes.services() as behind, http_fakes.live(behind) as server:
        host, port = server.address.removeprefix("http://").split(":")
        early = http.client.HTTPConnection(host, int(port), timeout=20)
        early.connect()
        assert _predict(server.address).status_code == 200
        server.handle_exit(signal.SIGTERM, None)
        _ask_until_nobody_listens(server.address)
        early.request("GET", "/health/ready")
        assert early.getresponse().status == 503
        early.close()
        now.monotonic = partial(next, count(1))
        assert server.has_ended.wait(20)


def test_balancers_get_time_to_notice(monkeypatch):
    """For the delay it serves on, although it is not ready any more; then it is gone."""
    now = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr("service.http.server.time", now)
    with http_fakes.services() as behind, http_fakes.live(behind, delay=60) as server:
        server.handle_exit(signal.SIGTERM, None)
        now.monotonic = lambda: 59.9
        answer = httpx.get(f"{server.address}/health/ready")
        assert answer.status_code == 503
        assert answer.json()["type"].endswith(":shutting-down")
        late = _predict(server.address)
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        now.monotonic = partial(next, count(60))
        assert server.has_ended.wait(20)


def test_a_second_signal_ends_it_at_once():
    """Whoever insists does not wait for an answer that never comes."""
    with http_fakes.services() as behind, ThreadPoolExecutor(1) as pool:
        behind.predictor.gate = Event()
        with http_fakes.live(behind) as server:
            in_flight = pool.submit(_predict, server.address)
            assert behind.predictor.waiting.wait(20)
            server.handle_exit(signal.SIGTERM, None)
            assert not server.should_exit
            server.handle_exit(signal.SIGTERM, None)
            assert server.should_exit
            behind.predictor.gate.set()
            assert in_flight.result(20).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(monkeypatch):
    """The server leaves when its patience ends; the client hears that it may try elsewhere."""
    monkeypatch.setattr("service.http.server.CLOSING_SECONDS", 1)
    with http_fakes.services() as behind, ThreadPoolExecutor(1) as pool:
        behind.predictor.gate = Event()
        with http_fakes.live(behind, timeout=0.1) as server:
            in_flight = pool.submit(_predict, server.address)
            assert behind.predictor.waiting.wait(20)
            server.handle_exit(signal.SIGTERM, None)
            assert server.has_ended.wait(20)
            assert behind.predictor.cancelled.is_set()
            assert in_flight.result(20).status_code == 503


def test_a_drain_counts_requests_and_refuses_after_it_has_begun():
    """Also where a request ends in an error."""
    drain = Drain()
    with drain.request():
        assert drain.in_flight == 1
        drain.begin()
        with pytest.raises(ShuttingDown), drain.request():
            pass
        assert drain.in_flight == 1
    with pytest.raises(ShuttingDown):
        drain.check()
    assert drain.in_flight == 0
