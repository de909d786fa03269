"""Both clients: one set of operations, the same requests, the same patience."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
import stamina

from service import calls
from service import client as clients
from service.calls import Refused, StrangeAnswer, Unreachable
from service.client import AsyncClient, Client, Patience
from service.http.app import create_app
from service.http.schemas import NewKey, TenantOverrides
from tests import makers
from tests.service import http_fakes

PNG = makers.encode(makers.picture())


@pytest.fixture(autouse=True)
def _no_waiting():
    """Retries follow at once."""
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Runs `ask(handler, name, *arguments)` on either client, whose server is `handler`."""

    def ask_sync(handler, name, *arguments, **options):
        with Client("http://server", transport=httpx.MockTransport(handler)) as client:
            return getattr(client, name)(*arguments, **options)

    def ask_async(handler, name, *arguments, **options):
        async def call():
            transport = httpx.MockTransport(handler)
            async with AsyncClient("http://server", transport=transport) as client:
                return await getattr(client, name)(*arguments, **options)

        return asyncio.run(call())

    return ask_sync if request.param == "sync" else ask_async


def _problem(status, kind="overloaded", **headers):
    document = {
        "type": f"urn:protuning:problem:{kind}",
        "title": "It is so.",
        "status": status,
        "detail": "Too much. Come back.",
        "request_id": "r1",
    }
    return httpx.Response(status, json=document, headers=headers)


class _Script:
    """Answers one after the other, and remembers what was asked."""

    def __init__(self, *answers):
        self._answers = [*answers]
        self.requests: list[httpx.Request] = []

    def __call__(self, request):
        request.read()
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _page(*items):
    return httpx.Response(200, json={"items": [*items], "next_cursor": None})


@pytest.mark.parametrize(
    "failure",
    [
        lambda: _problem(503),
        lambda: _problem(429, **{"Retry-After": "1"}),
    ],
    ids=["503", "429"],
)
def test_what_may_pass_is_tried_again(ask, failure):
    """The same request, body and all, until there is an answer."""
    script = _Script(failure(), failure(), _page())
    assert ask(script, "tasks").items == []
    assert len(script.requests) == 3
    script = _Script(failure(), httpx.Response(204))
    assert ask(script, "delete", "flowers") is None
    assert {request.content for request in script.requests} == {b""}


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500, 504])
def test_what_will_not_pass_is_not_tried_again(ask, status):
    """The error holds what the server said."""
    script = _Script(_problem(status, "some-kind"))
    with pytest.raises(Refused, match="Too much") as refused:
        ask(script, "task", "flowers")
    assert refused.value.kind == "some-kind"
    assert refused.value.problem.status == status


def test_patience_ends(ask):
    """After the last attempt the last error is raised."""
    script = _Script(*[_problem(503) for _ in range(9)])
    with pytest.raises(Refused):
        ask(script, "tasks")
    assert len(script.requests) == 4


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.ReadError("reset")])
def test_no_answer_is_an_error_at_once(ask, failure):
    """What may have been done is not sent twice, and a wrong address is soon found out."""
    script = _Script(failure)
    with pytest.raises(Unreachable, match="http://server"):
        ask(script, "register", "flowers", b"data")
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(200, text="<html>"),
        lambda: httpx.Response(200, json={}),
        lambda: httpx.Response(502, text="Bad Gateway"),
    ],
    ids=["html", "other-json", "proxy"],
)
def test_answers_of_something_else_are_strange(ask, answer):
    """Another server at that address is recognised."""
    with pytest.raises(StrangeAnswer, match="http://server/tasks"):
        ask(_Script(*[answer() for _ in range(4)]), "tasks")


def _of_a_proxy(status, **headers):
    return httpx.Response(status, text="<html>", headers=headers)


# What the server itself says where it has too many connections.
FULL = {"Retry-After": "1"}


@pytest.mark.parametrize(
    "failure",
    [
        lambda: httpx.Response(503, headers=FULL),
        *(lambda status=status: _of_a_proxy(status) for status in (429, 502, 503, 504)),
    ],
    ids=["full", "429", "502", "503", "504"],
)
def test_what_a_proxy_says_may_pass_too(ask, failure):
    """Reading and predicting change nothing, so they are tried again."""
    for name, arguments in {"tasks": (), "predict": ("flowers", [PNG])}.items():
        script = _Script(failure(), _problem(404, "unknown-task"))
        with pytest.raises(Refused, match="Too much"):
            ask(script, name, *arguments)
        assert len(script.requests) == 2
        assert len({request.method + request.url.path for request in script.requests}) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_change_is_tried_again_where_it_was_surely_not_made(ask, status):
    """The answer says when to come back, so nobody has begun with it."""
    script = _Script(httpx.Response(status, headers=FULL), httpx.Response(204))
    assert ask(script, "delete", "flowers") is None
    assert len(script.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_change_that_may_have_been_made_is_not_sent_twice(ask, status):
    """A proxy that lost the answer says no more than that."""
    script = _Script(_of_a_proxy(status))
    with pytest.raises(StrangeAnswer, match=f"status {status}"):
        ask(script, "rollback", "predict")
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("999999", 60.0),
        (format_datetime(datetime(2000, 1, 1, tzinfo=UTC), usegmt=True), 0.0),
        (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 60.0),
        ("soon", True),
        (None, True),
    ],
)
def test_the_server_says_how_long_to_wait(ask, header, seconds):
    """Seconds or a date, within reason; where it says nothing the usual backoff holds."""
    headers = {} if header is None else {"Retry-After": header}
    with pytest.raises(Refused) as refused:
        ask(_Script(*[_problem(503, **headers) for _ in range(4)]), "tasks")
    backoff = clients._backoff(calls.tasks(), refused.value)
    assert backoff == seconds
    assert type(backoff) is type(seconds)


