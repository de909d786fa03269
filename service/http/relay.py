"""Requests that are the engine process's business, passed on to it as they are."""

from collections.abc import Iterable, Iterator

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from service.errors import RequestCancelled, ShuttingDown
from service.http.auth import identify
from service.http.drain import RETRY_AFTER, Drain
from service.http.errors import MalformedRequest
from service.keys import KeyRing

CONNECT_SECONDS = 5.0
# What concerns one connection and not the request (RFC 9110, 7.6.1), and what this process sets.
_OF_A_CONNECTION = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding"}
RELAYED_FOR = "x-relayed-for"
_OURS = {b"date", b"server", b"x-request-id", RELAYED_FOR.encode()}


class Relay:
    """An ASGI application that is another one behind a Unix socket.

    Args:
        path: The socket.
        drain: Counts what is on its way; whether it is still taken, the other side decides.
        keys: Know in whose name a body is held here; what they may do, the other side decides.
    """

    def __init__(self, path: str, drain: Drain, keys: KeyRing) -> None:
        self._drain = drain
        self._keys = keys
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path),
            # How long an answer may take is for the engine process to say.
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request.

        Raises:
            MalformedRequest: it cannot be put into HTTP again, laxly as it was taken.
            ShuttingDown: the engine process has gone.
            RequestCancelled: the client left before its body was whole.
            Unauthenticated: there is a body, and nobody whom it belongs to.
            StoreUnavailable: whom it belongs to cannot be found out.
        """
        if _has_body(scope):
            await identify(Request(scope), self._keys)
        with self._drain.counted():
            try:
                response = await self._client.send(self._request(scope, receive), stream=True)
            except httpx.LocalProtocolError as error:
                raise MalformedRequest(
                    "The request's head is not valid HTTP (RFC 9112). Send its address and its "
                    "headers without control characters."
                ) from error
            except httpx.TransportError as error:
                raise ShuttingDown(
                    "The engine has stopped. Try again: another server may answer.",
                    retry_after=RETRY_AFTER,
                ) from error
            except ClientDisconnect as error:
                raise RequestCancelled("The client left before its body was whole.") from error
            try:
                await _answer(response, send)
            finally:
                await response.aclose()

    async def close(self) -> None:
        """Give the connections up."""
        await self._client.aclose()

    def _request(self, scope: Scope, receive: Receive) -> httpx.Request:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = [*_passed_on(scope["headers"], _OF_A_CONNECTION | _OURS)]
        return self._client.build_request(
            scope["method"],
            "http://engine",
            headers=[*headers, *_about(scope)],
            content=Request(scope, receive).stream() if _has_body(scope) else None,
            # A URL would be normalised: the other side has to see what this one's routes saw.
            extensions={"target": scope["raw_path"] + query},
        )


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _about(scope: Scope) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-request-id", scope["state"]["request_id"].encode()
    if scope["client"] is not None:
        yield RELAYED_FOR.encode(), scope["client"][0].encode()


async def _answer(response: httpx.Response, send: Send) -> None:
    headers = [*_passed_on(response.headers.raw, _OF_A_CONNECTION | _OURS)]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _passed_on(
    headers: Iterable[tuple[bytes, bytes]], dropped: set[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    # The parser leaves blanks at a value's end, which are none of it (RFC 9110, 5.5).
    return (
        (name.lower(), value.strip(b" \t"))
        for name, value in headers
        if name.lower() not in dropped
    )
