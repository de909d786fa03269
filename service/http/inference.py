"""What the routes of both protocols do around a prediction: deadlines, departures, timings."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from service.errors import RequestCancelled
from service.http.errors import InvalidRequest
from service.http.services import RequestLimits
from service.predict import Timing

SERVER_TIMING = "Server-Timing"
T = TypeVar("T")


def timeout_of(limits: RequestLimits, timeout_ms: float | None) -> float:
    """The seconds that a prediction may take, from the end of its body on.

    Raises:
        InvalidRequest: the client asks for more than it may.
    """
    if timeout_ms is None:
        return limits.timeout_ms / 1_000
    if timeout_ms > limits.max_timeout_ms:
        raise InvalidRequest(f"timeout: at most {limits.max_timeout_ms} ms can be asked for.")
    return timeout_ms / 1_000


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves before.

    Raises:
        RequestCancelled: it has left.
    """
    task = asyncio.create_task(work)
    departure = asyncio.create_task(_departure(request))
    try:
        await asyncio.wait((task, departure), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestCancelled("The client left before its answer was there.")
    finally:
        for waited in (task, departure):
            waited.cancel()
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.gather(task, departure, return_exceptions=True)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def server_timing(*timings: Timing) -> str:
    """The phases of a request as the header `Server-Timing` gives them, in milliseconds.

    Of several predictions, which ran side by side, each phase's longest.
    """
    phases = {
        "decode": (each.decode_ms for each in timings),
        "load": (each.load_ms for each in timings),
        "queue": (each.queue_ms for each in timings),
        "compute": (each.compute_ms for each in timings),
    }
    return ", ".join(f"{phase};dur={max(spent):.3f}" for phase, spent in phases.items())
