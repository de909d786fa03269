"""Work in, answers out: cuts batches from the queue and has one thread run them on the engine."""

import asyncio
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from service.batching.execution import run_batch
from service.batching.queue import BatchQueue
from service.engines.base import Engine, Slot
from service.errors import DeadlineExceeded, EngineFailed, ShuttingDown
from service.metrics import Metrics
from service.types import Batch, Part, TaskKey, WorkItem

# One batch runs and one is ready, so that the engine never waits for the event loop.
BATCHES_AHEAD = 2
SHUTDOWN_RETRY_AFTER = 2.0


@dataclass(frozen=True, slots=True)
class Job:
    """Images for one adapter that is in the engine.

    Args:
        task: Whose work it is.
        slot: Where the adapter is.
        images: uint8 pixels [n, H, W, 3] of the backbone's input size, or float32 [n, 3, H, W] as
            the backbone takes them. Jobs that hold the same tensor share its images where they
            meet in a batch.
        release: Called exactly once, on the event loop, as soon as the engine needs the slot no
            more: never before, even if the client has long gone.
        deadline: Monotonic seconds from which on the images need not start any more.
        priority: See `WorkItem`.
        weight: See `WorkItem`.
    """

    task: TaskKey
    slot: Slot
    images: Tensor
    release: Callable[[], None]
    deadline: float = math.inf
    priority: int = 0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine made of a job.

    Attributes:
        logits: float32 [n, classes].
        queue_seconds: from its arrival until its first image ran.
        compute_seconds: from then until its last image was done.
        batch_images: how many images ran together, in the largest of its batches.
        batch_tasks: how many tasks ran together, likewise.
    """

    logits: Tensor
    queue_seconds: float
    compute_seconds: float
    batch_images: int
    batch_tasks: int


class _Run(NamedTuple):
    """A batch that the engine has run: by segment, logits or an error; in monotonic seconds."""

    outcomes: list[Tensor | BaseException]
    started_at: float
    ended_at: float


@dataclass(slots=True, eq=False)
class _Flight:
    """A job between its arrival and the moment when the engine is done with it."""

    item: WorkItem[Tensor]
    release: Callable[[], None]
    answer: asyncio.Future[Answer]
    images_waiting: int
    parts_running: int = 0
    logits: list[Tensor] = field(default_factory=list)
    started_at: float = math.inf
    ended_at: float = 0.0
    batch_images: int = 0
    batch_tasks: int = 0

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def succeed(self) -> None:
        if not self.answer.done():
            answer = Answer(
                torch.cat(self.logits),
                self.started_at - self.item.enqueued_at,
                self.ended_at - self.started_at,
                self.batch_images,
                self.batch_tasks,
            )
            self.answer.set_result(answer)


class Dispatcher:
    """Runs jobs in mixed batches. To be made and used on one event loop, whose clock it uses.

    Nothing here waits in a loop of its own: each arrival, departure, finished batch and due time
    takes the queue one step further, so there is no task that could end and leave others hanging.
    """

    def __init__(self, engine: Engine, queue: BatchQueue[Tensor], metrics: Metrics) -> None:
        self._engine = engine
        self._queue = queue
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        # Processors take a hundred times as long over denormal numbers, with which an adapter could
        # hold up all others. The threads that this one starts for its work inherit the setting.
        flush = partial(torch.set_flush_denormal, True)  # noqa: FBT003  it takes no name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine", initializer=flush)
        self._ids = itertools.count()
        self._flights: dict[int, _Flight] = {}
        self._batches_ahead = 0
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, job: Job) -> Answer:
        """Run a job and wait for its answer; if the caller is cancelled, what waits is dropped.

        The job's lease goes over to the dispatcher, which calls `job.release` in any case.

        Raises:
            ShuttingDown: no new work is taken, or the work could not be finished in time.
            DeadlineExceeded: the deadline passed before all images had started.
            Overloaded: the queue has no room.
            TooManyImages: more than the queue can ever hold.
            EngineFailed: the engine raised while it ran these images.
        """
        try:
            flight = self._accept(job)
        except BaseException:
            job.release()
            raise
        try:
            self._step_soon()
            return await flight.answer
        finally:
            if self._leave_queue(flight):
                self._step()

    async def close(self, grace: float) -> None:
        """Take no new work, give what there is `grace` seconds to finish, and fail the rest."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        for flight in [*self._flights.values()]:
            flight.fail(_shutting_down())
            self._leave_queue(flight)
        self._step()
        self._thread.shutdown(wait=False)

    def _accept(self, job: Job) -> _Flight:
        if self._closing:
            raise _shutting_down()
        item = WorkItem(
            id=next(self._ids),
            task=job.task,
            segment_key=job.slot,
            images=len(job.images),
            payload=job.images,
            enqueued_at=self._loop.time(),
            deadline=job.deadline,
            priority=job.priority,
            weight=job.weight,
        )
        self._queue.push(item)
        flight = _Flight(item, job.release, self._loop.create_future(), item.images)
        self._flights[item.id] = flight
        self._idle.clear()
        return flight

    def _step_soon(self) -> None:
        """Let everything arrive that is about to: tasks of one request share a batch."""
        if self._soon is None:
            self._soon = self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Do whatever is due, and come back when the next thing is."""
        self._soon = None
        now = self._loop.time()
        for item in self._queue.expire(now):
            self._flights[item.id].fail(
                DeadlineExceeded("The deadline passed in the queue. Allow more time, or try later.")
            )
        while self._batches_ahead < BATCHES_AHEAD:
            batch = self._queue.next_batch(now, engine_idle=not self._batches_ahead)
            if batch is None:
                break
            self._start(batch)
        self._set_timer()
        self._metrics.queue(self._queue.images)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        has_room = self._batches_ahead < BATCHES_AHEAD
        due = min(self._queue.next_deadline(), self._queue.ready_at() if has_room else math.inf)
        self._timer = self._loop.call_at(due, self._step) if due < math.inf else None

    def _start(self, batch: Batch[Tensor]) -> None:
        for part in _parts(batch):
            flight = self._flights[part.item.id]
            flight.images_waiting -= part.images
            flight.parts_running += 1
        self._batches_ahead += 1
        run = self._loop.run_in_executor(self._thread, self._run, batch)
        run.add_done_callback(partial(self._finish, batch))

    def _run(self, batch: Batch[Tensor]) -> _Run:
        """On the engine's thread."""
        started_at = self._loop.time()
        return _Run([*run_batch(self._engine, batch)], started_at, self._loop.time())

    def _finish(self, batch: Batch[Tensor], done: asyncio.Future[_Run]) -> None:
        self._batches_ahead -= 1
        run = self._result(batch, done)
        tasks = len({part.item.task for part in _parts(batch)})
        self._queue.observe(batch.images, run.ended_at - run.started_at)
        self._metrics.batch(batch.images, tasks)
        for segment, outcome in zip(batch.segments, run.outcomes, strict=True):
            start = 0
            for part in segment.parts:
                flight = self._flights[part.item.id]
                flight.batch_images = max(flight.batch_images, batch.images)
                flight.batch_tasks = max(flight.batch_tasks, tasks)
                self._deliver(flight, run, outcome, slice(start, start + part.images))
                start += part.images
        self._step()

    def _result(self, batch: Batch[Tensor], done: asyncio.Future[_Run]) -> _Run:
        try:
            return done.result()
        except BaseException as error:  # noqa: BLE001  even an exit must end all who wait
            now = self._loop.time()
            return _Run([error for _ in batch.segments], now, now)

    def _deliver(
        self, flight: _Flight, run: _Run, outcome: Tensor | BaseException, rows: slice
    ) -> None:
        flight.parts_running -= 1
        flight.started_at = min(flight.started_at, run.started_at)
        flight.ended_at = run.ended_at
        if isinstance(outcome, BaseException):
            flight.fail(_engine_failed(flight.item.task, outcome))
            self._leave_queue(flight)
        else:
            flight.logits.append(outcome[rows])
            if not flight.images_waiting and not flight.parts_running:
                flight.succeed()
        self._settle(flight)

    def _leave_queue(self, flight: _Flight) -> bool:
        """Drop what still waits of a flight; false where nothing does."""
        did_wait = self._queue.cancel(flight.item.id)
        flight.images_waiting = 0
        self._settle(flight)
        return did_wait

    def _settle(self, flight: _Flight) -> None:
        """Let go of a flight of which nothing waits and nothing runs: the one place that does."""
        if flight.images_waiting or flight.parts_running:
            return
        if self._flights.pop(flight.item.id, None) is None:
            return
        flight.release()
        if not self._flights:
            self._idle.set()


def _parts(batch: Batch[Tensor]) -> list[Part[Tensor]]:
    return [part for segment in batch.segments for part in segment.parts]


def _engine_failed(task: TaskKey, cause: BaseException) -> EngineFailed:
    error = EngineFailed(
        f"The engine raised {type(cause).__name__} while it ran task {task.task!r}; other tasks "
        "are not affected. Try again; if it fails again, register the adapter anew."
    )
    error.__cause__ = cause
    return error


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "The server is about to stop and runs no more images. Try again: another one may answer.",
        retry_after=SHUTDOWN_RETRY_AFTER,
    )
