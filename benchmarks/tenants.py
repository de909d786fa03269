"""Noisy neighbours: what tenants that keep to their share are left with while another one floods.

All tenants send over HTTP, with keys of their own, and each keeps a number of requests under way.
In a fair run the numbers are equal, and enough of them together to keep the engine full: each
tenant gets its share. In a flooded run the first tenant has twenty times as many; the others go on
as before. So the engine is as busy in both, and the runs take turns.

(Random arrivals at a full engine's rate would have no steady state: what waits grows with the
square root of the time, and twice as fast for a tenant that cannot borrow what three others leave.)
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

FLOOD = 20
BATCHES_UNDER_WAY = 3
PREDICT: frozenset[Scope] = frozenset({"predict"})


@dataclass(frozen=True)
class Run:
    """One run, of which the first tenant is not counted.

    `answered` is the answers a second of the tenant that got least; `p50_ms` and `p99_ms` are
    over the requests of all; `first_answered` is the other one's answers a second and
    `first_refused` how many it was not given.
    """

    answered: float
    p50_ms: float
    p99_ms: float
    first_answered: float
    first_refused: int


@dataclass(frozen=True)
class TenantsResult:
    """Medians over the rounds; ratios are of a flooded run over the fair one beside it."""

    backbone: str
    dtype: str
    tenants: int
    under_way: int
    rounds: int
    kept: float
    p50_ratio: float
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
    rounds: int,
    seconds: float,
) -> TenantsResult:
    """Fair, flooded, fair, flooded ..., after a fair run that does not count."""
    opened = open_bench(
        backbone,
        tasks=tenants,
        batch=batch,
        kind=kind,
        dtype=dtype,
        http_workers=0,
    )
    under_way = -(-BATCHES_UNDER_WAY * batch // tenants)
    async with opened as bench:
        plans = [
            dataclasses.replace(
                bench.plan(seconds),
                key=await _key(bench, number),
                requests=predictions([number]),
                connections=under_way,
                seed=number,
            )
            for number in range(tenants)
        ]
        flood = dataclasses.replace(plans[0], connections=FLOOD * under_way)
        await _run(plans)
        fair, flooded = [], []
        for _ in range(rounds):
            fair.append(await _run(plans))
            flooded.append(await _run([flood, *plans[1:]]))
    pairs = [*zip(fair, flooded, strict=True)]
    return TenantsResult(
        backbone=backbone.spec.name,
        dtype=bench.engine.dtype,
        tenants=tenants,
        under_way=under_way,
        rounds=rounds,
        kept=statistics.median(loud.answered / quiet.answered for quiet, loud in pairs),
        p50_ratio=statistics.median(loud.p50_ms / quiet.p50_ms for quiet, loud in pairs),
        p99_ratio=statistics.median(loud.p99_ms / quiet.p99_ms for quiet, loud in pairs),
        fair=fair,
        flooded=flooded,
    )


async def _key(bench: Bench, number: int) -> str:
    _, token = await bench.keys.create(f"tenant{number}", PREDICT)
    return str(token)


async def _run(plans: list[load.Plan]) -> Run:
    first, *others = await asyncio.gather(*(send(plan) for plan in plans))
    p50, p99 = np.percentile([each for report in others for each in report.latencies], [50, 99])
    return Run(
        answered=min(map(_rate, others)),
        p50_ms=1e3 * float(p50),
        p99_ms=1e3 * float(p99),
        first_answered=_rate(first),
        first_refused=first.refused,
    )


def _rate(report: load.Report) -> float:
    return report.answered / report.wall_seconds
