"""Clients that mean harm, against a real server on the loopback: the right 4xx, and it goes on."""

import asyncio
import io
import json
import socket
import struct
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from dataclasses import replace
from unittest.mock import Mock, create_autospec

import httpx
import pytest
from PIL import Image

from adapters.store.index import TaskKey
from service.http.middleware import BodyLimits
from service.http.protocol import LEAST_BYTES_READ, MAX_HEAD_BYTES, BoundedProtocol
from tests import makers
from tests.service import http_fakes

PNG = makers.encode(makers.picture())
PREDICT = b"POST /tasks/flowers/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture
def behind():
    """Everything behind the routes."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
def server(behind):
    """A server with small limits, which must answer a plain request in the end."""
    with http_fakes.live(behind) as server:
        yield server
        with httpx.Client(base_url=server.address, timeout=20) as client:
            answer = client.post(
                "/tasks/flowers/predict", content=PNG, headers={"content-type": "image/png"}
            )
            assert answer.status_code == 200
    assert behind.drain.in_flight == 0


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, *chunks, bits=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _zeros(count):
    """`count` zero bytes, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    packed = b"".join(packer.compress(block) for _ in range(count // 2**20))
    return packed + packer.compress(bytes(count % 2**20)) + packer.flush()


HOSTILE_IMAGES = {
    "50,000 x 50,000": (_png(50_000, 50_000, _chunk(b"IDAT", _zeros(1_000))), 413),
    "more than its header says": (_png(8, 8, _chunk(b"IDAT", _zeros(2**26))), 200),
    "text that unpacks to 64 MB": (
        _png(
            8,
            8,
            _chunk(b"zTXt", b"k\0\0" + _zeros(2**26)),
            _chunk(b"IDAT", _zeros(8 * 25)),
        ),
        422,
    ),
    "a profile that unpacks to 64 MB": (
        _png(
            8,
            8,
            _chunk(b"iCCP", b"p\0\0" + _zeros(2**26)),
            _chunk(b"IDAT", _zeros(8 * 25)),
        ),
        422,
    ),
    "no pixels": (_png(100, 100), 422),
    "half a jpeg": (makers.encode(makers.picture(400, 400), "JPEG")[:5_000], 422),
    "half a webp": (makers.encode(makers.picture(400, 400), "WEBP")[:1_000], 422),
    "a sliver": (makers.encode(Image.new("L", (1, 50_000))), 413),
    "a script": (b"<script>alert(1)</script>", 415),
    "zeros": (bytes(1_000), 415),
}


@pytest.mark.parametrize("name", HOSTILE_IMAGES)
def test_hostile_images(server, name):
    """Bombs, slivers and stumps: each the right answer, before memory is spent on it."""
    data, status = HOSTILE_IMAGES[name]
    with httpx.Client(base_url=server.address, timeout=20) as client:
        answer = client.post(
            "/tasks/flowers/predict", content=data, headers={"content-type": "image/png"}
        )
    assert answer.status_code == status, answer.text


def _read_answer(connection):
    """Status, headers and parsed body of one answer."""
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    body = reader.read(int(headers["content-length"]))
    return status, headers, json.loads(body)


def _send_until_cut_off(connection, most):
    """Returns when the other side has closed: by a reset or a broken pipe, as it comes."""
    with suppress(OSError):
        for _ in range(most // MAX_HEAD_BYTES):
            connection.sendall(b"x" * MAX_HEAD_BYTES)
        pytest.fail(f"The server has read {most:,} bytes.")


def test_an_announced_giant_is_refused_at_once(server):
    """Not one byte of a body of 10 GB has to arrive for the answer."""
    with http_fakes.connect(server) as connection:
        connection.sendall(PREDICT + b"Content-Length: 10000000000\r\n\r\n")
        status, _, problem = _read_answer(connection)
    assert status == 413
    assert problem["type"].endswith(":body-too-large")


def test_an_unannounced_giant_is_refused_while_it_streams(server):
    """Chunks are counted; the answer arrives although the client goes on sending."""
    block = bytes(2**16)
    with httpx.Client(base_url=server.address, timeout=20) as client:
        answer = client.post(
            "/tasks/flowers/predict",
            content=(block for _ in range(10 * 2**4)),
            headers={"content-type": "image/png"},
        )
        assert answer.status_code == 413
        assert answer.json()["type"].endswith(":body-too-large")
        # The rest was read and dropped, so the same connection still serves.
        assert client.get("/health/live").status_code == 200


def test_a_giant_form_is_refused_while_it_streams(server):
    """The same for a registration."""
    with httpx.Client(base_url=server.address, timeout=20) as client:
        files = [("task_id", (None, "a")), ("checkpoint", ("a", io.BytesIO(bytes(5 * 2**20))))]
        answer = client.post("/tasks", files=files)
    assert answer.status_code == 413


@contextmanager
def _limited(body):
    """Everything behind the routes, with other limits on bodies."""
    with http_fakes.services() as behind:
        yield replace(behind, limits=replace(behind.limits, body=body))


def test_all_bodies_together_are_bounded():
    """Over half of the limit of all it is 503 with Retry-After, and all of the room comes back."""
    body = BodyLimits(max_bytes=2**22, max_buffered_bytes=2**21, timeout=20.0)
    with (
        _limited(body) as behind,
        http_fakes.live(behind) as server,
        httpx.Client(base_url=server.address, timeout=20) as client,
    ):
        path, headers = "/tasks/flowers/predict", {"content-type": "image/png"}
        for _ in range(3):
            answer = client.post(path, content=bytes(2**21), headers=headers)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            answer = client.post(path, content=bytes(2**20), headers=headers)
            assert answer.status_code == 415


def test_a_slow_body_is_cut_off():
    """One byte, then nothing: 408 when the time is over, and the connection is closed."""
    body = BodyLimits(max_bytes=2**20, max_buffered_bytes=2**20, timeout=0.1)
    with (
        _limited(body) as behind,
        http_fakes.live(behind) as server,
        http_fakes.connect(server) as connection,
    ):
        connection.sendall(PREDICT + b"Content-Length: 1000\r\n\r\nx")
        status, headers, problem = _read_answer(connection)
        assert status == 408
        assert problem["type"].endswith(":body-timeout")
        assert headers["connection"] == "close"
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "start", [b"", b"POST /tasks HTTP/1.1\r\nHost", b"\r\n"], ids=["nothing", "half", "newline"]
)
def test_a_slow_head_is_cut_off(behind, monkeypatch, start):
    """Whoever never ends a request's head loses the connection."""
    monkeypatch.setattr(BoundedProtocol, "patience", 0.1)
    with http_fakes.live(behind) as server, http_fakes.connect(server) as connection:
        connection.sendall(start)
        assert connection.recv(1) == b""


def test_the_rest_of_an_answered_body_is_not_read_forever(behind, monkeypatch):
    """After its 413 a client may go on for a while, and then is cut off."""
    monkeypatch.setattr(BoundedProtocol, "patience", 0.1)
    with http_fakes.live(behind) as server, http_fakes.connect(server) as connection:
        connection.sendall(PREDICT + b"Content-Length: 10000000000\r\n\r\n")
        assert _read_answer(connection)[0] == 413
        _send_until_cut_off(connection, most=2**30)


def test_an_answer_that_nobody_reads_is_dropped(behind, monkeypatch):
    """Whoever asks for a large file and reads none of it loses the connection."""
    monkeypatch.setattr(BoundedProtocol, "patience", 0.1)
    key, size = TaskKey(task="flowers"), 2**26
    behind.manager.versions_of[key] = []
    behind.manager.checkpoints[key, 1] = bytes(size)
    with http_fakes.live(behind) as server, http_fakes.connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.sendall(
            b"GET /tasks/flowers/versions/1/checkpoint HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        deadline = time.monotonic() + 20
        while behind.manager.downloads == 0 or server.server_state.connections:
            assert time.monotonic() < deadline, "the connection stays open"
        with suppress(ConnectionResetError):
            assert sum(map(len, iter(lambda: connection.recv(2**20), b""))) < size


@pytest.mark.parametrize(("count", "answers"), [(17, 17), (1_000, 0)])
def test_pipelined_requests_are_bounded(server, count, answers):
    """A few are answered in order; who sends a thousand without reading is sent away."""
    live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with http_fakes.connect(server) as connection:
        connection.sendall(live * count)
        received = b""
        while received.count(b'{"status":"live"}') < max(answers, 1) and b" 400 " not in received:
            received += connection.recv(2**16)
    assert received.count(b'{"status":"live"}') == answers
    assert received.startswith(b"HTTP/1.1 200 " if answers else b"HTTP/1.1 400 ")


def test_a_slow_reader_is_given_time():
    """As long as a client goes on reading, however slowly, it gets the whole answer."""
    protocol = object.__new__(BoundedProtocol)
    protocol.transport, protocol.loop = create_autospec(asyncio.Transport), Mock()
    unread = 10 * LEAST_BYTES_READ
    for left in range(unread, LEAST_BYTES_READ, -LEAST_BYTES_READ):
        protocol.transport.get_write_buffer_size.return_value = left
        protocol._check_reader(left + LEAST_BYTES_READ)
        protocol.transport.abort.assert_not_called()
        assert protocol.loop.call_later.call_args.args[1:] == (protocol._check_reader, left)
    protocol._check_reader(left + LEAST_BYTES_READ - 1)
    protocol.transport.abort.assert_called_once_with()


def test_patience_is_not_for_the_server(behind, monkeypatch):
    """A prediction may take far longer than a client may take for a head."""
    monkeypatch.setattr(BoundedProtocol, "patience", 0.05)
    behind.predictor.gate = threading.Event()
    with http_fakes.live(behind) as server, http_fakes.connect(server) as connection:
        connection.sendall(PREDICT + b"Content-Length: %d\r\n\r\n" % len(PNG) + PNG)
        assert behind.predictor.waiting.wait(20)
        with http_fakes.connect(server) as other:
            assert other.recv(1) == b""  # by now this one's patience is over
        behind.predictor.gate.set()
        assert _read_answer(connection)[0] == 200


def test_an_endless_head_is_refused(server):
    """Headers without end cost their sender the connection, after a bounded number of bytes."""
    with http_fakes.connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        _send_until_cut_off(connection, most=2**24)


@pytest.mark.parametrize(("size", "status"), [(60_000, b"200"), (70_000, b"400")])
def test_a_large_head_is_refused_even_in_one_piece(server, size, status):
    """Up to 64 KiB are taken; what is over is refused, also where one read brings all of it."""
    with http_fakes.connect(server) as connection:
        head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * size
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(2**16).split()[1] == status


def test_connections_are_bounded(behind, monkeypatch):
    """Whoever comes when there are too many is told to come again; those who are in go on."""
    monkeypatch.setattr(BoundedProtocol, "max_connections", 2)
    ask = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        http_fakes.live(behind) as server,
        http_fakes.connect(server) as first,
        http_fakes.connect(server) as second,
    ):
        for connection in (first, second):
            connection.sendall(ask)
            assert _read_answer(connection)[0] == 200
        with http_fakes.connect(server) as third:
            received = b""
            while data := third.recv(2**16):
                received += data
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in received
        first.sendall(ask)
        assert _read_answer(first)[0] == 200


def test_a_huge_query_is_refused(server):
    """A long query is 414, one that is longer than a head may be is 400."""
    with httpx.Client(base_url=server.address, timeout=20) as client:
        answer = client.get("/tasks?cursor=" + "x" * 20_000)
        assert answer.status_code == 414
        assert answer.json()["type"].endswith(":query-too-long")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /tasks/flowers/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /tasks/flowers/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["version", "tls", "negative", "not-a-number"],
)
def test_what_is_not_http_is_refused(server, head):
    """400, and the connection is closed."""
    with http_fakes.connect(server) as connection:
        connection.sendall(head)
        received = b""
        while data := connection.recv(2**16):
            received += data
    assert received.startswith(b"HTTP/1.1 400 ")
