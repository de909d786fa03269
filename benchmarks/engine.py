"""What a mixed batch costs over the bare backbone, in the same engine, process and run."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from adapters.backbone import StagedBackbone
from adapters.manifest import BackboneSpec
from adapters.preprocess import normalize
from adapters.prompt import prompt_spec
from service.engines.base import EngineBatch, EngineSegment, Slot
from service.engines.choice import DtypeChoice, EngineKind, EngineOptions, open_engine
from service.engines.compiled_engine import CompiledEngine, compile_frozen
from service.engines.folded import TORCH_DTYPES, FoldedAdapter, PromptLayout
from service.engines.torch_engine import TorchEngine
from service.settings import default_cache


@dataclass(frozen=True)
class EngineResult:
    """Medians over the rounds, and of the rounds' ratios.

    `ratio` is mixed over bare: the backbone alone in the best form that the engine has, one graph
    where it compiles. `over_timm` is mixed over timm's own model, eager and in float32.
    """

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
    timm_images_per_s: float
    over_timm: float


def measure(
    backbone: StagedBackbone,
    *,
    tasks: int,
    batch: int,
    kind: EngineKind = "torch",
    dtype: DtypeChoice = "float32",
    device: str = "cpu",
    classes: int = 100,
    rounds: int = 7,
    cache: Path | None = None,
) -> EngineResult:
    """Run timm's model, bare and mixed batches in turn: A B C A B C ..., once unmeasured before.

    Every image of a mixed batch is another task's, going round over `tasks` adapters with the
    default prompts and a head of `classes`.
    """
    adapters = [random_adapter(backbone.spec, classes, seed) for seed in range(tasks)]
    engine = open_engine(
        backbone,
        EngineOptions(kind, dtype, device, budget(adapters), batch, cache or default_cache()),
    )
    slots = [engine.load(adapter) for adapter in adapters]
    images = random_images(backbone.spec, batch)
    turns = (mixed_batch(images, slots, start=batch * number) for number in count())
    timm, bare = _timm(backbone, engine), _bare(backbone, engine)
    times: dict[str, list[float]] = {"timm": [], "bare": [], "mixed": []}
    for _ in range(rounds + 1):
        times["timm"].append(_seconds(partial(timm, images)))
        times["bare"].append(_seconds(partial(bare, images)))
        times["mixed"].append(_seconds(partial(engine.run, next(turns))))
    times = {name: seconds[1:] for name, seconds in times.items()}
    return EngineResult(
        backbone=backbone.spec.name,
        engine=engine.name,
        device=device,
        dtype=engine.dtype,
        threads=torch.get_num_threads(),
        tasks=tasks,
        batch=batch,
        rounds=rounds,
        bare_images_per_s=batch / statistics.median(times["bare"]),
        mixed_images_per_s=batch / statistics.median(times["mixed"]),
        ratio=_ratio(times["bare"], times["mixed"]),
        timm_images_per_s=batch / statistics.median(times["timm"]),
        over_timm=_ratio(times["timm"], times["mixed"]),
    )


_Pass = Callable[[Tensor], Tensor]


def _timm(backbone: StagedBackbone, engine: TorchEngine) -> _Pass:
    """What a user would run without us: timm's model as it is."""
    model = copy.deepcopy(backbone).to(engine.device)

    @torch.inference_mode()
    def run(images_UHWC: Tensor) -> Tensor:
        pixels = normalize(images_UHWC.to(engine.device), backbone.spec.preprocessing)
        return model.features(pixels, lambda _, features: features).cpu()

    return run


def _bare(backbone: StagedBackbone, engine: TorchEngine) -> _Pass:
    """The backbone alone, in the best form that the engine has."""
    if not isinstance(engine, CompiledEngine):
        return engine.features
    dtype = TORCH_DTYPES[engine.dtype]
    model = copy.deepcopy(backbone).to(dtype).to(memory_format=torch.channels_last)

    def run(images_UHWC: Tensor) -> Tensor:
        pixels = normalize(images_UHWC, backbone.spec.preprocessing)
        return model.features(pixels.to(dtype), lambda _, features: features)

    return torch.no_grad()(compile_frozen(run))


def _ratio(slower: list[float], faster: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


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


def budget(adapters: list[FoldedAdapter]) -> int:
    """Bytes that hold these adapters in either dtype."""
    return sum(adapter.nbytes("float32") for adapter in adapters)


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
