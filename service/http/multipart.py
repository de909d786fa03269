"""A multipart/form-data body as its parts, one after the other as they arrive."""

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.http.errors import InvalidRequest

MAX_HEADERS_PER_PART = 8
MAX_HEADER_BYTES = 4_096


@dataclass
class Part:
    """One field or file of a form."""

    name: str = ""
    data: bytearray = field(default_factory=bytearray)


async def read_parts(body: AsyncIterable[bytes], content_type: str) -> AsyncGenerator[Part]:
    """The parts of a body of type `content_type`, in their order.

    Whoever provides the body bounds its bytes, whoever takes the parts bounds their number.

    Raises:
        InvalidRequest: not a multipart body.
    """
    collector = _Collector()
    try:
        parser = _parser(content_type, collector)
        async for chunk in body:
            parser.write(chunk)
            for part in collector.take():
                yield part
    except FormParserError as error:
        raise InvalidRequest(
            f"The multipart body is malformed ({error}). Let an HTTP client build it."
        ) from error
    if not collector.has_ended:
        raise InvalidRequest("The multipart body ends before its last boundary. Send it whole.")


def _parser(content_type: str, collector: "_Collector") -> MultipartParser:
    _, options = parse_options_header(content_type)
    if not options.get(b"boundary"):
        raise InvalidRequest(
            "The Content-Type of a multipart body names its boundary. Let an HTTP client write it."
        )
    return MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": collector.begin,
            "on_header_begin": collector.begin_header,
            "on_header_field": collector.add_header_name,
            "on_header_value": collector.add_header_value,
            "on_header_end": collector.end_header,
            "on_part_data": collector.add,
            "on_part_end": collector.end,
            "on_end": collector.finish,
        },
        max_header_count=MAX_HEADERS_PER_PART,
        max_header_size=MAX_HEADER_BYTES,
    )


class _Collector:
    """Makes parts of what the parser calls out."""

    def __init__(self) -> None:
        self.has_ended = False
        self._done: list[Part] = []
        self._part = Part()
        self._header_name = bytearray()
        self._header_value = bytearray()

    def take(self) -> list[Part]:
        """The parts that are whole and were not taken before."""
        done, self._done = self._done, []
        return done

    def begin(self) -> None:
        self._part = Part()

    def begin_header(self) -> None:
        self._header_name.clear()
        self._header_value.clear()

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._part.name = options.get(b"name", b"").decode("utf-8", "replace")

    def add(self, data: bytes, start: int, end: int) -> None:
        self._part.data += memoryview(data)[start:end]

    def end(self) -> None:
        self._done.append(self._part)

    def finish(self) -> None:
        self.has_ended = True
