"""A server under test: random adapters that are in its engine for good, and load for it."""

import asyncio
import base64
import dataclasses
import io
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from adapters.backbone import StagedBackbone
from adapters.manifest import AdapterRef, Preprocessing
from benchmarks import load
from benchmarks.engine import budget, mixed_batch, random_adapter, random_images
from service import logs
from service.admission import Admission
from service.batching.dispatcher import Dispatcher
from service.batching.queue import BatchQueue
from service.bootstrap import image_reader, open_policies, request_limits, running
from service.cache.adapter_cache import Lease
from service.engines.base import Slot
from service.engines.choice import DtypeChoice, EngineKind, EngineOptions, open_engine
from service.engines.torch_engine import TorchEngine
from service.heap import settled_heap
from service.http.app import create_front_app
from service.http.drain import Drain
from service.http.relay import Relay
from service.http.server import DrainingServer, reserve
from service.http.services import Front
from service.keys import KeyRing
from service.limits import TenantLimits
from service.metrics import PrometheusMetrics
from service.policies import Policies
from service.predict import Predictor
from service.quotas import Quotas
from service.rate_limits import RateCounters
from service.serve import plan_of
from service.settings import Settings, default_cache
from service.tracing import Tracer
from service.types import TaskKey
from service.workers import Workers


class _Resident:
    """Tasks whose adapters are in the engine for good: resolver and cache at once."""

    def __init__(self, slots: list[Slot], classes: int) -> None:
        self._leases = {
            f"task{number}": Lease(slot, tuple(map(str, range(classes))), "device", 0.0, None)
            for number, slot in enumerate(slots)
        }

    async def resolve(self, task: TaskKey, *_: object) -> AdapterRef:
        return AdapterRef(tenant=task.tenant, task=task.task, version=1, digest="0" * 64)

    def canary(self, _task: TaskKey) -> None:
        return None

    async def acquire(self, ref: AdapterRef) -> Lease:
        return self._leases[ref.task]


@dataclass(frozen=True)
class Bench:
    """A server under test: its engine, its address, and what is sent to it."""

    engine: TorchEngine
    slots: list[Slot]
    batch: int
    address: tuple[str, int]
    workers: Workers | None
    keys: KeyRing

    async def engine_alone(self, seconds: float) -> tuple[float, float]:
        """Images a second and processor seconds per image of full mixed batches, one by one."""
        return await asyncio.to_thread(self._run_batches, seconds)

    def _run_batches(self, seconds: float) -> tuple[float, float]:
        images = random_images(self.engine.spec, self.batch)
        cpu, started = time.process_time(), time.perf_counter()
        for number in count(1):
            self.engine.run(mixed_batch(images, self.slots, start=self.batch * number))
            wall = time.perf_counter() - started
            if wall >= seconds:
                break
        done = number * self.batch
        return done / wall, (time.process_time() - cpu) / done

    def plan(self, seconds: float, *, rate: float | None = None) -> load.Plan:
        """Requests for all tasks in turn; in a closed loop enough of them for three batches."""
        return load.Plan(
            host=self.address[0],
            port=self.address[1],
            requests=predictions(range(len(self.slots))),
            connections=3 * self.batch if rate is None else 256,
            seconds=seconds,
            rate=rate,
        )


def predictions(tasks: Sequence[int]) -> list[load.Sent]:
    """Requests for some tasks in turn, with 13 images or more."""
    return [
        (
            f"/tasks/task{tasks[number % len(tasks)]}/predict",
            {"Content-Type": "image/jpeg"},
            base64.b64encode(jpeg(224, number)).decode(),
        )
        for number in range(max(13, len(tasks)))
    ]


