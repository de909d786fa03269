"""Messages on a stream socket: a length, then JSON of that length."""

import asyncio
import socket
import struct
from typing import Any, Self

from pydantic_core import from_json, to_json

from service.errors import LineBroken

# Every answer stays far below it: `service.predict` bounds its labels and their text.
MAX_BYTES = 64 * 2**20
_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class Frames:
    """One end of a line; both ends are processes of this server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Self:
        """The end that a connected Unix socket is; it is closed with this object."""
        return cls(*await asyncio.open_unix_connection(sock=connected))

    def send(self, message: Message) -> None:
        """Send a message; to an end that has gone, nothing is sent.

        What is sent is bounded by what the other end has asked for, so nobody waits here.

        Raises:
            LineBroken: the other end would refuse it for its length; nothing was sent.
        """
        data = to_json(message)
        if len(data) > MAX_BYTES:
            raise LineBroken(f"A message of {len(data):,} bytes; at most {MAX_BYTES:,} are sent.")
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message, None when the other end has gone.

        Raises:
            LineBroken: what comes is not a message.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_BYTES:
                raise LineBroken(f"A message of {length:,} bytes; at most {MAX_BYTES:,} are read.")
            message = from_json(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except ValueError as error:
            raise LineBroken(f"A message is not JSON ({error}).") from error
        if not isinstance(message, dict):
            raise LineBroken("A message is not an object.")
        return message

    def close(self) -> None:
        """Leave."""
        self._writer.close()
