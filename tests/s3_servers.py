"""An S3-speaking HTTP server for tests: started on a free port, stopped, started again empty."""

import logging
from typing import Self

import httpx
from moto.server import ThreadedMotoServer

from tests.redis_servers import free_port

BUCKET = "bucket"


class S3Server:
    """A server in a thread of its own; it keeps nothing when it stops."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"s3://{BUCKET}"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, with an empty bucket."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        httpx.put(f"http://127.0.0.1:{self.port}/{BUCKET}").raise_for_status()

    def stop(self) -> None:
        """Listen no more."""
        self._server.stop()
