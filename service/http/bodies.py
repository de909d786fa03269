"""The images of a prediction's body, in each of the forms that it may take."""

import asyncio
import base64
import binascii
from contextlib import aclosing

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from adapters.errors import BrokenImage
from service.errors import RequestCancelled, TooManyImages
from service.http.errors import InvalidRequest, UnsupportedContentType
from service.http.json_body import JSON, wrong_fields
from service.http.multipart import read_parts

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
MULTIPART = "multipart/form-data"
FIELD = "images"

OPENAPI_BODY = {
    "requestBody": {
        "required": True,
        "description": "One image as it is, several as a form, or several in base64.",
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES},
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "additionalProperties": False,
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
            JSON: {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "additionalProperties": False,
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "byte"},
                        }
                    },
                }
            },
        },
    }
}


class _JsonBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    images: list[str]


async def read_images(request: Request, max_images: int) -> list[bytes]:
    """The encoded images of a request, at least one.

    Raises:
        InvalidRequest: the body is not what its type says, or holds no image.
        UnsupportedContentType: the body is of another type.
        TooManyImages: over `max_images`.
        BrokenImage: an image is not base64.
        RequestCancelled: the client left before its body was whole.
        RequestError, Overloaded: see `service.http.middleware.BoundedRequests`.
    """
    try:
        images = await _read(request, max_images)
    except ClientDisconnect as error:
        raise RequestCancelled("The client left before its body was whole.") from error
    if not images:
        raise InvalidRequest("There is no image in the body. Send at least one.")
    return images


async def _read(request: Request, max_images: int) -> list[bytes]:
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind in IMAGE_TYPES:
        return [data] if (data := await request.body()) else []
    if kind == MULTIPART:
        return await _from_form(request, content_type, max_images)
    if kind == JSON:
        return await asyncio.to_thread(_from_json, await request.body(), max_images)
    raise UnsupportedContentType(
        f"A body of type {kind[:100]!r} is not taken. Send an image as {', '.join(IMAGE_TYPES)}, "
        f"several as {MULTIPART} with the field {FIELD!r} repeated, or {JSON} with "
        '{"images": [base64, ...]}.'
    )


async def _from_form(request: Request, content_type: str, max_images: int) -> list[bytes]:
    images: list[bytes] = []
    async with aclosing(read_parts(request.stream(), content_type)) as parts:
        async for part in parts:
            if part.name != FIELD:
                raise InvalidRequest(
                    f"The form has a field {part.name[:100]!r}. Name every image {FIELD!r}."
                )
            images.append(bytes(part.data))
            if len(images) > max_images:
                raise _too_many(max_images)
    return images


def _from_json(body: bytes, max_images: int) -> list[bytes]:
    # Base64 has no commas, so they count the images before the parser takes memory for each.
    if body.count(b",") >= max_images:
        raise _too_many(max_images)
    try:
        texts = _JsonBody.model_validate_json(body).images
    except ValidationError as error:
        raise InvalidRequest(f'{wrong_fields(error)}. Send {{"images": [base64, ...]}}.') from error
    return [_from_base64(text, number, len(texts)) for number, text in enumerate(texts, 1)]


def _from_base64(text: str, number: int, count: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenImage(
            f"Image {number} of {count}: not base64 ({error}). Use the standard alphabet with "
            "padding, without line breaks."
        ) from error


def _too_many(max_images: int) -> TooManyImages:
    return TooManyImages(
        f"The request holds more than {max_images} images, the most that is taken. Send several "
        "requests: they share batches all the same."
    )
