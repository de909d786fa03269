"""What an index's operations take among many registered tasks."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from adapters.store.index import Index, TaskKey
from adapters.store.opening import open_index
from benchmarks.many_tasks import task_name

FINGERPRINT = "f" * 64
PAGE = 100
AT_ONCE = 16


@dataclass(frozen=True)
class Operation:
    """One after the other, each alone."""

    name: str
    p50_ms: float
    p99_ms: float


async def measure(url: str, *, tasks: int, times: int) -> list[Operation]:
    """Time single operations of an index with so many tasks, each with an active version.

    Unless it has them already, they are registered first.
    """
    index = open_index(url)
    if not await index.list_tasks("default", after=task_name(tasks - 2), limit=1):
        await _fill(index, tasks)
    draw = random.Random(0)  # noqa: S311  traffic, not secrets
    new = count(tasks + time.time_ns())

    def known() -> TaskKey:
        return TaskKey(task=task_name(draw.randrange(tasks)))

    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "resolve": lambda: index.resolve(known(), FINGERPRINT),
        f"list {PAGE} tasks": lambda: index.list_tasks("default", after=known().task, limit=PAGE),
        "register": lambda: _register(index, next(new)),
        "register, prove, activate": lambda: _all_of_it(index, next(new)),
        "read changes": lambda: index.changes(10**12, limit=PAGE),
    }
    results = [await _timed(name, run, times) for name, run in operations.items()]
    await index.close()
    return results


async def _timed(name: str, run: Callable[[], Awaitable[object]], times: int) -> Operation:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        await run()
        seconds.append(time.perf_counter() - began)
    p50, p99 = (1e3 * float(np.percentile(seconds, percent)) for percent in (50, 99))
    return Operation(name, p50, p99)


async def _fill(index: Index, tasks: int) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def add(number: int) -> None:
        async with limit:
            await _all_of_it(index, number)

    for start in range(0, tasks, 10_000):
        await asyncio.gather(*map(add, range(start, min(tasks, start + 10_000))))


async def _register(index: Index, number: int) -> None:
    await index.register(
        TaskKey(task=task_name(number)),
        f"{number:064x}",
        fingerprint=FINGERPRINT,
        size=1_000_000,
        metadata={"backbone": "deit_small_patch16_224", "classes": 100, "method": "pro-tuning"},
        now=float(number),
    )


async def _make_active(index: Index, number: int) -> None:
    key = TaskKey(task=task_name(number))
    await index.set_state(key, 1, "ready", now=float(number))
    await index.activate(key, 1, expected=None, now=float(number))


async def _all_of_it(index: Index, number: int) -> None:
    """All that a registration asks of the index."""
    await _register(index, number)
    await _make_active(index, number)
