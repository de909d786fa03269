"""The composition root of an HTTP process: `python -m service.worker LINE MEMORY LISTENING`.

The three are file descriptors from `service.workers`. The first message on the line is the
greeting: the settings, the socket to which all but predictions is relayed, and the size of images.
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass

import torch

from adapters.manifest import Preprocessing
from service import logs
from service.admission import Admission
from service.bootstrap import image_reader, open_policies, request_limits, running
from service.errors import LineBroken
from service.heap import settled_heap
from service.http.app import create_front_app
from service.http.drain import Drain
from service.http.relay import Relay
from service.http.server import DrainingServer
from service.http.services import Front
from service.line.asking import LineMetrics, RemotePredictor
from service.line.frames import Frames
from service.line.slab import Slab
from service.settings import Settings
from service.tracing import Tracer


@dataclass(frozen=True)
class _Descriptors:
    line: int
    memory: int
    listening: int


def main() -> None:
    """Serve until a signal, or until the engine's process has gone; that is exit code 1."""
    torch.set_num_threads(1)
    sys.exit(asyncio.run(_serve(_Descriptors(*map(int, sys.argv[1:4])))))


async def _serve(descriptors: _Descriptors) -> int:
    frames = await Frames.over(socket.socket(fileno=descriptors.line))
    greeting = await frames.receive()
    if greeting is None:
        raise LineBroken("The engine's process ended before it had said anything.")
    settings = Settings(**greeting["settings"])
    preprocessing = Preprocessing.model_validate_json(greeting["preprocessing"])
    logs.configure(settings.log_level, settings.log_format)
    async with AsyncExitStack() as stack:
        policies, keys = await stack.enter_async_context(open_policies(settings))
        images = image_reader(settings, preprocessing)
        stack.callback(images.close)
        slab = Slab(descriptors.memory, greeting["images"], preprocessing)
        os.close(descriptors.memory)
        refreshing: set[asyncio.Task[None]] = set()

        def refresh() -> None:
            task = asyncio.create_task(policies.refresh())
            refreshing.add(task)
            task.add_done_callback(refreshing.discard)

        predictor = RemotePredictor(frames, slab, refresh)
        drain = Drain()
        relay = Relay(greeting["relay"], drain, keys)
        stack.push_async_callback(relay.close)
        front = Front(
            predictor=predictor,
            keys=keys,
            admission=Admission(settings.requests_in_flight),
            images=images,
            metrics=LineMetrics(frames),
            # Its phases are traced where they happen: in the engine's process.
            tracer=Tracer(),
            drain=drain,
            limits=request_limits(settings),
        )
        server = DrainingServer(
            create_front_app(front, relay),
            drain,
            timeout=settings.shutdown_timeout,
            announce=lambda _: frames.send({"ready": True}),
            # The engine's process tells it for all.
            announce_end=lambda _: None,
        )
        await stack.enter_async_context(running(_leave_with(predictor, server)))
        with settled_heap():
            await server.serve([socket.socket(fileno=descriptors.listening)])
        return int(predictor.is_lost)


async def _leave_with(predictor: RemotePredictor, server: DrainingServer) -> None:
    """End the server when the engine's process has gone: nothing can be answered any more."""
    try:
        await predictor.listen()
    finally:
        server.handle_exit(signal.SIGTERM, None)


if __name__ == "__main__":
    main()
