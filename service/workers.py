"""HTTP processes in front of this one: started, answered, and started anew when they die."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from adapters.manifest import Preprocessing
from service.errors import LineBroken, WorkerFailed
from service.http.drain import Drain
from service.line.answering import Answering
from service.line.frames import Frames, Message
from service.line.slab import Slab
from service.metrics import Metrics
from service.predict import Predictor

# One that lives shorter than this has something wrong with it that a new one will have too.
SHORT_LIFE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 30.0
EXIT_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """How HTTP processes are made.

    Args:
        count: How many there are.
        greeting: What each is told first (see `service.worker`).
        images: How many images each may have with the engine.
        preprocessing: Has their size.
        listening: Where they take connections, all from the same socket.
    """

    count: int
    greeting: Message
    images: int
    preprocessing: Preprocessing
    listening: socket.socket


@dataclass(eq=False)
class _Worker:
    """One HTTP process."""

    process: asyncio.subprocess.Process
    answering: Answering


@dataclass(eq=False)
class _Place:
    """A place for one HTTP process after the other."""

    number: int
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    worker: _Worker | None = None


class Workers:
    """As many HTTP processes as planned, at any time.

    One that dies takes the requests along that it had; what they held here is released as soon as
    its end of the line is closed, which the system does however it died.
    """

    def __init__(self, plan: Plan, predictor: Predictor, metrics: Metrics) -> None:
        self._plan = plan
        self._predictor = predictor
        self._metrics = metrics
        self._places = [_Place(number) for number in range(plan.count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def alive(self) -> int:
        """How many run."""
        return sum(place.worker is not None for place in self._places)

    async def start(self) -> None:
        """Start all of them; they serve when this returns.

        Raises:
            WorkerFailed: one ended before it was ready.
        """
        self._tasks = [asyncio.create_task(self._keep(place)) for place in self._places]
        ready = asyncio.create_task(self._are_ready())
        await asyncio.wait((ready, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise WorkerFailed("An HTTP process ended before it was ready; its log says why.")

    def refresh(self) -> None:
        """Tell all of them that keys or limits have changed."""
        self._each(lambda worker: worker.answering.refresh())

    def stop(self) -> None:
        """Have all of them finish what they have and end; no new ones are started."""
        if not self._is_stopping:
            self._is_stopping = True
            self._each(lambda worker: _signal(worker.process, signal.SIGTERM))

    async def close(self) -> None:
        """End those that are left."""
        self._is_stopping = True
        self._each(lambda worker: _signal(worker.process, signal.SIGKILL))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _are_ready(self) -> None:
        for place in self._places:
            await place.is_ready.wait()

    def _each(self, act: Callable[[_Worker], None]) -> None:
        for place in self._places:
            if place.worker is not None:
                act(place.worker)

    async def _keep(self, place: _Place) -> None:
        pause = 0.0
        while True:
            began_at = time.monotonic()
            code = await self._live(place)
            if self._is_over(place):
                return
            is_short = time.monotonic() - began_at < SHORT_LIFE_SECONDS
            pause = min(2 * pause + 1, LONGEST_PAUSE_SECONDS) if is_short else 0.0
            log.error("http_process_died", number=place.number, code=code, next_in_seconds=pause)
            await asyncio.sleep(pause)

    def _is_over(self, place: _Place) -> bool:
        # One that never served would not do so the next time either.
        return self._is_stopping or not place.is_ready.is_set()

    async def _live(self, place: _Place) -> int:
        """One process from its start to its end; its exit code."""
        slab, memory = Slab.create(self._plan.images, self._plan.preprocessing)
        ours, theirs = socket.socketpair()
        try:
            process = await self._spawn(theirs.fileno(), memory)
        finally:
            theirs.close()
            os.close(memory)
        frames = await Frames.over(ours)
        place.worker = _Worker(process, Answering(self._predictor, self._metrics, frames, slab))
        try:
            frames.send(self._plan.greeting)
            if await frames.receive() is not None:
                place.is_ready.set()
                await place.worker.answering.serve()
        except LineBroken as error:
            log.exception("line_broken", number=place.number, exc_info=error)
        finally:
            frames.close()
            code = await _end(process)
            place.worker = None
        return code

    async def _spawn(self, line: int, memory: int) -> asyncio.subprocess.Process:
        descriptors = (line, memory, self._plan.listening.fileno())
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.worker",
            *map(str, descriptors),
            pass_fds=descriptors,
            # Ctrl-C in a terminal is for this process: it has the others finish first.
            start_new_session=True,
        )


class FrontedDrain(Drain):
    """A drain that is over when the HTTP processes have gone, too: they are told to when it begins.

    Args:
        workers: The HTTP processes.
    """

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet, and how many HTTP processes are left."""
        return super().in_flight + self._workers.alive

    def begin(self) -> None:
        """Refuse new requests from now on."""
        super().begin()
        self._workers.stop()


async def _end(process: asyncio.subprocess.Process) -> int:
    """Wait for a process that should end by itself, and end it if it does not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_SECONDS):
            return await process.wait()
    _signal(process, signal.SIGKILL)
    return await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
