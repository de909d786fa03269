"""The routes that predict."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from adapters.manifest import TaskId
from service import predict as use_case
from service.http import schemas
from service.http.auth import Predicting
from service.http.bodies import OPENAPI_BODY, read_images
from service.http.errors import InvalidRequest
from service.http.inference import SERVER_TIMING, server_timing, timeout_of, unless_gone
from service.http.parameters import CanaryKey, NamedVersion, Priority
from service.http.rate_headers import rate_headers
from service.http.services import Front, GivenFront, admitted, refusals_counted

MAX_TASKS = 64
T = TypeVar("T")

router = APIRouter(
    tags=["predictions"], dependencies=[Depends(refusals_counted), Depends(admitted)]
)

TopK = Annotated[int, Query(ge=1, le=1_000, description="Labels for each image, best first.")]
TimeoutMs = Annotated[
    int | None,
    Query(ge=1, description="How long the client waits, from the end of its body on."),
]
_ID = r"[a-z0-9][a-z0-9._-]{0,63}"
Tasks = Annotated[
    str,
    Query(
        description=f"At most {MAX_TASKS} task ids with commas between them, each once.",
        json_schema_extra={"pattern": f"^{_ID}(,{_ID}){{0,{MAX_TASKS - 1}}}$"},
    ),
]

_TASK_IDS: TypeAdapter[tuple[TaskId, ...]] = TypeAdapter(tuple[TaskId, ...])


@router.post("/tasks/{task}/predict", openapi_extra=OPENAPI_BODY, response_model=schemas.Prediction)
async def predict(
    request: Request,
    services: GivenFront,
    tenant: Predicting,
    task: TaskId,
    top_k: TopK = 5,
    version: NamedVersion = None,
    timeout_ms: TimeoutMs = None,
    priority: Priority = 0,
    canary_key: CanaryKey = None,
) -> Response:
    """What the task sees in each image."""
    images = await _receive(request, services, tenant, timeout_ms)
    work = services.predictor.predict(
        tenant,
        task,
        images.pixels,
        deadline=images.deadline,
        version=version,
        top_k=top_k,
        priority=priority,
        canary_key=canary_key,
        decode_seconds=images.decode_seconds,
    )
    prediction = await unless_gone(request, work)
    return await _respond([prediction], lambda: _wire(prediction))


@router.post("/predict", openapi_extra=OPENAPI_BODY, response_model=schemas.ManyPredictions)
async def predict_many(
    request: Request,
    services: GivenFront,
    tenant: Predicting,
    tasks: Tasks,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    priority: Priority = 0,
    canary_key: CanaryKey = None,
) -> Response:
    """What each of several tasks sees in the same images, in the order of `tasks`."""
    names = _task_ids(tasks)
    images = await _receive(request, services, tenant, timeout_ms)
    work = services.predictor.predict_many(
        tenant,
        names,
        images.pixels,
        deadline=images.deadline,
        top_k=top_k,
        priority=priority,
        canary_key=canary_key,
        decode_seconds=images.decode_seconds,
    )
    predictions = await unless_gone(request, work)
    return await _respond(
        predictions,
        lambda: schemas.ManyPredictions(results=[_wire(each) for each in predictions]),
    )


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
    decode_seconds: float
    deadline: float


async def _receive(
    request: Request, services: Front, tenant: str, timeout_ms: int | None
) -> _Images:
    timeout = timeout_of(services.limits, timeout_ms)
    encoded = await read_images(request, services.limits.images)
    started = time.monotonic()
    pixels = await services.images.read(tenant, encoded, started + timeout)
    return _Images(pixels, time.monotonic() - started, started + timeout)


async def _respond(
    predictions: list[use_case.Prediction], made: Callable[[], schemas.Wire]
) -> Response:
    """The answer that is made of predictions; a long one off the event loop."""
    headers = {SERVER_TIMING: server_timing(*(each.timing for each in predictions))}
    headers |= rate_headers(predictions[-1].allowances)

    def render() -> Response:
        json = made().model_dump_json().encode()
        return Response(json, media_type="application/json", headers=headers)

    labels = sum(len(image) for each in predictions for image in each.labels)
    return render() if labels <= use_case.MANY_LABELS else await asyncio.to_thread(render)


def _wire(prediction: use_case.Prediction) -> schemas.Prediction:
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
            decode_ms=timing.decode_ms,
            load_ms=timing.load_ms,
            queue_ms=timing.queue_ms,
            compute_ms=timing.compute_ms,
            batch_images=timing.batch_images,
            batch_tasks=timing.batch_tasks,
        ),
    )
