"""HTTP processes in front of the engine's: one answer for all, and what dies with which process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from safetensors.torch import save_file

from service.client import Client
from service.http.drain import Drain
from service.http.errors import MalformedRequest
from service.http.relay import Relay
from tests import makers
from tests.service import policy_fakes

BACKBONE = "test_resnet"
PICTURE = makers.encode(makers.picture(90, 120, 1), "JPEG")
WORKERS = 2
HANGS = 120.0


class _Server:
    """`protuning serve --http-workers 2` with one task."""

    def __init__(self, directory: Path) -> None:
        weights = directory / "weights.safetensors"
        save_file(makers.backbone(BACKBONE).model.state_dict(), weights)
        settings = {
            "backbone": BACKBONE,
            "weights": weights,
            "device": "cpu",
            "index": f"sqlite:///{directory}/index.db",
            "store": directory / "store",
            "port": 0,
            "http_workers": WORKERS,
            "batch_images": 4,
            "adapter_memory_bytes": 2**26,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from service.cli import app; app()", "serve"],
            env=os.environ
            | {f"PROTUNING_{name.upper()}": str(value) for name, value in settings.items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._has_address = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._has_address.wait(HANGS), self.log
        self.address = json.loads(self.log[-1])["address"]
        with Client(self.address) as client:
            client.register("flowers", makers.checkpoint(BACKBONE).data)

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)
            if '"serving"' in line:
                self._has_address.set()

    def workers(self) -> list[int]:
        """The process ids of the HTTP processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(pid)
            for pid in children.read_text().split()
            if b"service.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def predict(self) -> int:
        """The status of one prediction, 0 where the connection was lost."""
        headers = {"content-type": "image/jpeg"}
        try:
            return httpx.post(
                f"{self.address}/tasks/flowers/predict",
                content=PICTURE,
                headers=headers,
                timeout=HANGS,
            ).status_code
        except httpx.TransportError:
            return 0

    def wait(self) -> int:
        """Its exit code, once it and everything that holds its log has ended."""
        code = self.process.wait(HANGS)
        self._reader.join(HANGS)
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that must end with exit code 0 when it is asked to."""
    server = _Server(tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        code = server.wait()
    assert code == 0, server.log


def _until(condition) -> None:
    """Wait for other processes to make something true."""
    give_up_at = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        threading.Event().wait(0.05)


def test_every_process_gives_the_same_answers(server):
    """Tasks, metrics and readiness are the engine's, whichever process a connection reaches."""
    texts = set()
    for _ in range(8):
        with httpx.Client(base_url=server.address, timeout=HANGS) as client:
            assert client.get("/health/ready").status_code == 200
            assert [each["task"] for each in client.get("/tasks").json()["items"]] == ["flowers"]
            assert server.predict() == 200
            metrics = client.get("/metrics").text
            texts.add(next(each for each in metrics.splitlines() if 'outcome="ok"' in each))
    assert len(texts) == 8, "the count goes up by one each time"
    with httpx.Client(base_url=server.address, timeout=HANGS) as client:
        assert client.get("/v2/models/flowers/ready").status_code == 200
        assert client.get("/tasks/nothing").json()["type"].endswith("unknown-task")
        assert client.post("/tasks/nothing/predict", content=PICTURE).status_code == 415


def _answer_to(address: str, head: bytes) -> tuple[int, str]:
    """The status and the body that a request gets which no client would send."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=HANGS) as connection:
        connection.sendall(head + b"\r\nConnection: close\r\n\r\n" + PICTURE)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /tasks/../health/live HTTP/1.1\r\nHost: localhost", 404),
        (b"GET /./tasks HTTP/1.1\r\nHost: localhost", 404),
        (b"GET /tasks?limit=%zz&cursor={[|]} HTTP/1.1\r\nHost: localhost", 422),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost", 404),
        (b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nHost: elsewhere", 400),
        (b"GET /tasks/nothing HTTP/1.1\r\nHost: localhost\r\nX-Blank-At-Its-End: a \t", 404),
        (b"DELETE /tasks/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"0" * 4_400, 400),
        (
            b"POST /x/../tasks/flowers/predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: image/jpeg\r\nContent-Length: %d" % len(PICTURE),
            404,
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_strange_heads_are_relayed_as_they_are_or_refused(server, head, status):
    """No address becomes another one on the way, and none of them is the engine's end."""
    answered, body = _answer_to(server.address, head)
    assert answered == status, body
    assert json.loads(body)["status"] == status
    assert not any("Traceback" in line or "request_crashed" in line for line in server.log)


@pytest.mark.anyio
async def test_what_cannot_be_relayed_is_not_taken_for_the_engine_s_end(tmp_path):
    """The engine listens all the while, so the request is at fault: 400, never "try again"."""
    path = str(tmp_path / "engine")
    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": b"/tasks",
        "query_string": b"",
        "headers": [(b"x-split", b"a\r\nb")],
        "client": None,
        "state": {"request_id": "r"},
    }
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(path)
        engine.listen()
        relay = Relay(path, Drain(), policy_fakes.key_ring())
        with pytest.raises(MalformedRequest):
            await relay(scope, None, None)
        await relay.close()


def test_a_killed_http_process_takes_only_its_own_requests_along(server):
    """Requests go on, nothing is left in the engine, and a new process takes its place."""
    before = server.workers()
    assert len(before) == WORKERS
    stop = threading.Event()

    def keep_asking():
        statuses = []
        while not stop.is_set():
            statuses.append(server.predict())
        return statuses

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        os.kill(before[0], signal.SIGKILL)
        _until(lambda: len(server.workers()) == WORKERS and server.workers() != before)
        stop.set()
        statuses = [status for each in asking for status in each.result(HANGS)]
    assert set(statuses) <= {200, 0}
    assert statuses.count(0) <= 4
    assert server.predict() == 200
    metrics = httpx.get(f"{server.address}/metrics", timeout=HANGS).text
    assert "protuning_queue_images 0.0" in metrics
    assert any('"http_process_died"' in line for line in server.log)


def test_a_killed_engine_ends_everything(tmp_path):
    """The HTTP processes leave by themselves; whoever supervises the server sees that it failed."""
    server = _Server(tmp_path)
    workers = server.workers()
    server.process.kill()
    assert server.wait() != 0
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert server.predict() == 0
