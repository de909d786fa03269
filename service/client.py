"""The service from Python: `Client` and `AsyncClient`, whose operations are written once."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx
import stamina

from service import calls
from service.calls import Call, Refused, StrangeAnswer, Unreachable

DEFAULT_HOST = "127.0.0.1:8000"
DEFAULT_URL = f"http://{DEFAULT_HOST}"
# Nothing was done, and it may pass.
RETRY_STATUSES = (429, 503)
# A proxy's: nobody knows what was done, and it may pass.
UNCLEAR_STATUSES = (502, 504)

T = TypeVar("T")
P = ParamSpec("P")


class _Operation(Generic[P, T]):
    """A method of both clients: what it returns, `AsyncClient` gives to whoever awaits it."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build

    @overload
    def __get__(self, client: "Client", owner: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: object) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: "Client | AsyncClient", owner: object) -> Callable[P, Any]:
        @wraps(self._build)
        def method(*arguments: P.args, **options: P.kwargs) -> Any:  # noqa: ANN401  see overloads
            return client.send(self._build(*arguments, **options))

        return method


class _Operations:
    """What can be asked of a server.

    Any operation can raise ClientError: Refused where the server says no, for 429 and 503 only
    after having tried again when the server said to; Unreachable; and StrangeAnswer, for a proxy's
    429, 502, 503 and 504 likewise, but where something was to be changed only for a 429 or 503
    that says when to come back.
    """

    predict = _Operation(calls.predict)
    predict_many = _Operation(calls.predict_many)
    register = _Operation(calls.register)
    tasks = _Operation(calls.tasks)
    task = _Operation(calls.task)
    versions = _Operation(calls.versions)
    checkpoint = _Operation(calls.checkpoint)
    rollback = _Operation(calls.rollback)
    start_canary = _Operation(calls.start_canary)
    end_canary = _Operation(calls.end_canary)
    activate = _Operation(calls.activate)
    retire = _Operation(calls.retire)
    warm = _Operation(calls.warm)
    pin = _Operation(calls.pin)
    unpin = _Operation(calls.unpin)
    delete = _Operation(calls.delete)
    create_key = _Operation(calls.create_key)
    keys = _Operation(calls.keys)
    revoke_key = _Operation(calls.revoke_key)
    tenants = _Operation(calls.tenants)
    tenant = _Operation(calls.tenant)
    limit_tenant = _Operation(calls.limit_tenant)
    reset_tenant = _Operation(calls.reset_tenant)


@dataclass(frozen=True)
class Patience:
    """How long a client tries.

    Args:
        request_seconds: For one attempt.
        attempts: At most so many.
        total_seconds: For all attempts and the waiting between them.
    """

    request_seconds: float = 60.0
    attempts: int = 10
    total_seconds: float = 120.0


@contextmanager
def _transport_errors(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise Unreachable(
            f"{url} gave no answer ({type(error).__name__}: {error}). Check that the server runs "
            "and that the URL is right, or be more patient."
        ) from error


def _with_scheme(url: str) -> str:
    if url.startswith(("http://", "https://")):
        return url
    host = url.rpartition("://")[2] or DEFAULT_HOST
    raise Unreachable(f"{url!r} is not the URL of a server; write http://{host}.")


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _backoff(call: Call[Any], error: Exception) -> bool | float:
    """Whether to ask again, and after how many seconds where the answer has said so."""
    if not isinstance(error, Refused | StrangeAnswer) or not _may_pass(call, error):
        return False
    return True if error.retry_after is None else error.retry_after


def _may_pass(call: Call[Any], error: Refused | StrangeAnswer) -> bool:
    if isinstance(error, Refused):
        return error.problem.status in RETRY_STATUSES
    if call.changes_nothing:
        return error.status in RETRY_STATUSES + UNCLEAR_STATUSES
    # Some proxies say 503 of a connection that broke, too; but not when to come back.
    return error.status in RETRY_STATUSES and error.retry_after is not None


class Client(_Operations):
    """A server, asked synchronously. Use it in a `with` statement, from any number of threads.

    `key` is an API key; where the server needs none, it is not looked at.

    Raises:
        Unreachable: `url` does not begin with http:// or https://.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        patience: Patience = Patience(),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._patience = patience
        self._http = httpx.Client(
            base_url=_with_scheme(url),
            headers=_headers(key),
            timeout=patience.request_seconds,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Ask, again and again if need be, and return the answer."""
        for attempt in stamina.retry_context(
            partial(_backoff, call), self._patience.attempts, self._patience.total_seconds
        ):
            with attempt, _transport_errors(self._http.base_url):
                answer = call.result(self._http.request(**call.options()))
        return answer


class AsyncClient(_Operations):
    """A server, asked asynchronously. Use it in an `async with` statement.

    `key` is an API key; where the server needs none, it is not looked at.

    Raises:
        Unreachable: `url` does not begin with http:// or https://.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        patience: Patience = Patience(),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._patience = patience
        self._http = httpx.AsyncClient(
            base_url=_with_scheme(url),
            headers=_headers(key),
            timeout=patience.request_seconds,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Ask, again and again if need be, and return the answer."""
        async for attempt in stamina.retry_context(
            partial(_backoff, call), self._patience.attempts, self._patience.total_seconds
        ):
            with attempt, _transport_errors(self._http.base_url):
                answer = call.result(await self._http.request(**call.options()))
        return answer
