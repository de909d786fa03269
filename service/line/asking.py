"""The HTTP process's end of the line: asks for predictions as if the engine were here."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import ShuttingDown
from service.line.frames import Frames, Message
from service.line.slab import Slab
from service.line.wire import Question, error_of, prediction_of
from service.metrics import Metrics
from service.predict import Prediction

RETRY_AFTER = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A question whose images stay where they are until the engine has answered."""

    question: Question
    answer: asyncio.Future[list[Prediction]]


class RemotePredictor:
    """`service.predict.Predictor` in the engine process.

    Args:
        frames: The line.
        slab: The memory for images.
        refresh: Called when the engine process says that keys or limits have changed.

    Attributes:
        is_lost: whether the engine process has gone.
    """

    def __init__(self, frames: Frames, slab: Slab, refresh: Callable[[], object]) -> None:
        self._frames = frames
        self._slab = slab
        self._refresh = refresh
        self._ids = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self.is_lost = False

    async def predict(
        self,
        tenant: str,
        task: str,
        images: NDArray[np.uint8],
        *,
        deadline: float,
        version: int | None = None,
        top_k: int = 5,
        priority: int = 0,
        canary_key: str | None = None,
        decode_seconds: float = 0.0,
    ) -> Prediction:
        """See `Predictor.predict`; Overloaded also where the shared memory is full."""
        question = Question(
            id=next(self._ids),
            tenant=tenant,
            tasks=(task,),
            start=self._slab.place(images),
            images=len(images),
            deadline=deadline,
            version=version,
            top_k=top_k,
            priority=priority,
            canary_key=canary_key,
            decode_seconds=decode_seconds,
        )
        (prediction,) = await self._ask(question)
        return prediction

    async def predict_many(
        self,
        tenant: str,
        tasks: Sequence[str],
        images: NDArray[np.uint8],
        *,
        deadline: float,
        top_k: int = 5,
        priority: int = 0,
        canary_key: str | None = None,
        decode_seconds: float = 0.0,
    ) -> list[Prediction]:
        """See `Predictor.predict_many`; Overloaded also where the shared memory is full."""
        question = Question(
            id=next(self._ids),
            tenant=tenant,
            tasks=tuple(tasks),
            start=self._slab.place(images),
            images=len(images),
            deadline=deadline,
            version=None,
            top_k=top_k,
            priority=priority,
            canary_key=canary_key,
            decode_seconds=decode_seconds,
        )
        return await self._ask(question)

    async def listen(self) -> None:
        """Hear answers until the engine process has gone; whoever still waits hears of that.

        Raises:
            LineBroken: what comes is no answer.
        """
        try:
            while (message := await self._frames.receive()) is not None:
                self._hear(message)
        finally:
            self.is_lost = True
            for waiting in self._waiting.values():
                if not waiting.answer.done():
                    waiting.answer.set_exception(_gone())

    async def _ask(self, question: Question) -> list[Prediction]:
        if self.is_lost:
            raise _gone()
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._waiting[question.id] = waiting
        self._frames.send({"ask": question})
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            self._frames.send({"cancel": question.id})
            raise

    def _hear(self, message: Message) -> None:
        if "refresh" in message:
            self._refresh()
            return
        waiting = self._waiting.pop(message["id"])
        self._slab.free(waiting.question.start, waiting.question.images)
        if waiting.answer.done():
            return
        if "error" in message:
            waiting.answer.set_exception(error_of(message["error"]))
        else:
            waiting.answer.set_result([prediction_of(each) for each in message["predictions"]])


class LineMetrics(Metrics):
    """Tells the engine process, which has the metrics of the whole server.

    Args:
        frames: The line.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def http(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """See `Metrics`; what has no route here was relayed, and is counted there."""
        if route is not None:
            self._frames.send({"http": (method, route, status, seconds)})

    def rejected(self, reason: str) -> None:
        """See `Metrics`."""
        self._frames.send({"rejected": reason})


def _gone() -> ShuttingDown:
    return ShuttingDown(
        "The engine has stopped. Try again: another server may answer.", retry_after=RETRY_AFTER
    )
