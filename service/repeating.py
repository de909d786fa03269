"""Steps that are taken again and again, whatever becomes of one of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

log = structlog.get_logger(__name__)


async def repeat(step: Callable[[], Awaitable[object]], *, period: float) -> NoReturn:
    """Take a step every `period` seconds until cancelled; a failure is logged."""
    while True:
        try:
            await step()
        except Exception as error:
            log.warning("step_failed", step=getattr(step, "__qualname__", None), exc_info=error)
        await asyncio.sleep(period)
