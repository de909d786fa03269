"""A small JSON body as a model: bounded first, then parsed, and not before the key is checked."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from service.errors import RequestCancelled
from service.http.errors import BodyTooLarge, InvalidRequest, UnsupportedContentType

JSON = "application/json"
MAX_BYTES = 64 * 1024

M = TypeVar("M", bound=BaseModel)


def described(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI is to say of a body that `read_json` reads."""
    content = {JSON: {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_json(request: Request, model: type[M]) -> M:
    """The body of a request.

    Raises:
        UnsupportedContentType: it is not JSON by its type.
        BodyTooLarge: over 64 KiB.
        InvalidRequest: it is not what the model describes.
        RequestCancelled: the client left before it was whole.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise UnsupportedContentType(f"Send the body as {JSON}.")
    try:
        return model.model_validate_json(await read_small(request))
    except ValidationError as error:
        raise InvalidRequest(f"{wrong_fields(error)}. See /docs for what is taken.") from error


def wrong_fields(error: ValidationError) -> str:
    """What is wrong, field by field; what was sent is not repeated."""
    return "; ".join(
        ".".join(["body", *map(str, item["loc"])]) + f": {item['msg']}"
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    )


async def read_small(request: Request) -> bytes:
    """A body of at most 64 KiB; raises as `read_json` does."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BYTES:
                raise BodyTooLarge(f"The body has over {MAX_BYTES:,} bytes. Send less.")
    except ClientDisconnect as error:
        raise RequestCancelled("The client left before its body was whole.") from error
    return bytes(body)
