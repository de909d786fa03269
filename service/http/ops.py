"""What operators and their machines ask: is it alive, is it ready, what has it measured."""

from fastapi import APIRouter, FastAPI, Response, status
from fastapi.responses import PlainTextResponse

from adapters.errors import StoreUnavailable
from service.errors import ShuttingDown
from service.http.auth import Administering
from service.http.schemas import Readiness
from service.http.services import Given, Services

health = APIRouter(tags=["operations"])
guarded = APIRouter(tags=["operations"])
# For a port of its own, which no tenant reaches.
_unguarded = APIRouter()


@_unguarded.get("/health/live")
@health.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers. Where it does not, it should be started anew."""
    return {"status": "live"}


@health.get("/health/ready")
async def ready(services: Given) -> Readiness:
    """Requests would be served; a problem says why not. Send no traffic meanwhile.

    A degraded server answers for the tasks that it has in memory, as it knew them last, and cannot
    register or load others. Its problems are told where there are no keys and no metrics port.
    """
    services.drain.check_ready()
    problems = await services.check()
    is_told = not (services.keys.are_needed or services.has_own_ops_port)
    return Readiness(
        status="degraded" if problems else "ready", problems=problems if is_told else []
    )


@guarded.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: Given, _admin: Administering) -> Response:
    """The metrics in Prometheus' text form. They name tasks of all tenants."""
    return _scrape(services)


@_unguarded.get("/metrics")
async def metrics_for_operators(services: Given) -> Response:
    """The metrics in Prometheus' text form."""
    return _scrape(services)


@_unguarded.get("/health/ready")
async def ready_for_operators(services: Given, response: Response) -> Readiness:
    """As for everybody, with what is wrong in words."""
    try:
        services.drain.check_ready()
        problems = await services.check()
    except (ShuttingDown, StoreUnavailable) as error:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Readiness(status="down", problems=[str(error)])
    return Readiness(status="degraded" if problems else "ready", problems=problems)


def _scrape(services: Services) -> Response:
    content, media_type = services.metrics.render()
    return Response(content, media_type=media_type)


def create_ops_app(services: Services) -> FastAPI:
    """Metrics and the reasons behind readiness, without keys: for a port that no tenant reaches."""
    app = FastAPI(title="protuning, for its operators", openapi_url=None)
    app.state.services = services
    app.include_router(_unguarded)
    return app
