"""The application: routes, errors and middleware around finished objects."""

from importlib.metadata import version

from fastapi import FastAPI

from service.http import admin, oip, oip_infer, ops, page, predictions, releases, tasks
from service.http.middleware import BoundedRequests, RequestContext
from service.http.problems import handle_errors
from service.http.services import Services


def create_app(services: Services) -> FastAPI:
    """The service over HTTP."""
    app = FastAPI(
        title="protuning",
        summary="One frozen vision backbone in memory, a thousand tasks on it.",
        version=version("protuning"),
        redirect_slashes=False,
    )
    app.state.services = services
    for router in (
        predictions.router,
        tasks.router,
        releases.router,
        admin.router,
        oip.router,
        oip.models,
        oip_infer.router,
        ops.health,
        page.router,
    ):
        app.include_router(router)
    if not services.has_own_ops_port:
        app.include_router(ops.guarded)
    app.mount("/static", page.files)
    handle_errors(app)
    # The last one added is the outermost.
    app.add_middleware(BoundedRequests, limits=services.limits.body)
    app.add_middleware(RequestContext, metrics=services.metrics, tracer=services.tracer)
    return app
