"""What many tasks cost: throughput, hits, and latency by the tier in which a task is found."""

import asyncio
import itertools
import random
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adapters.backbone import StagedBackbone
from benchmarks.many_tasks import fill, first_checkpoint, serving, store, task_name
from service.engines.choice import DtypeChoice, EngineKind, EngineOptions, open_engine
from service.engines.folded import fold_adapter
from service.http.services import Services
from service.proving import replay_of
from service.settings import default_cache

STORM_LOADS_PER_SECOND = 5.0
STORM_LOAD = 0.3
# A p99 wants many requests: a phase of a storm takes so many times the plan's seconds.
STORM_RUNS = 3
SPARE_BYTES = 2**26
DEFAULT_TENANT = "default"

Traffic = Literal["uniform", "zipf"]
Pick = Callable[[], int]
Beside = Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True)
class Row:
    """One number of tasks and one kind of traffic; throughput over that of one task."""

    tasks: int
    resident: int
    traffic: Traffic
    images_per_s: float
    ratio: float
    hit_rate: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Phase:
    """Warm requests at `STORM_LOAD` of the throughput beside something; p99 over the quiet one."""

    p50_ms: float
    p99_ms: float
    p99_ratio: float


@dataclass(frozen=True)
class Storm:
    """What warm tasks notice of `STORM_LOADS_PER_SECOND` others.

    Attributes:
        quiet: nothing beside them.
        loads: as many tasks are loaded ahead of their traffic.
        requests: as many requests of other warm tasks.
        cold: as many requests of tasks that have to be loaded for them: both of the above.
        loads_per_s: that really took place, of the phases with loads.
    """

    quiet: Phase
    loads: Phase
    requests: Phase
    cold: Phase
    loads_per_s: float


@dataclass(frozen=True)
class Cold:
    """Answers of an idle server: a task in its slot, and the first answer of one on disk."""

    warm_p50_ms: float
    cold_p50_ms: float
    beyond_warm_p50_ms: float
    load_p50_ms: float


@dataclass(frozen=True)
class TiersResult:
    """Everything, and what it was measured on."""

    backbone: str
    engine: str
    dtype: str
    device: str
    batch: int
    classes: int
    bytes_per_task: float
    bytes_per_task_ratio: float
    one_task_images_per_s: float
    rows: list[Row] = field(default_factory=list)
    cold: Cold | None = None
    storm: Storm | None = None


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    tasks: tuple[int, ...]
    batch: int
    classes: int
    seconds: float
    rounds: int


