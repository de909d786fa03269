"""What operators and their machines ask: is it alive, is it ready, what has it measured."""

from fastapi import APIRouter, Response

from service.http.schemas import Readiness
from service.http.services import Given

router = APIRouter(tags=["operations"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers. Where it does not, it should be started anew."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(services: Given) -> Readiness:
    """Requests would be served; a problem says why not. Send no traffic meanwhile.

    A degraded server answers for the tasks that it has in memory, as it knew them last, and cannot
    register or load others.
    """
    services.drain.check_ready()
    problems = await services.check()
    return Readiness(status="degraded" if problems else "ready", problems=problems)


@router.get("/metrics")
async def metrics(services: Given) -> Response:
    """The metrics in Prometheus' text form."""
    content, media_type = services.metrics.render()
    return Response(content, media_type=media_type)
