"""The routes that predict."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from adapters.manifest import TaskId
from service import predict as use_case
from service.errors import RequestCancelled
from service.http import schemas
from service.http.auth import Predicting
from service.http.bodies import OPENAPI_BODY, read_images
from service.http.errors import InvalidRequest
from service.http.services import Given, RequestLimits, Services, admitted

MAX_TASKS = 64
T = TypeVar("T")

router = APIRouter(tags=["predictions"], dependencies=[Depends(admitted)])

TopK = Annotated[int, Query(ge=1, le=1_000, description="Labels for each image, best first.")]
TimeoutMs = Annotated[
    int | None,
    Query(ge=1, description="How long the client waits, from the end of its body on."),
]
VersionNumber = Annotated[
    int | None,
    Query(ge=1, le=schemas.LARGEST_VERSION, description="A version other than the active one."),
]
Tasks = Annotated[str, Query(description="Task ids with commas between them.")]

_TASK_IDS: TypeAdapter[tuple[TaskId, ...]] = TypeAdapter(tuple[TaskId, ...])


@router.post("/tasks/{task}/predict", openapi_extra=OPENAPI_BODY)
async def predict(
    request: Request,
    services: Given,
    tenant: Predicting,
    task: TaskId,
    top_k: TopK = 5,
    version: VersionNumber = None,
    timeout_ms: TimeoutMs = None,
) -> schemas.Prediction:
    """What the task sees in each image."""
    images = await _receive(request, services, timeout_ms)
    work = services.predictor.predict(
        tenant, task, images.pixels, deadline=images.deadline, version=version, top_k=top_k
    )
    return _wire(await _unless_gone(request, work), images.decode_ms)


@router.post("/predict", openapi_extra=OPENAPI_BODY)
async def predict_many(
    request: Request,
    services: Given,
    tenant: Predicting,
    tasks: Tasks,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
) -> schemas.ManyPredictions:
    """What each of several tasks sees in the same images, in the order of `tasks`."""
    names = _task_ids(tasks)
    images = await _receive(request, services, timeout_ms)
    work = services.predictor.predict_many(
        tenant, names, images.pixels, deadline=images.deadline, top_k=top_k
    )
    predictions = await _unless_gone(request, work)
    return schemas.ManyPredictions(results=[_wire(each, images.decode_ms) for each in predictions])


def _task_ids(text: str) -> tuple[str, ...]:
    names = text.split(",")
    try:
        task_ids = _TASK_IDS.validate_python(tuple(names))
    except ValidationError as error:
        raise InvalidRequest(
            "query.tasks: not a list of task ids. Write them with commas and without spaces, "
            "such as ?tasks=flowers,birds."
        ) from error
    if len(set(task_ids)) != len(task_ids) or len(task_ids) > MAX_TASKS:
        raise InvalidRequest(f"query.tasks: name each task once, and at most {MAX_TASKS} of them.")
    return task_ids


@dataclass(frozen=True)
class _Images:
    """Pixels [n, H, W, 3], what decoding them took, and when their answer is due."""

    pixels: NDArray[np.uint8]
    decode_ms: float
    deadline: float


async def _receive(request: Request, services: Services, timeout_ms: int | None) -> _Images:
    timeout = _timeout(services.limits, timeout_ms)
    encoded = await read_images(request, services.limits.images)
    started = time.monotonic()
    pixels = await services.images.read(encoded, started + timeout)
    return _Images(pixels, 1_000 * (time.monotonic() - started), started + timeout)


def _timeout(limits: RequestLimits, timeout_ms: int | None) -> float:
    if timeout_ms is None:
        return limits.timeout_ms / 1_000
    if timeout_ms > limits.max_timeout_ms:
        raise InvalidRequest(f"query.timeout_ms: at most {limits.max_timeout_ms} ms can be asked.")
    return timeout_ms / 1_000


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
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


def _wire(prediction: use_case.Prediction, decode_ms: float) -> schemas.Prediction:
    timing = prediction.timing
    return schemas.Prediction(
        task=prediction.task,
        version=prediction.version,
        predictions=[
            schemas.ImagePrediction(
                labels=[
                    schemas.LabelScore(label=each.label, index=each.index, score=each.score)
                    for each in labels
                ]
            )
            for labels in prediction.labels
        ],
        timing=schemas.Timing(
            decode_ms=decode_ms,
            load_ms=timing.load_ms,
            queue_ms=timing.queue_ms,
            compute_ms=timing.compute_ms,
            batch_images=timing.batch_images,
            batch_tasks=timing.batch_tasks,
        ),
    )
