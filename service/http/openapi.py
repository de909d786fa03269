"""The OpenAPI document: each status that a route can answer with, in its shape there."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.http import oip_schemas as oip
from service.http.problems import MEDIA_TYPE, OPEN_INFERENCE_PATH
from service.http.schemas import ProblemDocument

COMPONENTS = "#/components/schemas/"
JSON = "application/json"
BINARY = "application/octet-stream"
_METHODS = ("get", "put", "post", "delete")
# Any request can be malformed, oversized, encoded, another page's, too late, or meet a failure.
_ALWAYS = (400, 403, 414, 415, 421, 431, 500, 503)
_OF_BODIES = (408, 413, 422)
_OF_PARAMETERS = (422,)
_OF_KEYS = (401, 403)
_OF_NAMES = (404, 409)
_OF_WORK = (404, 409, 429, 504)
# Models that no route has as a parameter or an answer, since bodies are bounded before parsed.
_FURTHER: tuple[type[BaseModel], ...] = (
    ProblemDocument,
    oip.ErrorDocument,
    oip.InferRequest,
    oip.InferResponse,
    oip.RepositoryRequest,
    oip.LoadRequest,
)


def operation_id(route: APIRoute) -> str:
    """The name of a route's function: stable, whatever becomes of its address."""
    return route.name


def referred(model: type[BaseModel]) -> dict[str, Any]:
    """A schema that stands among the document's components."""
    return {"$ref": f"{COMPONENTS}{model.__name__}"}


def body_of(*, required: bool = True, **schemas: dict[str, Any]) -> dict[str, Any]:
    """A body as `openapi_extra` takes it, by the media type's last word ("json")."""
    content = {
        f"application/{kind.replace('_', '-')}": {"schema": s} for kind, s in schemas.items()
    }
    return {"requestBody": {"required": required, "content": content}}


def describe(app: FastAPI) -> None:
    """Have `app` describe itself whole, once it is asked to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    _, further = models_json_schema(
        [(model, "validation") for model in _FURTHER], ref_template=COMPONENTS + "{model}"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(further["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in document["paths"].items():
        for method in operations.keys() & {*_METHODS}:
            operation = operations[method]
            for status in sorted({*_statuses(path, operation)}):
                operation["responses"][str(status)] = _error(path, status)
    return document


def _statuses(path: str, operation: dict[str, Any]) -> Iterator[int]:
    yield from _ALWAYS
    if operation.get("parameters"):
        yield from _OF_PARAMETERS
    if "requestBody" in operation:
        yield from _OF_BODIES
    if operation.get("security"):
        yield from _OF_KEYS
    if "{" in path:
        yield from _OF_NAMES
    if path.endswith(("/predict", "/infer", "/load", "/warm", "/tasks")):
        yield from _OF_WORK


def _error(path: str, status: int) -> dict[str, Any]:
    is_oip = f"{path}/".startswith(OPEN_INFERENCE_PATH)
    kind, model = (JSON, oip.ErrorDocument) if is_oip else (MEDIA_TYPE, ProblemDocument)
    content = {kind: {"schema": referred(model)}}
    return {"description": HTTPStatus(status).phrase, "content": content}
