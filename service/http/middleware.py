"""What happens around every request: its id and log line, and the limits on what it sends."""

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import Admission
from service.errors import ShuttingDown
from service.http.drain import Drain
from service.http.errors import (
    BodyTimeout,
    BodyTooLarge,
)
from service.http.gate import refusal
from service.http.problems import UNFORESEEN, problem_of
from service.metrics import Metrics
from service.tenants import Principal
from service.tracing import Tracer

REQUEST_ID = "X-Request-Id"
# What an answer says where its route says nothing else: it is data, for nobody else's page.
DEFAULT_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
RETRY_AFTER = 1.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHOWN_PATH = 256

_GIVEN_UP = problem_of(
    ShuttingDown(
        "The server stopped before the answer was there. Try again: another one may answer.",
        retry_after=RETRY_AFTER,
    )
)

log = structlog.get_logger(__name__)


class RequestContext:
    """Gives each request an id, the client's own if it is sane, one line in the log, and a count.

    An error that nobody foresaw ends here: its traceback goes to the log, not to the client. From
    when the server is about to leave, each answer closes its connection, so that no client sends
    its next request into a connection that ends.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer, drain: Drain) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(scope, send, self._drain)
        started = time.monotonic()
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            self._tracer.request(scope["method"], Headers(scope=scope), request_id) as span,
        ):
            try:
                await self._answer(scope, receive, answer)
            finally:
                seconds = time.monotonic() - started
                route = getattr(scope.get("route"), "path", None)
                span.end(route, answer.status)
                self._metrics.http(scope["method"], route, answer.status, seconds)
                _write_line(scope, answer.status, seconds)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            log.exception("request_crashed")
            if answer.status is not None:
                raise
            await UNFORESEEN.response(scope)(scope, receive, answer.send)
        except asyncio.CancelledError:
            # The server's patience has ended, and so does this task with the answer.
            if answer.status is None:
                await _GIVEN_UP.response(scope)(scope, receive, answer.send)


def _write_line(scope: Scope, status: int | None, seconds: float) -> None:
    log.info(
        "request",
        method=scope["method"],
        path=scope["path"][:_SHOWN_PATH],
        status=status,
        seconds=round(seconds, 6),
        **_who(scope),
    )


def _who(scope: Scope) -> dict[str, str | None]:
    principal: Principal | None = scope["state"].get("principal")
    return {} if principal is None else {"tenant": principal.tenant, "key_id": principal.key_id}


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class _Answer:
    """An answer on its way out; `status` is None until it has begun."""

    def __init__(self, scope: Scope, send: Send, drain: Drain) -> None:
        self._scope = scope
        self._send = send
        self._drain = drain
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._scope["state"]["request_id"]
            for name, value in DEFAULT_HEADERS.items():
                headers.setdefault(name, value)
            if self._drain.is_announced:
                headers["Connection"] = "close"
        await self._send(message)


@dataclass(frozen=True)
class BodyLimits:
    """What bodies may weigh.

    Args:
        max_bytes: Of one body.
        max_buffered_bytes: Of all bodies whose requests are being worked on; of those of one
            tenant alone, half of it.
        timeout: Seconds for a body to arrive, from when the server begins to read it.
    """

    max_bytes: int
    max_buffered_bytes: int
    timeout: float


class BoundedRequests:
    """Holds each request to its limits while it streams in: nothing is buffered to be counted."""

    def __init__(self, app: ASGIApp, limits: BodyLimits, is_open: Callable[[], bool]) -> None:
        self._app = app
        self._limits = limits
        self._is_open = is_open
        self._buffer = Admission(limits.max_buffered_bytes, "bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (error := refusal(scope, is_open=self._is_open())) is not None:
            await problem_of(error).response(scope)(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(scope, receive, self._limits)

        async def receive_within_limits() -> Message:
            message = await body.receive()
            if size := len(message.get("body", b"")):
                body.holder = body.holder if body.size else _holder(scope)
                self._buffer.take(body.holder, size)
                body.size += size
            return message

        try:
            await self._app(scope, receive_within_limits, send)
        finally:
            if body.size:
                self._buffer.give_back(body.holder, body.size)


def _holder(scope: Scope) -> str:
    """In whose name a body is held: no route reads one before it knows whose it is."""
    principal: Principal | None = scope["state"].get("principal")
    return "" if principal is None else principal.tenant


class _Body:
    """One body as it arrives; `size` is what the server has taken of it, in `holder`'s name."""

    def __init__(self, scope: Scope, receive: Receive, limits: BodyLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._announced = Headers(scope=scope).get("content-length", "0")
        self._deadline: float | None = None
        self._is_whole = False
        self.size = 0
        self.holder = ""

    async def receive(self) -> Message:
        """The next message, at its end the client's departure.

        Raises:
            BodyTooLarge: over the limit, announced or counted.
            BodyTimeout: the client is too slow.
        """
        if self._is_whole:
            return await self._receive()
        # Of what is no number the server has no request, of one of many digits a refusal.
        self._require_size(int(self._announced))
        message = await self._receive_in_time()
        self._require_size(self.size + len(message.get("body", b"")))
        self._is_whole = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._limits.timeout
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError as error:
            raise BodyTimeout(
                f"The body did not arrive within {self._limits.timeout:g} seconds. Send it "
                "faster, or send less at once."
            ) from error

    def _require_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise BodyTooLarge(
                f"The body has over {self._limits.max_bytes:,} bytes, the most that is taken. "
                "Send less in one request."
            )
