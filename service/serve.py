"""`protuning serve`: one process that does all, or HTTP processes in front of the engine's."""

import asyncio
import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory

import structlog

from adapters.manifest import Preprocessing
from service import logs
from service.bootstrap import (
    CLOSING_SECONDS,
    open_policies,
    open_services,
    open_services_with,
    running,
)
from service.heap import settled_heap
from service.http.app import create_app
from service.http.ops import create_ops_app
from service.http.server import DrainingServer, SideServer, address_of, announce_in_log, reserve
from service.http.services import Services
from service.settings import Settings, unknown_variables
from service.workers import FrontedDrain, Plan, Workers

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve until a signal, then let what is in flight finish.

    Raises:
        AddressUnavailable: an address cannot be listened on.
        LogUnavailable: the audit log cannot be written.
        AdapterError: the backbone, its weights or the store cannot be had.
    """
    logs.configure(settings.log_level, settings.log_format, audit_log=settings.audit_log)
    for name, meant in unknown_variables(os.environ).items():
        log.warning("unknown_variable", name=name, meant=meant)
    with ExitStack() as stack:
        # Before anything is loaded: that takes long, and would be in vain.
        listening = stack.enter_context(reserve(settings.host, settings.port))
        operators = None
        if settings.metrics_port is not None:
            operators = stack.enter_context(
                reserve(settings.metrics_host, settings.metrics_port, flags="--metrics-")
            )
        run = _serve_in_front if settings.http_workers else _serve
        asyncio.run(run(settings, listening, operators))
    log.info("stopped")


async def _serve(
    settings: Settings, listening: socket.socket, operators: socket.socket | None
) -> None:
    async with open_services(settings) as services:
        server = DrainingServer(
            create_app(services),
            services.drain,
            delay=settings.shutdown_delay,
            timeout=settings.shutdown_timeout,
        )
        async with _serving_operators(services, operators):
            with settled_heap():
                await server.serve([listening])


async def _serve_in_front(
    settings: Settings, listening: socket.socket, operators: socket.socket | None
) -> None:
    """Serve by HTTP processes; this one has the engine, and answers them on a Unix socket."""
    async with AsyncExitStack() as stack:
        policies, keys = await stack.enter_async_context(open_policies(settings))
        services = await stack.enter_async_context(open_services_with(settings, policies, keys))
        stack.enter_context(listening)
        directory = stack.enter_context(TemporaryDirectory(prefix="protuning-"))
        path = f"{directory}/engine"
        plan = plan_of(settings, services.images.preprocessing, path, listening)
        workers = Workers(plan, services.predictor, services.metrics)
        policies.on_change(workers.refresh)
        stack.push_async_callback(workers.close)
        await workers.start()
        fronted = replace(services, drain=FrontedDrain(workers))
        server = DrainingServer(
            create_app(fronted),
            fronted.drain,
            path=path,
            delay=settings.shutdown_delay,
            timeout=settings.shutdown_timeout + CLOSING_SECONDS,
            announce=lambda _: announce_in_log(address_of(listening)),
        )
        async with _serving_operators(fronted, operators):
            with settled_heap():
                await server.serve()


@asynccontextmanager
async def _serving_operators(
    services: Services, listening: socket.socket | None
) -> AsyncIterator[None]:
    """Metrics on a port of their own, where there is to be one, as long as the server serves."""
    if listening is None:
        yield
        return
    server = SideServer(create_ops_app(services))
    async with running(server.serve([listening])):
        yield


def plan_of(
    settings: Settings, preprocessing: Preprocessing, path: str, listening: socket.socket
) -> Plan:
    """How HTTP processes are made: what is counted for the whole server is divided among them."""
    count = settings.http_workers
    share = settings.model_copy(
        update={
            # Connections fall on the processes as chance has it.
            "requests_in_flight": math.ceil(2 * settings.requests_in_flight / count),
            "decoders": math.ceil(settings.decoders / count),
            "max_buffered_bytes": max(
                settings.max_buffered_bytes // count, 2 * settings.max_body_bytes
            ),
        }
    )
    images = max(2 * settings.queue_images // count, settings.max_images)
    greeting = {
        "settings": share.model_dump(mode="json"),
        "preprocessing": preprocessing.model_dump_json(),
        "relay": path,
        "images": images,
    }
    return Plan(count, greeting, images, preprocessing, listening)
