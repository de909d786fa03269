"""The demo's server: `protuning serve` as a process of its own, on a free port of this machine."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from examples.demo.training import Backbone

START_SECONDS = 120
STOP_SECONDS = 30
LOG = "server.log"


class ServerFailed(Exception):
    """The server did not start, or did not stop when told to."""


def serve_command(folder: Path, backbone: Backbone) -> list[str]:
    """The arguments of `protuning` that serve `backbone`, with index and store in `folder`."""
    return [
        *("serve", "--backbone", backbone.name, "--weights", backbone.weights),
        *("--index", f"sqlite:///{folder / 'index.db'}", "--store", str(folder / "store")),
    ]


@contextmanager
def running_server(folder: Path, backbone: Backbone) -> Iterator[str]:
    """The URL of a server that is ready; at the end it is told to stop, and waited for.

    Raises:
        ServerFailed: it ended early, is not ready within 2 minutes, or did not stop well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, log = _free_port(), folder / LOG
    command = [sys.executable, "-m", "protuning", *serve_command(folder, backbone)]
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603  our own command
            [*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(server, url, log)
        yield url
    finally:
        code = _stop(server)
    if code:
        raise ServerFailed(f"The server ended with {code}. See its log, {log}.")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < give_up_at:
        try:
            if httpx.get(f"{url}/health/ready").is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise ServerFailed(f"The server did not start. Its log, {log}, ends:\n{_last_lines(log)}")


def _stop(server: subprocess.Popen[bytes]) -> int:
    """Let it finish its requests; its exit status, or that of having killed it."""
    server.terminate()
    try:
        return server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-5:])
