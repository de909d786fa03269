"""Inference by the Open Inference Protocol v2: other shapes around the same prediction."""

import asyncio
import time

import numpy as np
import torch
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from adapters.manifest import MAX_CLASSES, TaskId
from service.http import oip_schemas as wire
from service.http.auth import Predicting
from service.http.inference import SERVER_TIMING, server_timing, timeout_of, unless_gone
from service.http.oip import TAG, VersionNumber
from service.http.oip_body import read_inference, respond
from service.http.oip_tensors import to_binary, top_classes
from service.http.openapi import BINARY, JSON, body_of, referred
from service.http.parameters import CanaryKey
from service.http.rate_headers import rate_headers
from service.http.services import Given, Services, admitted, refusals_counted
from service.predict import Prediction

router = APIRouter(
    prefix="/v2", tags=[TAG], dependencies=[Depends(refusals_counted), Depends(admitted)]
)

OUTPUTS = (wire.RequestedOutput(name="probabilities"), wire.RequestedOutput(name="logits"))


_DESCRIBED = body_of(
    json=referred(wire.InferRequest), octet_stream={"type": "string", "format": "binary"}
) | {
    "responses": {
        200: {
            "description": "The scores; binary where some were asked for so.",
            "content": {
                JSON: {"schema": referred(wire.InferResponse)},
                BINARY: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }
}


@router.post("/models/{task}/infer", openapi_extra=_DESCRIBED, response_class=Response)
async def infer(
    request: Request,
    services: Given,
    tenant: Predicting,
    task: TaskId,
    canary_key: CanaryKey = None,
) -> Response:
    """What the task's active version sees in each image."""
    return await _infer(request, services, tenant, task, None, canary_key)


@router.post(
    "/models/{task}/versions/{version}/infer", openapi_extra=_DESCRIBED, response_class=Response
)
async def infer_version(
    request: Request, services: Given, tenant: Predicting, task: TaskId, version: VersionNumber
) -> Response:
    """What a version of the task sees in each image."""
    return await _infer(request, services, tenant, task, version)


async def _infer(
    request: Request,
    services: Services,
    tenant: str,
    task: str,
    version: int | None,
    canary_key: str | None = None,
) -> Response:
    reader, limits = services.images, services.limits
    inference = await read_inference(request, reader.preprocessing, limits.images)
    asked = inference.request
    microseconds = asked.parameters.timeout
    started = time.monotonic()
    deadline = started + timeout_of(limits, microseconds and microseconds / 1_000)
    images, decode_seconds = inference.images, 0.0
    if isinstance(images, list):
        images = await reader.read(tenant, images, deadline)
        decode_seconds = time.monotonic() - started
    work = services.predictor.predict(
        tenant,
        task,
        images,
        deadline=deadline,
        version=version,
        canary_key=canary_key,
        top_k=_top_k(asked),
        logits=True,
        decode_seconds=decode_seconds,
    )
    prediction = await unless_gone(request, work)
    headers = {SERVER_TIMING: server_timing(prediction.timing)}
    headers |= rate_headers(prediction.allowances)
    # The scores of all classes may be a million numbers.
    return await asyncio.to_thread(lambda: respond(*answered(asked, prediction), headers))


def _top_k(asked: wire.InferRequest) -> int:
    wanted = max(output.parameters.classification or 1 for output in asked.outputs or OUTPUTS)
    # No task has more classes: whoever asks for all of them need not know how many there are.
    return min(wanted, MAX_CLASSES)


def answered(
    asked: wire.InferRequest, prediction: Prediction
) -> tuple[wire.InferResponse, list[bytes]]:
    """The answer in the forms that were asked for, and its binary tensors in their order."""
    tensors, binary = [], []
    for output in asked.outputs or OUTPUTS:
        values = _values(output, prediction)
        is_binary = output.parameters.binary_data
        if is_binary is None:
            is_binary = asked.parameters.binary_data_output
        if is_binary:
            binary.append(to_binary(values))
        tensors.append(_tensor(output.name, values, len(binary[-1]) if is_binary else None))
    answer = wire.InferResponse(
        model_name=prediction.task,
        model_version=str(prediction.version),
        id=asked.id,
        outputs=tensors,
    )
    return answer, binary


def _values(output: wire.RequestedOutput, prediction: Prediction) -> NDArray[np.generic]:
    assert prediction.logits is not None  # noqa: S101  they were asked for
    scores = prediction.logits
    if output.name == "probabilities":
        scores = torch.from_numpy(scores).softmax(-1).numpy()
    classes = output.parameters.classification
    if classes is None:
        return scores
    ranked = [[(each.index, each.label) for each in row[:classes]] for row in prediction.labels]
    return top_classes(scores, ranked)


def _tensor(
    name: wire.OutputName, values: NDArray[np.generic], binary_size: int | None
) -> wire.OutputTensor:
    return wire.OutputTensor(
        name=name,
        datatype="FP32" if values.dtype.kind == "f" else "BYTES",
        shape=[*values.shape],
        parameters=None if binary_size is None else wire.BinarySize(binary_data_size=binary_size),
        data=values.ravel().tolist() if binary_size is None else None,
    )
