"""The finished objects that the routes work with, and what every request needs of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.admission import Admission
from service.errors import DeadlineExceeded, RetryLater, TooManyImages
from service.http.drain import Drain
from service.http.middleware import BodyLimits
from service.images import ImageReader
from service.keys import KeyRing
from service.line.asking import RemotePredictor
from service.manage import Manager
from service.metrics import Metrics, PrometheusMetrics
from service.pinning import Pinning
from service.predict import Predictor
from service.quotas import Quotas
from service.releases import Releases
from service.residency import Residency
from service.tracing import Tracer


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for.

    Args:
        body: What its body may weigh.
        images: Most images.
        timeout_ms: How long a prediction may take where the client says nothing.
        max_timeout_ms: The longest a client may ask for.
    """

    body: BodyLimits
    images: int
    timeout_ms: int
    max_timeout_ms: int


@dataclass(frozen=True)
class Front:
    """What the routes that predict need: in every process that takes requests.

    Args:
        predictor: Predicts, here or in the engine's process.
        keys: Knows who presents which key.
        admission: How many predictions are taken in at a time, their bodies not yet read.
        images: Decodes.
        metrics: Is told of every request.
        tracer: Likewise.
        drain: Knows whether the server is about to stop.
        limits: What one request may ask for.
    """

    predictor: Predictor | RemotePredictor
    keys: KeyRing
    admission: Admission
    images: ImageReader
    metrics: Metrics
    tracer: Tracer
    drain: Drain
    limits: RequestLimits


@dataclass(frozen=True)
class Services(Front):
    """Everything behind the routes, in the engine's process.

    Args:
        predictor: Predicts.
        keys: Knows who presents which key.
        admission: How many predictions are taken in at a time, their bodies not yet read.
        images: Decodes.
        metrics: What a scrape gets.
        tracer: Is told of every request.
        drain: Knows whether the server is about to stop.
        limits: What one request may ask for.
        manager: Registers, lists and deletes.
        residency: Loads and unloads.
        releases: Moves traffic between versions.
        pinning: Keeps tasks in the engine.
        quotas: Knows what each tenant may do.
        has_own_ops_port: Whether metrics, and the reasons behind readiness, are for another port.
        check: What keeps the server from a part of its work; raises where it can do none.
        fingerprint: Of the backbone that is served.
    """

    predictor: Predictor
    metrics: PrometheusMetrics
    manager: Manager
    residency: Residency
    releases: Releases
    pinning: Pinning
    quotas: Quotas
    has_own_ops_port: bool
    check: Callable[[], Awaitable[list[str]]]
    fingerprint: str


async def _front(request: Request) -> Front:
    front: Front = request.app.state.services
    return front


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


GivenFront = Annotated[Front, Depends(_front)]
Given = Annotated[Services, Depends(_services)]


async def admitted(services: GivenFront) -> AsyncIterator[None]:
    """Count a request until it has its answer.

    Raises:
        ShuttingDown: the server takes no new ones.
    """
    with services.drain.request():
        yield


async def refusals_counted(front: GivenFront) -> AsyncIterator[None]:
    """Count a request to predict that is refused, wherever on its way: before `admitted`."""
    try:
        yield
    except (RetryLater, TooManyImages, DeadlineExceeded) as error:
        front.metrics.rejected(type(error).__name__)
        raise
