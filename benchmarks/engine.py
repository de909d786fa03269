"""What a mixed batch costs over the bare backbone, in the same engine, process and run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from adapters.backbone import StagedBackbone
from adapters.manifest import BackboneSpec
from adapters.prompt import prompt_spec
from adapters.proof import DtypeName
from service.engines.base import EngineBatch, EngineSegment, Slot
from service.engines.folded import FoldedAdapter, PromptLayout
from service.engines.torch_engine import TorchEngine


@dataclass(frozen=True)
class EngineResult:
    """Medians over the rounds; `ratio` is the median of the rounds' ratios, mixed over bare."""

    backbone: str
    engine: str
    device: str
    dtype: str
    threads: int
    tasks: int
    batch: int
    rounds: int
    bare_images_per_s: float
    mixed_images_per_s: float
    ratio: float


def measure(
    backbone: StagedBackbone,
    *,
    tasks: int,
    batch: int,
    dtype: DtypeName = "float32",
    device: str = "cpu",
    classes: int = 100,
    rounds: int = 7,
    compile_stages: bool = False,
) -> EngineResult:
    """Run bare and mixed batches in turn: A B A B ..., each once per round and once before.

    Every image of a mixed batch is another task's, going round over `tasks` adapters with the
    default prompts and a head of `classes`.
    """
    adapters = [random_adapter(backbone.spec, classes, seed) for seed in range(tasks)]
    engine = TorchEngine(
        backbone,
        capacity_bytes=budget(adapters, dtype),
        dtype=dtype,
        device=device,
        compile_stages=compile_stages,
    )
    slots = [engine.load(adapter) for adapter in adapters]
    images = random_images(backbone.spec, batch)
    turns = (mixed_batch(images, slots, start=batch * number) for number in count())
    bare, mixed = [], []
    for _ in range(rounds + 1):
        bare.append(_seconds(partial(engine.features, images)))
        mixed.append(_seconds(partial(engine.run, next(turns))))
    bare, mixed = bare[1:], mixed[1:]
    return EngineResult(
        backbone=backbone.spec.name,
        engine=engine.name,
        device=device,
        dtype=dtype,
        threads=torch.get_num_threads(),
        tasks=tasks,
        batch=batch,
        rounds=rounds,
        bare_images_per_s=batch / statistics.median(bare),
        mixed_images_per_s=batch / statistics.median(mixed),
        ratio=statistics.median(a / b for a, b in zip(bare, mixed, strict=True)),
    )


def _seconds(run: Callable[[], object]) -> float:
    """How long a call takes; engines answer on the host, so the device has finished by then."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def random_adapter(spec: BackboneSpec, classes: int, seed: int) -> FoldedAdapter:
    """An adapter with the backbone's default prompts and small random values."""
    generator = torch.Generator().manual_seed(seed)
    prompt = prompt_spec(spec)
    return FoldedAdapter(
        key=f"{seed:064x}",
        spec=prompt,
        prompts=0.02 * torch.randn(PromptLayout(prompt, spec).size, generator=generator),
        head_weight=0.02 * torch.randn(classes, spec.feature_dim, generator=generator),
        head_bias=torch.zeros(classes),
    )


def budget(adapters: list[FoldedAdapter], dtype: DtypeName) -> int:
    """Bytes that hold just these adapters."""
    return sum(adapter.nbytes(dtype) for adapter in adapters)


def random_images(spec: BackboneSpec, count: int) -> Tensor:
    """uint8 noise [count, H, W, 3] of the backbone's input size."""
    size = spec.preprocessing
    generator = torch.Generator().manual_seed(0)
    shape = (count, size.height, size.width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def mixed_batch(images: Tensor, slots: list[Slot], start: int) -> EngineBatch:
    """Image i goes to the task `(start + i) % tasks`; the images of a task lie together."""
    tasks = sorted((start + number) % len(slots) for number in range(len(images)))
    segments, stop = [], 0
    for task in dict.fromkeys(tasks):
        first, stop = stop, stop + tasks.count(task)
        segments.append(EngineSegment(slots[task], first, stop))
    return EngineBatch(images, None, tuple(segments))
