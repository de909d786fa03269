"""Noisy neighbours: what tenants that keep to their share are left with while another one floods.

All tenants send at random times (Poisson) over HTTP, with keys of their own. A share is a tenant's
part of `saturation` times what a closed loop reaches. Runs in which every tenant keeps its share
and runs in which the first one sends twenty times as much take turns.
"""

import asyncio
import dataclasses
import statistics
from dataclasses import dataclass

import numpy as np

from adapters.backbone import StagedBackbone
from benchmarks import load
from benchmarks.server import Bench, open_bench, predictions, send
from service.engines.choice import DtypeChoice, EngineKind
from service.tenants import Scope

FLOOD = 20.0
CONNECTIONS = 128
PREDICT: frozenset[Scope] = frozenset({"predict"})


@dataclass(frozen=True)
class Run:
    """One run. `kept` is the least part of its requests that a quiet tenant had answered.

    `p99_ms` is over the requests of all quiet tenants; `flooder_answered` is the other one's
    answers a second.
    """

    kept: float
    p50_ms: float
    p99_ms: float
    flooder_answered: float
    flooder_refused: int


@dataclass(frozen=True)
class TenantsResult:
    """Medians over the rounds; ratios are of a flooded run over the fair one beside it."""

    backbone: str
    dtype: str
    tenants: int
    saturation: float
    rounds: int
    capacity: float
    share: float
    kept: float
    p99_ratio: float
    fair: list[Run]
    flooded: list[Run]


async def measure(
    backbone: StagedBackbone,
    *,
    tenants: int,
    batch: int,
    kind: EngineKind,
    dtype: DtypeChoice,
    saturation: float,
    rounds: int,
    seconds: float,
) -> TenantsResult:
    """Fair, flooded, fair, flooded ...; the capacity is measured first."""
    opened = open_bench(
        backbone,
        tasks=tenants,
        batch=batch,
        kind=kind,
        dtype=dtype,
        http_workers=0,
    )
    async with opened as bench:
        keys = [await _key(bench, number) for number in range(tenants)]
        capacity = await _capacity(bench, keys[0], seconds)
        share = saturation * capacity / tenants
        fair, flooded = [], []
        for _ in range(rounds):
            fair.append(await _run(bench, keys, [share] * tenants, seconds))
            flood = [FLOOD * share, *[share] * (tenants - 1)]
            flooded.append(await _run(bench, keys, flood, seconds))
    return TenantsResult(
        backbone=backbone.spec.name,
        dtype=bench.engine.dtype,
        tenants=tenants,
        saturation=saturation,
        rounds=rounds,
        capacity=capacity,
        share=share,
        kept=statistics.median(run.kept for run in flooded),
        p99_ratio=statistics.median(
            loud.p99_ms / quiet.p99_ms for quiet, loud in zip(fair, flooded, strict=True)
        ),
        fair=fair,
        flooded=flooded,
    )


async def _key(bench: Bench, number: int) -> str:
    _, token = await bench.keys.create(f"tenant{number}", PREDICT)
    return str(token)


async def _capacity(bench: Bench, key: str, seconds: float) -> float:
    """Answers a second of a closed loop, once more before it counts."""
    plan = dataclasses.replace(bench.plan(seconds), key=key)
    await send(plan)
    report = await send(plan)
    return report.answered / report.wall_seconds


async def _run(bench: Bench, keys: list[str], rates: list[float], seconds: float) -> Run:
    plans = [
        dataclasses.replace(
            bench.plan(seconds, rate=rate),
            key=key,
            requests=predictions([number]),
            connections=CONNECTIONS,
            seed=number,
        )
        for number, (key, rate) in enumerate(zip(keys, rates, strict=True))
    ]
    flooder, *quiet = await asyncio.gather(*(send(plan) for plan in plans))
    p50, p99 = np.percentile([each for report in quiet for each in report.latencies], [50, 99])
    return Run(
        kept=min(map(_kept, quiet)),
        p50_ms=1e3 * float(p50),
        p99_ms=1e3 * float(p99),
        flooder_answered=flooder.answered / flooder.wall_seconds,
        flooder_refused=flooder.refused,
    )


def _kept(report: load.Report) -> float:
    return report.answered / (report.answered + report.refused)
