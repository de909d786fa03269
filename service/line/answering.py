"""The engine process's end of the line: answers one HTTP process, and cleans up when it dies."""

import asyncio

import structlog
from pydantic import ValidationError

from adapters.errors import AdapterError, StoreUnavailable
from service.errors import (
    AdapterLoadFailed,
    EngineFailed,
    LineBroken,
    RequestCancelled,
    ServiceError,
)
from service.line.frames import Frames, Message
from service.line.slab import Slab
from service.line.wire import Question, error_message
from service.metrics import Metrics
from service.predict import Prediction, Predictor

# Errors whose causes operators want to see; the text of others says all.
_WITH_A_STORY = (EngineFailed, AdapterLoadFailed, StoreUnavailable)

log = structlog.get_logger(__name__)


class Answering:
    """Predictions for one HTTP process.

    Args:
        predictor: Predicts.
        metrics: Told of the requests that the HTTP process has answered.
        frames: The line.
        slab: Where the images lie.
    """

    def __init__(self, predictor: Predictor, metrics: Metrics, frames: Frames, slab: Slab) -> None:
        self._predictor = predictor
        self._metrics = metrics
        self._frames = frames
        self._slab = slab
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def refresh(self) -> None:
        """Tell the HTTP process that keys or limits have changed."""
        self._frames.send({"refresh": True})

    async def serve(self) -> None:
        """Answer until the HTTP process has gone; what it has asked for by then is cancelled.

        Raises:
            LineBroken: what it sends is not a question.
        """
        try:
            while (message := await self._frames.receive()) is not None:
                self._hear(message)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._frames.close()

    def _hear(self, message: Message) -> None:
        if "cancel" in message:
            if (task := self._tasks.get(message["cancel"])) is not None:
                task.cancel()
            return
        try:
            if "http" in message:
                self._metrics.http(*message["http"])
                return
            if "rejected" in message:
                self._metrics.rejected(message["rejected"])
                return
            question = Question(**message["ask"])
        except (KeyError, TypeError, ValidationError) as error:
            raise LineBroken(f"The HTTP process asks for nothing that is known: {error}") from error
        task = asyncio.create_task(self._answer(question))
        self._tasks[question.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(question.id))

    async def _answer(self, question: Question) -> None:
        # There is an answer in any case: it tells the other process that the memory is free.
        answer: Message = {"error": error_message(RequestCancelled("The client has gone."))}
        try:
            answer = {"predictions": await self._predict(question)}
        except (ServiceError, AdapterError) as error:
            if isinstance(error, _WITH_A_STORY):
                log.warning("prediction_failed", task=question.tasks, exc_info=error)
            answer = {"error": error_message(error)}
        except Exception as error:
            log.exception("prediction_crashed", task=question.tasks)
            answer = {"error": error_message(error)}
        finally:
            self._send(question, answer)

    def _send(self, question: Question, answer: Message) -> None:
        try:
            self._frames.send({"id": question.id, **answer})
        except LineBroken as error:
            log.exception("answer_too_long", task=question.tasks)
            self._frames.send({"id": question.id, "error": error_message(error)})

    async def _predict(self, question: Question) -> list[Prediction]:
        images = self._slab.look(question.start, question.images)
        if question.version is None and len(question.tasks) > 1:
            return await self._predictor.predict_many(
                question.tenant,
                question.tasks,
                images,
                deadline=question.deadline,
                top_k=question.top_k,
                priority=question.priority,
                canary_key=question.canary_key,
                decode_seconds=question.decode_seconds,
            )
        return [
            await self._predictor.predict(
                question.tenant,
                question.tasks[0],
                images,
                deadline=question.deadline,
                version=question.version,
                top_k=question.top_k,
                priority=question.priority,
                canary_key=question.canary_key,
                decode_seconds=question.decode_seconds,
            )
        ]
