"""What a client gets to see of an error: one table, and RFC 9457 documents made from it."""

import math
import re
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

from adapters import errors as adapters
from service import errors as service
from service.http import errors as http
from service.http.rate_headers import rate_headers
from service.types import Allowance

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:protuning:problem:"
CHALLENGE = 'Bearer realm="protuning"'
# Errors of this protocol have its own shape.
OPEN_INFERENCE_PATH = "/v2/"
CLIENT_CLOSED_REQUEST = 499
# Where the error itself does not say when the server may be able to help.
RETRY_AFTER = 5.0

# Every class of the three trees; a test finds those that are missing.
STATUS_BY_ERROR: dict[type[Exception], int] = {
    http.RequestError: HTTPStatus.BAD_REQUEST,
    http.MalformedRequest: HTTPStatus.BAD_REQUEST,
    http.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    http.UnsupportedContentType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    http.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    http.BodyTimeout: HTTPStatus.REQUEST_TIMEOUT,
    http.QueryTooLong: HTTPStatus.REQUEST_URI_TOO_LONG,
    http.TooManyHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    http.CrossSite: HTTPStatus.FORBIDDEN,
    http.Misdirected: HTTPStatus.MISDIRECTED_REQUEST,
    # The service's own.
    service.ServiceError: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    service.Forbidden: HTTPStatus.FORBIDDEN,
    service.UnknownKey: HTTPStatus.NOT_FOUND,
    service.InvalidKeyFile: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.AddressUnavailable: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.LogUnavailable: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.OpenDoor: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.TaskNotFound: HTTPStatus.NOT_FOUND,
    service.BackboneConflict: HTTPStatus.CONFLICT,
    service.AdapterLoadFailed: HTTPStatus.SERVICE_UNAVAILABLE,
    service.EngineFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.QuotaExceeded: HTTPStatus.FORBIDDEN,
    service.TooManyImages: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    service.TooManyLabels: HTTPStatus.UNPROCESSABLE_ENTITY,
    service.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    service.RequestCancelled: CLIENT_CLOSED_REQUEST,
    service.LineBroken: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.WorkerFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.RetryLater: HTTPStatus.SERVICE_UNAVAILABLE,
    service.Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    service.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    service.ShuttingDown: HTTPStatus.SERVICE_UNAVAILABLE,
    service.EngineError: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.EngineUnavailable: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.EngineFull: HTTPStatus.SERVICE_UNAVAILABLE,
    service.UnknownSlot: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.CacheError: HTTPStatus.INTERNAL_SERVER_ERROR,
    service.CacheFull: HTTPStatus.SERVICE_UNAVAILABLE,
    service.CacheTooSmall: HTTPStatus.INTERNAL_SERVER_ERROR,
    # Of images.
    adapters.ImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.ImageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    adapters.UnsupportedImageFormat: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    adapters.BrokenImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    # Of checkpoints and their proofs.
    adapters.InvalidSpec: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.ProofError: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.ProofInsensitive: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.ProofFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.CheckpointError: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.CheckpointNotFound: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.CheckpointTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    adapters.NotACheckpoint: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.PickleRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.TruncatedCheckpoint: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.InvalidHeader: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.DigestMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.UnsupportedFormatVersion: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.InvalidManifest: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.LabelCountMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.InvalidTensors: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.MissingTensor: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.UnexpectedTensor: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.WrongTensorDtype: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.WrongTensorShape: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.NotFinite: HTTPStatus.UNPROCESSABLE_ENTITY,
    adapters.WrongBackbone: HTTPStatus.CONFLICT,
    # Of the store.
    adapters.StoreError: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    adapters.StoreFull: HTTPStatus.SERVICE_UNAVAILABLE,
    adapters.UnsupportedStoreUrl: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.CorruptIndex: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.IndexTooNew: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.BlobMissing: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.CorruptBlob: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.ForeignBlobs: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.UnknownTask: HTTPStatus.NOT_FOUND,
    adapters.UnknownVersion: HTTPStatus.NOT_FOUND,
    adapters.NoActiveVersion: HTTPStatus.CONFLICT,
    adapters.VersionNotReady: HTTPStatus.CONFLICT,
    adapters.VersionInUse: HTTPStatus.CONFLICT,
    adapters.PointerMoved: HTTPStatus.CONFLICT,
    adapters.NothingToRollBackTo: HTTPStatus.CONFLICT,
    # Of the server's own making.
    adapters.AdapterError: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.BackboneError: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.UnknownBackbone: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.WeightsUnavailable: HTTPStatus.INTERNAL_SERVER_ERROR,
    adapters.WeightsMismatch: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_OURS = (adapters.AdapterError, service.ServiceError, http.RequestError)
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it.

    Args:
        status: The HTTP status.
        kind: The stable end of the document's `type`.
        title: What kind of problem it is, always the same for a kind.
        detail: What happened this time, and how to mend it.
        retry_after: Seconds after which it is worth trying again.
        allowances: What is left of the client's own limits.
    """

    status: int
    kind: str
    title: str
    detail: str
    retry_after: float | None = None
    allowances: tuple[Allowance, ...] = ()

    def response(self, scope: Scope) -> JSONResponse:
        """The answer to a request: a problem document, or what the Open Inference Protocol has."""
        if f"{scope['path']}/".startswith(OPEN_INFERENCE_PATH):
            return JSONResponse({"error": self.detail}, self.status, self._headers())
        document = {
            "type": f"{TYPE_PREFIX}{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": scope["state"]["request_id"],
        }
        return JSONResponse(document, self.status, self._headers(), MEDIA_TYPE)

    def _headers(self) -> dict[str, str]:
        headers = rate_headers(self.allowances)
        if self.retry_after is not None:
            # Whole seconds are all that the header can say, and 0 would invite a storm.
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = CHALLENGE
        if self.status == HTTPStatus.REQUEST_TIMEOUT:
            headers["Connection"] = "close"
        return headers


UNFORESEEN = Problem(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "internal-error",
    "The server failed.",
    "The server failed. Try again; if it fails again, tell the operator the request_id.",
)


def problem_of(error: Exception) -> Problem:
    """What a client sees of one of our own errors."""
    kind = type(error)
    status = next(STATUS_BY_ERROR[base] for base in kind.__mro__ if base in STATUS_BY_ERROR)
    title = (kind.__doc__ or kind.__name__).partition("\n")[0]
    return Problem(
        status,
        _slug(kind),
        title,
        _detail(error, status),
        _retry_after(error, status),
        error.allowances if isinstance(error, service.RateLimited) else (),
    )


def _slug(error: type[Exception]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def _detail(error: Exception, status: int) -> str:
    # What the store says of its own failures names paths and hosts: that is for the log.
    if isinstance(error, adapters.AdapterError) and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return (
            "The server cannot reach or read what it has stored. Try again later; if it stays so, "
            "tell the operator the request_id."
        )
    return str(error)


def _retry_after(error: Exception, status: int) -> float | None:
    if isinstance(error, service.RetryLater):
        return error.retry_after
    return RETRY_AFTER if status == HTTPStatus.SERVICE_UNAVAILABLE else None


def handle_errors(app: FastAPI) -> None:
    """Answer every foreseen error of `app` with a problem document."""
    for root in _OURS:
        app.add_exception_handler(root, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_framework)


async def _answer_ours(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    # Under overload the line of each request is enough.
    is_expected = isinstance(error, service.RetryLater | service.DeadlineExceeded)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not is_expected:
        log.warning("request_failed", status=int(problem.status), kind=problem.kind, exc_info=error)
    return problem.response(request.scope)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    """A parameter that FastAPI has refused. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this class
    wrong = "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
    )
    problem = problem_of(http.InvalidRequest(f"{wrong}. See /docs for what is taken."))
    return problem.response(request.scope)


async def _answer_framework(request: Request, error: Exception) -> JSONResponse:
    """No such address, or not by that method."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class
    phrase = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} is not answered at this address. See /docs for those that are."
    problem = Problem(error.status_code, phrase.lower().replace(" ", "-"), f"{phrase}.", detail)
    response = problem.response(request.scope)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = _allowed(request, response.headers.get("Allow", ""))
    return response


def _allowed(request: Request, by_one_route: str) -> str:
    """All methods of an address, which several routes may share."""
    path = getattr(request.scope.get("route"), "path", "")
    described = request.app.openapi()["paths"].get(path, {})
    return ", ".join(sorted(method.upper() for method in described)) or by_one_route