async def send(plan: load.Plan) -> load.Report:
    """Have a process of its own send requests."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    assert process.stdin is not None  # noqa: S101  both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(json.dumps(dataclasses.asdict(plan)).encode() + b"\n")
    await process.stdout.readline()
    process.stdin.write(b"go\n")
    output = await process.stdout.read()
    if await process.wait():
        raise RuntimeError("The load generator failed; what it wrote to its log says why.")
    return load.Report(**json.loads(output))


@asynccontextmanager
async def open_bench(
    backbone: StagedBackbone,
    *,
    tasks: int,
    batch: int,
    kind: EngineKind,
    dtype: DtypeChoice,
    http_workers: int,
    classes: int = 100,
) -> AsyncIterator[Bench]:
    """A server whose tasks are random adapters that are in its engine for good."""
    adapters = [random_adapter(backbone.spec, classes, seed) for seed in range(tasks)]
    memory = budget(adapters)
    options = EngineOptions(kind, dtype, "cpu", memory, batch, default_cache())
    engine = open_engine(backbone, options)
    slots = [engine.load(adapter) for adapter in adapters]
    del backbone, adapters  # a server keeps neither
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory())
        # The lines are made as they are in earnest, and read by nobody.
        nowhere = stack.enter_context(Path(os.devnull).open("w"))  # noqa: SIM115  the stack closes it
        logs.configure("info", "json", nowhere)
        settings = Settings(
            index=f"sqlite:///{directory}/index.db",
            http_workers=http_workers,
            batch_images=batch,
            # A machine that is busy with other things as well makes requests late, not wrong.
            timeout_ms=60_000,
            log_level="warning",
        )
        policies, keys = await stack.enter_async_context(open_policies(settings))
        metrics = PrometheusMetrics()
        predictor = _predictor(settings, engine, _Resident(slots, classes), policies, metrics)
        listening = stack.enter_context(reserve("127.0.0.1", 0))
        address = listening.getsockname()[:2]
        preprocessing = engine.spec.preprocessing
        stack.enter_context(settled_heap())
        if http_workers:
            plan = plan_of(settings, preprocessing, f"{directory}/engine", listening)
            workers = Workers(plan, predictor, metrics)
            stack.push_async_callback(workers.close)
            await workers.start()
            yield Bench(engine, slots, batch, address, workers, keys)
            return
        here = _serve_here(settings, keys, predictor, metrics, preprocessing, listening)
        await stack.enter_async_context(here)
        yield Bench(engine, slots, batch, address, None, keys)


@asynccontextmanager
async def _serve_here(
    settings: Settings,
    keys: KeyRing,
    predictor: Predictor,
    metrics: PrometheusMetrics,
    preprocessing: Preprocessing,
    listening: socket.socket,
) -> AsyncIterator[None]:
    """One process that does all."""
    async with AsyncExitStack() as stack:
        images = image_reader(settings, preprocessing)
        stack.callback(images.close)
        front = Front(
            predictor=predictor,
            keys=keys,
            admission=Admission(settings.requests_in_flight),
            images=images,
            metrics=metrics,
            tracer=Tracer(),
            drain=Drain(),
            limits=request_limits(settings),
        )
        server = DrainingServer(
            create_front_app(front, Relay("unused", front.drain, keys)),
            front.drain,
            timeout=1.0,
            announce=lambda _: None,
        )
        await stack.enter_async_context(running(server.serve([listening])))
        yield


def _predictor(
    settings: Settings,
    engine: TorchEngine,
    resident: _Resident,
    policies: Policies,
    metrics: PrometheusMetrics,
) -> Predictor:
    return Predictor(
        resident,  # type: ignore[arg-type]  # it knows its tasks without an index
        resident,  # type: ignore[arg-type]  # and has them in the engine without a store
        Dispatcher(engine, BatchQueue(settings.queue_images, settings.batch_limits), metrics),
        Admission(settings.requests_in_flight),
        Quotas(policies, TenantLimits(), RateCounters(None, metrics)),
        metrics,
        Tracer(),
    )


def jpeg(side: int, seed: int) -> bytes:
    """A JPEG of some 15 kB at 224 pixels, as photographs of that size have: soft, with grain."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    grain = generator.normal(0, 4, soft.shape)
    picture = np.clip(soft + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
