"""What every test of the service may use."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    """Log lines without pictures of the stack: drawing one takes seconds.

    What a test configures of its own is undone.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    yield
    root.handlers[:], root.level = handlers, level
