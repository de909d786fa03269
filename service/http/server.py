"""uvicorn, stopped in steps: not ready, no new requests, and no server once all have answers."""

import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from service.errors import AddressUnavailable
from service.http.drain import Drain
from service.http.protocol import BoundedProtocol

KEEP_ALIVE_SECONDS = 5
# For answers that are made but not read yet.
CLOSING_SECONDS = 5
# For requests on connections that were there before the server took no more: they hear a 503.
LINGER_SECONDS = 0.5

log = structlog.get_logger(__name__)


def _config(app: ASGIApp, host: str, port: int, path: str | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        uds=path,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


def reserve(host: str, port: int, *, flags: str = "--") -> socket.socket:
    """A socket that has an address, 0 for a free port; until a server listens, clients are refused.

    Raises:
        AddressUnavailable: the address cannot be had; `flags` is how those that set it begin.
    """
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # What was served a moment ago may be served again.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reserved.family == socket.AF_INET6:
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        raise _unavailable(host, port, flags, error) from error
    return reserved


def _listen(reserved: Iterable[socket.socket], *, flags: str = "--") -> None:
    """Take connections. Two servers can have reserved an address; the second to get here has not.

    Raises:
        AddressUnavailable: another one listens by now.
    """
    for each in reserved:
        try:
            each.listen()
        except OSError as error:
            host, port = each.getsockname()[:2]
            raise _unavailable(host, port, flags, error) from error


def _unavailable(host: str, port: int, flags: str, error: OSError) -> AddressUnavailable:
    if error.errno == errno.EADDRINUSE:
        return AddressUnavailable(
            f"On {host}, port {port} is in use. Stop what listens there, or take another "
            f"{flags}port."
        )
    return AddressUnavailable(
        f"{host} cannot be listened on at port {port} ({error.strerror}). Take another "
        f"{flags}host or {flags}port."
    )


def address_of(listening: socket.socket) -> str:
    """The URL that a socket listens on; of a Unix socket the path."""
    name = listening.getsockname()
    if isinstance(name, str):
        return name
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce_in_log(address: str) -> None:
    """Write to the log that a server listens."""
    log.info("serving", address=address)


def tell_log_of_end(in_flight: int) -> None:
    """Write to the log that a server was asked to stop, and how many answers it still owes."""
    log.info("stopping", in_flight=in_flight)


class DrainingServer(uvicorn.Server):
    """Serves an application until a signal, then until its last request has an answer.

    A second signal ends it at once.

    Args:
        app: What to serve.
        drain: What counts the application's requests.
        host: The address to listen on, unless `serve` is given sockets.
        port: The port, 0 for a free one.
        path: A Unix socket to listen on instead.
        delay: Seconds after the first signal in which requests are still taken, although the
            server is not ready any more: balancers ask for that, and need time to notice.
        timeout: Seconds for requests to finish after the delay.
        announce: Told the address once the server listens; writes it to the log by default.
        announce_end: Told how many requests are in flight when it is asked to stop; likewise.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
        timeout: float,
        delay: float = 0.0,
        announce: Callable[[str], object] = announce_in_log,
        announce_end: Callable[[int], object] = tell_log_of_end,
    ) -> None:
        super().__init__(_config(app, host, port, path))
        self._drain = drain
        self._delay = delay
        self._timeout = timeout
        self._announce = announce
        self._announce_end = announce_end
        self._is_end_announced = False
        self._refuse_at: float | None = None
        self._leave_at: float | None = None

    @property
    def address(self) -> str:
        """The URL that it listens on, once it has started."""
        return address_of(self.servers[0].sockets[0])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop: uvicorn's own way is only taken the second time."""
        if self._refuse_at is not None:
            super().handle_exit(sig, frame)
            return
        self._refuse_at = time.monotonic() + self._delay
        self._drain.announce()
        if not self._delay:
            self._drain.begin()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen.

        Raises:
            AddressUnavailable: another server was faster.
        """
        _listen(sockets or ())
        await super().startup(sockets)
        self._announce(self.address)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to leave now."""
        now = time.monotonic()
        self._tell_of_end()
        if self._refuse_at is not None and now >= self._refuse_at:
            self._drain.begin()
            is_over = not self._drain.in_flight or now >= self._refuse_at + self._timeout
            if is_over and self._leave_at is None:
                self._take_no_connections()
                self._leave_at = now + LINGER_SECONDS
        if self._leave_at is not None and now >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def _tell_of_end(self) -> None:
        # Not from the signal's handler: that may interrupt somebody who is writing to the log.
        if self._refuse_at is not None and not self._is_end_announced:
            self._is_end_announced = True
            self._announce_end(self._drain.in_flight)

    def _take_no_connections(self) -> None:
        for server in self.servers:
            server.close()


class SideServer(uvicorn.Server):
    """Serves another application beside a `DrainingServer`, which alone hears the signals.

    It listens on the sockets that `serve` is given.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(_config(app, "127.0.0.1", 0))

    @property
    def address(self) -> str:
        """The URL that it listens on, once it has started."""
        return address_of(self.servers[0].sockets[0])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to others."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen.

        Raises:
            AddressUnavailable: another server was faster.
        """
        _listen(sockets or (), flags="--metrics-")
        await super().startup(sockets)
        log.info("serving_operators", address=self.address)
