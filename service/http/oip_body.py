"""Bodies of the Open Inference Protocol: JSON, and binary tensors behind it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from adapters.manifest import Preprocessing
from service.errors import RequestCancelled
from service.http.errors import BodyTooLarge, InvalidRequest
from service.http.gate import MAX_LENGTH_DIGITS
from service.http.json_body import wrong_fields
from service.http.oip_schemas import InferRequest, InferResponse, RequestedOutput
from service.http.oip_tensors import read_input
from service.predict import Images

HEADER_LENGTH = "Inference-Header-Content-Length"
# Each costs the parser up to 60 bytes, so they are counted first. Binary data has no such bound.
MAX_JSON_VALUES = 2**21
# Longer ones are parsed two at a time, whatever the number of requests: 250 MB at most.
LONG_JSON = 2**16
_LONG_JSON_PARSERS = ThreadPoolExecutor(2, thread_name_prefix="json")

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Inference:
    """What a client asks, and its images: encoded ones, uint8 pixels, or normalised floats."""

    request: InferRequest
    images: list[bytes] | Images


async def read_inference(
    request: Request, preprocessing: Preprocessing, max_images: int
) -> Inference:
    """The body of an infer request.

    Raises:
        InvalidRequest: it is not what the protocol says, or asks for what there is not.
        BodyTooLarge: too many values in JSON.
        TooManyImages: over `max_images`.
        BrokenImage: an image is not base64.
        RequestCancelled: the client left before its body was whole.
    """
    body = await read_body(request)
    json_length = _json_length(request.headers.get(HEADER_LENGTH), len(body))

    def parse() -> Inference:
        wanted = parse_json(body[:json_length], InferRequest)
        _require_each_once(wanted.outputs)
        images = read_input(wanted.inputs[0], body[json_length:], preprocessing, max_images)
        return Inference(wanted, images)

    if json_length <= LONG_JSON:
        return await asyncio.to_thread(parse)
    return await asyncio.get_running_loop().run_in_executor(_LONG_JSON_PARSERS, parse)


async def read_body(request: Request) -> bytes:
    """All of a body, which the middleware bounds.

    Raises:
        RequestCancelled: the client left before it was whole.
    """
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise RequestCancelled("The client left before its body was whole.") from error


def parse_json(data: bytes, model: type[M]) -> M:
    """JSON as a model, its values counted before it is parsed.

    Raises:
        BodyTooLarge: more values than are taken.
        InvalidRequest: not what the model describes.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise BodyTooLarge(
            f"The JSON has over {MAX_JSON_VALUES:,} values. Send the tensor as binary data."
        )
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidRequest(
            f"{wrong_fields(error)}. See docs/api.md for what is taken."
        ) from error


def _json_length(header: str | None, body_length: int) -> int:
    if header is None:
        return body_length
    is_number = header.isascii() and header.isdigit() and len(header) <= MAX_LENGTH_DIGITS
    if not (is_number and int(header) <= body_length):
        raise InvalidRequest(
            f"{HEADER_LENGTH} is the number of bytes of the JSON at the body's beginning, and the "
            f"body has {body_length:,} in all."
        )
    return int(header)


def _require_each_once(outputs: list[RequestedOutput]) -> None:
    if len({output.name for output in outputs}) != len(outputs):
        raise InvalidRequest("An output is asked for twice. Ask for each once.")


def respond(answer: InferResponse, binary: list[bytes], headers: dict[str, str]) -> Response:
    """The answer as JSON, and behind it the tensors that are binary."""
    json = answer.model_dump_json(exclude_none=True).encode()
    if not binary:
        return Response(json, media_type="application/json", headers=headers)
    headers = {**headers, HEADER_LENGTH: str(len(json))}
    return Response(
        b"".join([json, *binary]), media_type="application/octet-stream", headers=headers
    )
