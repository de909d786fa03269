"""What the way in costs: 224-pixel JPEGs over HTTP, over the engine alone on ready pixels.

Both run in turn in one run, on the same engine. The client shares the machine's cores with the
server, so its processor time is taken off: on K cores, a client that used C seconds of them in a
time T has left the server T - C/K.
"""

import os
import statistics
from dataclasses import dataclass

import numpy as np

from adapters.backbone import StagedBackbone
from benchmarks import load
from benchmarks.processes import cpu_seconds
from benchmarks.server import open_bench, send
from service.engines.choice import DtypeChoice, EngineKind


@dataclass(frozen=True)
class HttpResult:
    """Medians over the rounds, and of the rounds' ratios.

    `ratio` is HTTP over the engine in images a second; `cpu_ratio` is the engine over HTTP in
    processor time of an image, which neighbours on the machine disturb less.
    """

    backbone: str
    engine: str
    dtype: str
    cores: int
    http_workers: int
    tasks: int
    batch: int
    rounds: int
    engine_images_per_s: float
    http_images_per_s: float
    ratio: float
    cpu_ratio: float
    client_cpu_ms_per_image: float
    server_cpu_ms_per_image: float
    engine_cpu_ms_per_image: float


@dataclass(frozen=True)
class LatencyResult:
    """An open loop at one offered rate, in images a second and milliseconds."""

    offered: float
    answered: float
    refused: int
    p50_ms: float
    p99_ms: float


async def measure(
    backbone: StagedBackbone,
    *,
    tasks: int,
    batch: int,
    kind: EngineKind,
    dtype: DtypeChoice,
    http_workers: int,
    rounds: int,
    seconds: float,
) -> HttpResult:
    """Run the engine alone and HTTP in turn: A B A B ..., once more before they count."""
    cores = len(os.sched_getaffinity(0))
    alone, http, engine_cpu, client_cpu, server_cpu = [], [], [], [], []
    opened = open_bench(
        backbone,
        tasks=tasks,
        batch=batch,
        kind=kind,
        dtype=dtype,
        http_workers=http_workers,
    )
    async with opened as bench:
        for _ in range(rounds + 1):
            images_per_s, cpu = await bench.engine_alone(seconds)
            alone.append(images_per_s)
            engine_cpu.append(cpu)
            before = cpu_seconds(os.getpid())
            report = await send(bench.plan(seconds))
            # The client has ended by now, so that it is in neither sum.
            server_cpu.append((cpu_seconds(os.getpid()) - before) / report.answered)
            client_cpu.append(report.cpu_seconds / report.answered)
            left = report.wall_seconds - report.cpu_seconds / cores
            http.append(report.answered / left)
    return HttpResult(
        backbone=backbone.spec.name,
        engine=bench.engine.name,
        dtype=bench.engine.dtype,
        cores=cores,
        http_workers=http_workers,
        tasks=tasks,
        batch=batch,
        rounds=rounds,
        engine_images_per_s=statistics.median(alone[1:]),
        http_images_per_s=statistics.median(http[1:]),
        ratio=statistics.median(b / a for a, b in zip(alone[1:], http[1:], strict=True)),
        cpu_ratio=statistics.median(
            a / b for a, b in zip(engine_cpu[1:], server_cpu[1:], strict=True)
        ),
        client_cpu_ms_per_image=1e3 * statistics.median(client_cpu[1:]),
        server_cpu_ms_per_image=1e3 * statistics.median(server_cpu[1:]),
        engine_cpu_ms_per_image=1e3 * statistics.median(engine_cpu[1:]),
    )


async def latencies(
    backbone: StagedBackbone,
    *,
    tasks: int,
    batch: int,
    kind: EngineKind,
    dtype: DtypeChoice,
    loads: list[float],
    seconds: float,
) -> list[LatencyResult]:
    """Open loops at shares `loads` of what the closed loop reaches, the least first."""
    opened = open_bench(
        backbone,
        tasks=tasks,
        batch=batch,
        kind=kind,
        dtype=dtype,
        http_workers=0,
    )
    async with opened as bench:
        await send(bench.plan(seconds))
        full = await send(bench.plan(seconds))
        capacity = full.answered / full.wall_seconds
        found = []
        for share in sorted(loads):
            report = await send(bench.plan(seconds, rate=share * capacity))
            found.append(_latency(share * capacity, report))
    return found


def _latency(offered: float, report: load.Report) -> LatencyResult:
    p50, p99 = np.percentile(report.latencies, [50, 99])
    return LatencyResult(
        offered=offered,
        answered=report.answered / report.wall_seconds,
        refused=report.refused,
        p50_ms=1e3 * float(p50),
        p99_ms=1e3 * float(p99),
    )
