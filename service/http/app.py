"""The application: routes, errors and middleware around finished objects."""

from importlib.metadata import version

from fastapi import FastAPI

from service.http import admin, oip, oip_infer, ops, page, predictions, releases, tasks
from service.http.middleware import BoundedRequests, RequestContext
from service.http.openapi import describe, operation_id
from service.http.problems import handle_errors
from service.http.relay import Relay
from service.http.services import Front, Services


def create_app(services: Services) -> FastAPI:
    """The service over HTTP."""
    app = FastAPI(
        title="protuning",
        summary="One frozen vision backbone in memory, a thousand tasks on it.",
        version=version("protuning"),
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        docs_url=None,
        redoc_url=None,
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
    return _guarded(app, services)


def create_front_app(front: Front, relay: Relay) -> FastAPI:
    """The same service in a process without an engine: all but predictions is relayed."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.services = front
    app.include_router(predictions.router)
    app.router.default = relay
    return _guarded(app, front)


def _guarded(app: FastAPI, front: Front) -> FastAPI:
    handle_errors(app)
    describe(app)
    # The last one added is the outermost.
    app.add_middleware(
        BoundedRequests, limits=front.limits.body, is_open=lambda: not front.keys.are_needed
    )
    app.add_middleware(
        RequestContext, metrics=front.metrics, tracer=front.tracer, drain=front.drain
    )
    return app
