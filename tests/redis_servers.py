"""Real Redis servers for tests: started on a free port, killed, started again."""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import redis

# A node of a cluster also listens 10,000 ports higher.
HIGHEST_CLUSTER_PORT = 65_535 - 10_000


class RedisServer:
    """A redis-server process whose data lie in `directory`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.port = free_port()
        while "--cluster-enabled" in arguments and self.port > HIGHEST_CLUSTER_PORT:
            self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and return when it accepts connections."""
        port = ["--port", str(self.port)] if "--port" not in self._arguments else []
        self._process = subprocess.Popen(
            [program(), *port, "--bind", "127.0.0.1", "--dir", self._directory, *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read_log_until("Ready to accept connections")

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def read_log_until(self, text: str) -> None:
        """Wait for a line with `text`."""
        for line in self._process.stdout:
            if text in line:
                return
        raise AssertionError(f"redis-server ended before it said {text!r}")

    def client(self) -> redis.Redis:
        """A plain client."""
        return redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)

    def emptied(self) -> str:
        """Forget everything, and give the URL."""
        with self.client() as client:
            client.flushall()
        return self.url


def program() -> str:
    """The path of redis-server."""
    found = shutil.which("redis-server")
    assert found, "there is no redis-server: run deploy/install-system-packages.sh python3 redis"
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