async def measure(
    backbone: StagedBackbone,
    directory: Path,
    plan: Plan,
    *,
    weights: str,
    kind: EngineKind,
    dtype: DtypeChoice,
    device: str,
) -> TiersResult:
    """Fill a store in `directory`, then run all rows on one server and the quarter on another."""
    first = first_checkpoint(backbone, plan.classes)
    options = EngineOptions(kind, dtype, device, SPARE_BYTES, plan.batch, default_cache())
    engine = await asyncio.to_thread(open_engine, backbone, options)
    most, ideal = max(plan.tasks), fold_adapter(first).nbytes(engine.dtype)
    index, registry = store(directory)
    await fill(registry, index, first, range(most), replay_of(first.digest, engine))
    await index.close()
    serve = partial(
        serving,
        directory,
        backbone.spec,
        weights=weights,
        engine=engine.name,
        dtype=engine.dtype,
        device=device,
        batch_images=plan.batch,
    )
    async with serve(adapter_memory_bytes=most * ideal * 5 // 4 + SPARE_BYTES) as services:
        bench = Bench(services, backbone, plan)
        await bench.warm(range(most))
        size = bench.bytes_per_task()
        one, rows = await bench.resident_rows()
    quarter = max(1, most // 4)
    async with serve(adapter_memory_bytes=int(quarter * size)) as services:
        bench = Bench(services, backbone, plan)
        await bench.warm(range(quarter))
        row = await bench.row(most, quarter, "zipf")
        cold = await bench.cold(most)
        storm = await bench.storm(most, rate=STORM_LOAD * row.images_per_s)
    return TiersResult(
        backbone=backbone.spec.name,
        engine=engine.name,
        dtype=engine.dtype,
        device=device,
        batch=plan.batch,
        classes=plan.classes,
        bytes_per_task=size,
        bytes_per_task_ratio=size / ideal,
        one_task_images_per_s=one,
        rows=[*rows, row],
        cold=cold,
        storm=storm,
    )


class Bench:
    """Traffic against one server; every request is one image of the backbone's input size."""

    def __init__(self, services: Services, backbone: StagedBackbone, plan: Plan) -> None:
        size = backbone.spec.preprocessing
        self._services = services
        self._plan = plan
        self._image: NDArray[np.uint8] = np.random.default_rng(0).integers(
            0, 256, (1, size.height, size.width, 3), dtype=np.uint8
        )
        self._random = random.Random(0)  # noqa: S311  traffic, not secrets

    async def warm(self, tasks: range) -> None:
        """Have each task loaded."""
        limit = asyncio.Semaphore(2 * self._plan.batch)

        async def ask(number: int) -> None:
            async with limit:
                await self.ask(number)

        await asyncio.gather(*map(ask, tasks))

    def bytes_per_task(self) -> float:
        """Of the engine's memory, as the metrics tell it."""
        return self._metric('resident_bytes{tier="device"}') / self._metric(
            'resident_tasks{tier="device"}'
        )

    async def ask(self, number: int) -> float:
        """Seconds until the answer of a task."""
        return (await self._ask(number))[0]

    async def _ask(self, number: int) -> tuple[float, float]:
        """Seconds until the answer, and those among them that the load took."""
        began = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + 3_600
        answer = await self._services.predictor.predict(
            DEFAULT_TENANT, task_name(number), self._image, deadline=deadline, top_k=1
        )
        return time.perf_counter() - began, answer.timing.load_ms / 1e3

    async def resident_rows(self) -> tuple[float, list[Row]]:
        """The throughput of one task, and a row for each number of tasks under uniform traffic."""
        rows = [await self.row(tasks, tasks, "uniform") for tasks in self._plan.tasks]
        one = statistics.median(row.images_per_s / row.ratio for row in rows)
        return one, rows

    async def row(self, tasks: int, resident: int, traffic: Traffic) -> Row:
        """One task and many in turn, as many rounds as planned; the medians count."""
        pick = self._picker(tasks, traffic)
        await self._flood(pick)
        ones, manies, hits, latencies = [], [], [], list[float]()
        for number in range(2 * self._plan.rounds):
            # A B B A: whatever grows or fades over the rounds falls on both alike.
            if number % 4 in (0, 3):
                ones.append((await self._flood(lambda: 0))[0])
                continue
            loaded = self._loads()
            many, seconds = await self._flood(pick)
            hits.append(1 - (self._loads() - loaded) / len(seconds))
            manies.append(many)
            latencies += seconds
        ratios = [many / one for many, one in zip(manies, ones, strict=True)]
        return Row(
            tasks=tasks,
            resident=resident,
            traffic=traffic,
            images_per_s=statistics.median(manies),
            ratio=statistics.median(ratios),
            hit_rate=statistics.median(hits),
            p50_ms=1e3 * float(np.percentile(latencies, 50)),
            p99_ms=1e3 * float(np.percentile(latencies, 99)),
        )

    async def cold(self, tasks: int, times: int = 30) -> Cold:
        """One request at a time: the last tasks of the store were never asked before."""
        warm, cold, loads = [], [], []
        await self.ask(0)
        for number in range(tasks - 1, max(0, tasks - 1 - times), -1):
            seconds, load = await self._ask(number)
            cold.append(seconds)
            loads.append(load)
            warm.append(await self.ask(number))
        beyond = statistics.median(a - b for a, b in zip(cold, warm, strict=True))
        return Cold(
            warm_p50_ms=1e3 * statistics.median(warm),
            cold_p50_ms=1e3 * statistics.median(cold),
            beyond_warm_p50_ms=1e3 * beyond,
            load_p50_ms=1e3 * statistics.median(loads),
        )

    async def storm(self, tasks: int, rate: float) -> Storm:
        """Warm requests at `rate` a second, alone and beside loads, requests, and both."""
        warm_tasks = range(min(64, tasks // 8 + 1))
        await self.warm(warm_tasks)
        requests, coldest = itertools.cycle(warm_tasks), self._coldest(tasks)
        phases: dict[str, Beside | None] = {
            "quiet": None,
            "loads": lambda: self._load(next(coldest)),
            "requests": lambda: self.ask(next(requests)),
            "cold": lambda: self.ask(next(coldest)),
        }
        latencies: dict[str, list[list[float]]] = {name: [] for name in phases}
        loads, spent = 0.0, 0.0
        for number in range(self._plan.rounds):
            # In turn from either end: whatever grows or fades over the rounds falls on all alike.
            for name in [*phases] if number % 2 == 0 else reversed(phases):
                loaded, began = self._loads(), time.perf_counter()
                seconds = await self._steady_beside(warm_tasks, rate, phases[name], number)
                latencies[name].append(seconds)
                if name in {"loads", "cold"}:
                    loads += self._loads() - loaded
                    spent += time.perf_counter() - began
        quiet_ms = _percentile_ms(latencies["quiet"], 99)
        found = {
            name: Phase(
                p50_ms=_percentile_ms(rounds, 50),
                p99_ms=_percentile_ms(rounds, 99),
                p99_ratio=_percentile_ms(rounds, 99) / quiet_ms,
            )
            for name, rounds in latencies.items()
        }
        return Storm(**found, loads_per_s=loads / spent)

    async def _load(self, number: int) -> None:
        """Have a task loaded before anybody asks for it, as an operator would."""
        deadline = asyncio.get_running_loop().time() + 3_600
        await self._services.residency.warm(DEFAULT_TENANT, task_name(number), deadline=deadline)

    def _picker(self, tasks: int, traffic: Traffic) -> Pick:
        if traffic == "uniform":
            return lambda: self._random.randrange(tasks)
        weights = [1 / rank for rank in range(1, tasks + 1)]
        drawn = iter(self._random.choices(range(tasks), weights, k=1_000_000))
        return lambda: next(drawn)

    async def _flood(self, pick: Pick) -> tuple[float, list[float]]:
        """Twice a batch of clients that ask without a pause; images a second, and latencies."""
        latencies: list[float] = []
        began = time.perf_counter()
        end = began + self._plan.seconds

        async def client() -> None:
            while time.perf_counter() < end:
                latencies.append(await self.ask(pick()))

        await asyncio.gather(*(client() for _ in range(2 * self._plan.batch)))
        return len(latencies) / (time.perf_counter() - began), latencies

    async def _steady_beside(
        self, tasks: range, rate: float, beside: Beside | None, number: int
    ) -> list[float]:
        """`_steady`, with something else going on, whose latencies do not count."""
        if beside is None:
            return await self._steady(tasks, rate, number)
        others = asyncio.create_task(self._go_on(beside, number))
        try:
            return await self._steady(tasks, rate, number)
        finally:
            others.cancel()
            await asyncio.wait({others})

    async def _steady(self, tasks: range, rate: float, number: int) -> list[float]:
        """Requests at random times (Poisson), whether or not those before them have answers.

        All phases of a round have the same times: a p99 hangs on how they cluster.
        """
        chance = random.Random(f"warm {number}")  # noqa: S311
        count = int(rate * STORM_RUNS * self._plan.seconds)
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self.ask(chance.choice(tasks)))
                async for _ in _arrivals(rate, count, chance)
            ]
        return [each.result() for each in asked]

    async def _go_on(self, beside: Beside, number: int) -> None:
        chance = random.Random(f"beside {number}")  # noqa: S311
        async with asyncio.TaskGroup() as group:
            async for _ in _arrivals(STORM_LOADS_PER_SECOND, sys.maxsize, chance):
                group.create_task(beside())

    def _coldest(self, tasks: int) -> Iterator[int]:
        """The tasks from the rarest on, round and round."""
        rarest = range(max(tasks - 100, tasks // 2), tasks // 8 + 1, -1)
        yield from itertools.cycle(rarest or range(tasks))

    def _loads(self) -> float:
        return self._metric('loads_total{outcome="ok",tier="disk"}')

    def _metric(self, name: str) -> float:
        """A sample of the server's metrics, 0 where there is none yet."""
        text = self._services.metrics.render()[0].decode()
        found = re.search(rf"^\w*{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


async def _arrivals(rate: float, count: int, chance: random.Random) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(count):
        due += chance.expovariate(rate)
        await asyncio.sleep(due - loop.time())
        yield


def _percentile_ms(rounds: list[list[float]], percent: float) -> float:
    return 1e3 * float(np.percentile(np.concatenate(rounds), percent))