@pytest.mark.parametrize(
    ("arguments", "error", "advice"),
    [
        (("predict", "flowers", PNG), TypeError, r"\[image\]"),
        (("predict", "flowers", Path("rose.jpg")), TypeError, r"\[image\]"),
        (("predict", "flowers", "rose.jpg"), TypeError, r"\[image\]"),
        (("predict", "flowers", ["rose.jpg"]), TypeError, r"Path\(...\)"),
        (("predict", "flowers", []), ValueError, "at least one"),
        (("predict_many", "flowers", [PNG]), TypeError, r"\[task\]"),
        (("predict_many", [], [PNG]), ValueError, "at least one"),
        (("predict_many", ["flowers"], PNG), TypeError, r"\[image\]"),
        (("register", "flowers", "adapter.safetensors"), TypeError, r"Path\(...\)"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told_before_anything_is_sent(ask, arguments, error, advice):
    """With what to write instead."""
    script = _Script()
    with pytest.raises(error, match=advice):
        ask(script, *arguments)
    assert script.requests == []


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("10.0.0.1", "http://10.0.0.1"),
        ("ftp://host", "http://host"),
        ("", "http://127.0.0.1:8000"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_url_without_its_beginning_is_told_what_it_lacks(kind, url, right):
    """At once, with the URL that was probably meant."""
    with pytest.raises(Unreachable, match=f"write {right}"):
        kind(url)


def test_both_clients_have_the_same_operations():
    """They are written once, with their signatures and descriptions."""
    for name in ("predict", "predict_many", "register", "tasks", "checkpoint"):
        sync, async_ = getattr(Client(), name), getattr(AsyncClient(), name)
        assert sync.__doc__
        assert sync.__doc__ == async_.__doc__
        assert sync.__name__ == async_.__name__ == name


def _through_routes(use):
    """Runs `use(client)` against the real routes."""

    async def run():
        with http_fakes.services() as behind:
            transport = httpx.ASGITransport(create_app(behind))
            async with AsyncClient(
                "http://server", transport=transport, patience=Patience(attempts=1)
            ) as client:
                return await use(client)

    return asyncio.run(run())


def test_every_operation_fits_the_routes(tmp_path):
    """Register, list, predict, download, roll back, delete, through the real application."""
    checkpoint, image = tmp_path / "adapter.safetensors", tmp_path / "rose.png"
    checkpoint.write_bytes(b"checkpoint")
    image.write_bytes(PNG)

    async def use(client):
        assert (await client.register("flowers", checkpoint)).version == 1
        assert (await client.register("flowers", b"other")).version == 2
        assert [each.task for each in (await client.tasks(limit=5)).items] == ["flowers"]
        assert (await client.task("flowers")).active_version == 2
        assert len((await client.versions("flowers", limit=1)).items) == 1
        assert (await client.versions("flowers", limit=1)).next_cursor == "1"
        assert await client.checkpoint("flowers", 1) == b"checkpoint"
        answer = await client.predict("flowers", [image, PNG], top_k=1, timeout_ms=9_000)
        assert len(answer.predictions) == 2
        many = await client.predict_many(["flowers", "birds"], [PNG])
        assert [each.task for each in many.results] == ["flowers", "birds"]
        with pytest.raises(Refused, match="Look again"):
            await client.rollback("flowers", expected=1)
        assert (await client.rollback("flowers", expected=2)).version == 1
        await client.delete("flowers")
        with pytest.raises(Refused) as refused:
            await client.task("flowers")
        return refused.value

    assert _through_routes(use).kind == "unknown-task"


def test_names_cannot_leave_their_place_in_the_path(ask):
    """A task called like another path asks for that name, not for that path."""
    script = _Script(_problem(422, "invalid-request"))
    with pytest.raises(Refused):
        ask(script, "task", "../metrics?x#y")
    assert script.requests[0].url.raw_path == b"/tasks/..%2Fmetrics%3Fx%23y"


def test_a_key_goes_along_with_every_request():
    """In the header that every proxy keeps out of its log, and never in an error."""
    asked = []

    def handler(request):
        asked.append(request.headers.get("authorization"))
        return _problem(401, "unauthenticated")

    secret = "pt_" + "0" * 16 + "_" + "s" * 43
    with (
        Client("http://server", key=secret, transport=httpx.MockTransport(handler)) as client,
        pytest.raises(Refused) as caught,
    ):
        client.tasks()
    assert asked == [f"Bearer {secret}"]
    assert secret not in repr(caught.value)
    assert secret not in str(caught.value)


def test_keys_are_created_listed_and_revoked():
    """Against the real routes."""
    with http_fakes.services() as behind:

        async def use():
            transport = httpx.ASGITransport(create_app(behind))
            async with AsyncClient("http://server", transport=transport) as client:
                created = await client.create_key(NewKey(tenant="acme", scopes=["admin"]))
            async with AsyncClient("http://server", key=created.key, transport=transport) as client:
                assert [key.id for key in (await client.keys()).items] == [created.id]
                revoked = await client.revoke_key(created.id)
                assert revoked.revoked_at is not None
                with pytest.raises(Refused, match="401"):
                    await client.keys()

        asyncio.run(use())


def test_tenants_are_limited_listed_and_reset():
    """Against the real routes."""

    async def use(client):
        limited = await client.limit_tenant("acme", TenantOverrides(weight=2))
        assert limited.limits.weight == 2
        assert (await client.tenants(limit=5)).items == [limited]
        assert await client.tenant("acme") == limited
        assert (await client.reset_tenant("acme")).overridden == []
        return (await client.tenants()).items

    assert _through_routes(use) == []
