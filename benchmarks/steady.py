"""Whether an engine stays as it is: thousands of mixed batches while adapters come and go."""

import os
import random
import statistics
import time
from dataclasses import dataclass

import torch

from adapters.backbone import StagedBackbone
from benchmarks.engine import budget, mixed_batch, random_adapter, random_images
from benchmarks.processes import memory_bytes
from service.engines.choice import DtypeChoice, EngineKind, EngineOptions, open_engine
from service.settings import default_cache

MEBIBYTE = 2**20


@dataclass(frozen=True)
class SteadyResult:
    """Memory grown and speed lost from the first tenth of the batches to the end.

    `last_over_settled` is the images a second of the last tenth over those of the second one.
    Compiling anything anew raises an error instead.
    """

    backbone: str
    engine: str
    dtype: str
    batches: int
    loads: int
    grown_mib: float
    last_over_settled: float


def measure(
    backbone: StagedBackbone,
    *,
    tasks: int,
    batch: int,
    kind: EngineKind,
    dtype: DtypeChoice,
    batches: int,
    classes: int = 100,
) -> SteadyResult:
    """Batches of 1 to `batch` images over half of `tasks`; every other one a resident is replaced.

    Raises:
        RuntimeError: something was compiled anew.
    """
    adapters = [random_adapter(backbone.spec, classes, seed) for seed in range(tasks)]
    resident = tasks // 2
    capacity = budget(adapters[: resident + 1])
    options = EngineOptions(kind, dtype, "cpu", capacity, batch, default_cache())
    engine = open_engine(backbone, options)
    slots = [engine.load(adapter) for adapter in adapters[:resident]]
    images = random_images(backbone.spec, batch)
    generator = random.Random(0)  # noqa: S311  traffic, not secrets
    for count in range(1, batch + 1):
        engine.run(mixed_batch(images[:count], slots, start=0))
    # What is allocated once is, after a tenth of the batches; then nothing may grow.
    tenth, speeds, loads, settled = batches // 10, [], 0, 0
    with torch.compiler.set_stance("fail_on_recompile"):
        for number in range(batches):
            if number == tenth:
                settled = memory_bytes(os.getpid())
            if number % 2:
                place = generator.randrange(resident)
                engine.unload(slots[place])
                slots[place] = engine.load(generator.choice(adapters))
                loads += 1
            count = generator.randint(1, batch)
            started = time.process_time()
            engine.run(mixed_batch(images[:count], slots, start=number))
            speeds.append(count / (time.process_time() - started))
    return SteadyResult(
        backbone=backbone.spec.name,
        engine=engine.name,
        dtype=engine.dtype,
        batches=batches,
        loads=loads,
        grown_mib=(memory_bytes(os.getpid()) - settled) / MEBIBYTE,
        last_over_settled=statistics.median(speeds[-tenth:])
        / statistics.median(speeds[tenth : 2 * tenth]),
    )
