"""The finished objects that the routes work with, and what every request needs of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.http.drain import Drain
from service.http.middleware import BodyLimits
from service.images import ImageReader
from service.keys import KeyRing
from service.manage import Manager
from service.metrics import PrometheusMetrics
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
class Services:
    """Everything behind the routes.

    Args:
        predictor: Predicts.
        manager: Registers, lists and deletes.
        residency: Loads and unloads.
        releases: Moves traffic between versions.
        pinning: Keeps tasks in the engine.
        keys: Knows who presents which key.
        quotas: Knows what each tenant may do.
        images: Decodes.
        metrics: What a scrape gets.
        tracer: Is told of every request.
        has_own_ops_port: Whether metrics, and the reasons behind readiness, are for another port.
        drain: Knows whether the server is about to stop.
        check: What keeps the server from a part of its work; raises where it can do none.
        limits: What one request may ask for.
        fingerprint: Of the backbone that is served.
    """

    predictor: Predictor
    manager: Manager
    residency: Residency
    releases: Releases
    pinning: Pinning
    keys: KeyRing
    quotas: Quotas
    images: ImageReader
    metrics: PrometheusMetrics
    tracer: Tracer
    has_own_ops_port: bool
    drain: Drain
    check: Callable[[], Awaitable[list[str]]]
    limits: RequestLimits
    fingerprint: str


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(_services)]


async def admitted(services: Given) -> AsyncIterator[None]:
    """Count a request until it has its answer.

    Raises:
        ShuttingDown: the server takes no new ones.
    """
    with services.drain.request():
        yield
