"""A uvicorn connection that bounds how long and how large what nobody reads may become."""

import asyncio
from typing import Any

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
LEAST_BYTES_READ = 16 * 1024
# Each one that waits costs tens of kilobytes, a thousand times what it costs to send.
MAX_PIPELINED = 16
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose client dawdles where the application cannot see it.

    That is while a request's head comes in, and while a body still comes in that was answered
    already, and while an answer waits to be read. A body is read and dropped for a while, because
    a connection that is closed with unread bytes takes the answer with it. (An idle connection is
    uvicorn's own business, a body that is being read that of `service.http.middleware`.)

    Attributes:
        patience: Seconds for a head, for what is left of an answered body, and for each
            `LEAST_BYTES_READ` of an answer.
        max_connections: Of a server at a time; whoever comes then is told to come again.
    """

    patience = 10.0
    max_connections = 4_096

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  uvicorn's own
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._is_between_bodies = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._expect()
        if len(self.connections) > self.max_connections:
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_expecting()
        self._stop_watching_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Any bytes at all."""
        if self._is_between_bodies:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._is_between_bodies or self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"The request's head is over {MAX_HEAD_BYTES:,} bytes.")
        elif not self._is_answering():
            self._expect()

    def on_headers_complete(self) -> None:
        """The head is whole, a body may follow.

        Raises:
            HttpParserError: too many requests wait for the answer to another, or the head is too
                large, having come in one piece; uvicorn's response is 400, and to close the
                connection.
        """
        if self._head_size() > MAX_HEAD_BYTES:
            raise HttpParserError(f"The request's head is over {MAX_HEAD_BYTES:,} bytes.")
        if len(self.pipeline) == MAX_PIPELINED:
            raise HttpParserError(f"More than {MAX_PIPELINED} requests wait. Read answers first.")
        self._is_between_bodies = False
        self._stop_expecting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        super().on_message_complete()
        self._is_between_bodies = True
        self._head_bytes = 0
        self._stop_expecting()

    def on_response_complete(self) -> None:
        """The answer is whole."""
        super().on_response_complete()
        if not self._is_between_bodies and not self._is_answering():
            self._expect()

    def pause_writing(self) -> None:
        """More of an answer waits to be read than should."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has read nearly all of it."""
        super().resume_writing()
        self._stop_watching_reader()

    def _watch_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._reader_timer = self.loop.call_later(self.patience, self._check_reader, unread)

    def _check_reader(self, unread_before: int) -> None:
        if unread_before - self.transport.get_write_buffer_size() < LEAST_BYTES_READ:
            # A mere close would wait until all of it is read.
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_watching_reader(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _expect(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.patience, self.transport.close)

    def _stop_expecting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
