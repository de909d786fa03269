"""Requests that are refused by their head alone: oversized, encoded, or another page's."""

import pytest

from service.http.errors import (
    CrossSite,
    MalformedRequest,
    Misdirected,
    QueryTooLong,
    TooManyHeaders,
    UnsupportedContentType,
)
from service.http.gate import refusal
from tests.service import http_fakes

pytestmark = pytest.mark.anyio


def scope(method="POST", query="", server=("127.0.0.1", 8000), **headers):
    """A request's head."""
    given = {"host": "localhost:8000", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return {
        "type": "http",
        "method": method,
        "query_string": query.encode(),
        "server": server,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


@pytest.mark.parametrize("is_open", [True, False])
def test_ordinary_requests_pass(is_open):
    """From a program, from our own page, from the address bar."""
    for head in (
        scope(),
        scope(query="x" * 8_192, content_encoding="identity"),
        scope(sec_fetch_site="same-origin"),
        scope("GET", sec_fetch_site="cross-site"),
        scope(content_length="0" * 19 + "7"),
        scope(host="127.0.0.1:8000"),
        scope(host="[::1]:8000", server=("::1", 8000)),
        scope(host="LOCALHOST"),
    ):
        assert refusal(head, is_open=is_open) is None


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("head", "error"),
    [
        (scope(query="x" * 8_193), QueryTooLong),
        (scope(**{f"x{number}": "y" for number in range(100)}), TooManyHeaders),
        (scope(content_encoding="gzip"), UnsupportedContentType),
        (scope(content_encoding="gzip, identity"), UnsupportedContentType),
    ],
)
def test_what_cannot_be_bounded_is_refused(head, error, is_open):
    """Long queries, many headers, compressed bodies."""
    assert type(refusal(head, is_open=is_open)) is error


@pytest.mark.parametrize("is_open", [True, False])
def test_what_breaks_http_is_refused(is_open):
    """A second Host, of which others may read the other one, and lengths that nobody means."""
    two = scope()
    two["headers"].append((b"host", b"localhost:8000"))
    for head in (two, scope(content_length="0" * 20 + "7")):
        assert type(refusal(head, is_open=is_open)) is MalformedRequest


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (scope(sec_fetch_site="cross-site"), CrossSite),
        (scope("DELETE", sec_fetch_site="same-site"), CrossSite),
        (scope("GET", host="rebound.example"), Misdirected),
        (scope(host="rebound.example:8000", server=("::1", 8000)), Misdirected),
        (scope(host=""), Misdirected),
        (scope(host="127.0.0.1.rebound.example"), Misdirected),
    ],
)
def test_pages_of_others_are_kept_out_where_there_are_no_keys(head, error):
    """By the browser's own word, and by the name that a rebound domain keeps; keys do it else."""
    assert type(refusal(head, is_open=True)) is error
    assert refusal(head, is_open=False) is None


def test_any_name_is_right_where_others_were_let_in():
    """Whoever listens beyond the loopback without keys has said so."""
    assert refusal(scope(host="models.example", server=("10.0.0.7", 8000)), is_open=True) is None
    assert refusal(scope(host="models.example", server=("/run/engine", None)), is_open=True) is None


async def test_each_refusal_is_an_answer():
    """400, 403, 421 and 431 as problems, before the route is asked."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            many = {f"x{number}": "y" for number in range(100)}
            for headers, status, kind in (
                ({"sec-fetch-site": "cross-site"}, 403, "cross-site"),
                ({"host": "rebound.example"}, 421, "misdirected"),
                (many, 431, "too-many-headers"),
                ({"content-length": "0" * 4_400}, 400, "malformed-request"),
            ):
                answer = await client.post(
                    "http://127.0.0.1/tasks/flowers/predict", headers=headers
                )
                assert answer.status_code == status
                assert answer.json()["type"].endswith(f":{kind}")
        assert behind.predictor.asked == []


async def test_every_answer_carries_the_headers_that_protect_browsers():
    """Answers, errors and crashes: data, never to be guessed at, framed, shared or kept."""
    with http_fakes.services() as behind:
        behind.manager.error = ZeroDivisionError()
        async with http_fakes.client(behind) as client:
            for path in ("/health/live", "/nothing", "/tasks", "/v2", "/openapi.json"):
                headers = (await client.get(path)).headers
                assert headers["x-content-type-options"] == "nosniff"
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert headers["cache-control"] == "no-store"
                assert headers["referrer-policy"] == "no-referrer"
                assert headers["cross-origin-resource-policy"] == "same-origin"
                assert "server" not in headers


async def test_nobody_sees_a_traceback():
    """A crash gives away neither its kind nor its place, by either protocol."""
    with http_fakes.services() as behind:
        behind.manager.error = ZeroDivisionError("secret 4711")
        async with http_fakes.client(behind) as client:
            for method, path in (("GET", "/tasks"), ("POST", "/v2/repository/index")):
                answer = await client.request(method, path)
                assert answer.status_code == 500
                assert "4711" not in answer.text
                assert "ZeroDivision" not in answer.text
                assert "Traceback" not in answer.text
