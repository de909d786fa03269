"""Which engine serves: the one that is asked for, or the fastest that this machine runs soundly."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
import torch

from adapters.backbone import StagedBackbone
from adapters.manifest import GoldenInputs
from adapters.preprocess import normalize
from adapters.proof import DtypeName, golden_batch
from service.engines.compiled_engine import CompiledEngine, keep_compiled_code
from service.engines.torch_engine import TorchEngine
from service.errors import EngineUnavailable

EngineKind = Literal["auto", "torch", "compiled", "onnx"]
DtypeChoice = Literal["auto", DtypeName]

# Root mean square of what bfloat16 changes in the features, over that of the features. Backbones
# whose weights suit it lie at 0.003 to 0.02; a MobileNetV2 with folded norms, which loses 1.2
# points of accuracy, at 0.035 and above. See docs/decisions.
MOST_BFLOAT16_ERROR = 0.025
_SEEN = GoldenInputs(seed=0, sizes=((240, 320), (320, 240), (256, 256), (180, 240)))

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is asked to be.

    Args:
        kind: "torch" starts at once, "compiled" is the faster one on a CPU (docs/performance.md),
            "onnx" runs ONNX Runtime, and "auto" takes the fastest that works here.
        dtype: "auto" takes bfloat16 where the machine is fast at it and the backbone bears it.
        device: A torch device.
        capacity_bytes: The budget for adapters.
        batch_images: Most images of a batch.
        cache: Where compiled code is kept.
    """

    kind: EngineKind
    dtype: DtypeChoice
    device: str
    capacity_bytes: int
    batch_images: int
    cache: Path


def find_device(name: str) -> str:
    """A torch device that this machine has; "auto" is its GPU where there is one.

    Raises:
        EngineUnavailable: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise EngineUnavailable(
            f"The device {name!r} cannot be used: {reason}. Take --device cpu, or auto."
        ) from error
    return name


def open_engine(backbone: StagedBackbone, options: EngineOptions) -> TorchEngine:
    """An engine, warmed up; the log says which one it is, and why no faster one.

    Raises:
        EngineUnavailable: this machine cannot run what is asked for.
    """
    candidates = _candidates(options)
    for number, (name, dtype) in enumerate(candidates, 1):
        log.info("engine_starting", engine=name, dtype=dtype)
        if name == "compiled":
            # Nothing else is heard meanwhile.
            log.info(
                "engine_compiling", takes="a minute or two the first time", cache=str(options.cache)
            )
        try:
            engine = _MAKES[name](backbone, options, dtype)
            engine.warm_up((1, options.batch_images))
            if options.dtype == "auto" and dtype == "bfloat16":
                _require_accuracy(engine, backbone)
        except EngineUnavailable as error:
            if number == len(candidates):
                raise
            log.info("engine_passed_over", engine=name, dtype=dtype, reason=str(error))
        else:
            log.info("engine_chosen", engine=engine.name, dtype=dtype, device=engine.device)
            return engine
    raise AssertionError("There is always a candidate.")


_Make = Callable[[StagedBackbone, EngineOptions, DtypeName], TorchEngine]


def _candidates(options: EngineOptions) -> list[tuple[str, DtypeName]]:
    """The engines that may serve, the fastest first."""
    names = ("compiled", "torch") if options.kind == "auto" else (options.kind,)
    dtypes: tuple[DtypeName, ...]
    if options.dtype != "auto":
        dtypes = (options.dtype,)
    elif _is_fast_at_bfloat16(options.device):
        dtypes = ("bfloat16", "float32")
    else:
        dtypes = ("float32",)
    return [(name, dtype) for name in names for dtype in dtypes]


def eager(backbone: StagedBackbone, options: EngineOptions, dtype: DtypeName) -> TorchEngine:
    """The reference engine: it is there at once."""
    return TorchEngine(
        backbone, capacity_bytes=options.capacity_bytes, dtype=dtype, device=options.device
    )


def compiled(backbone: StagedBackbone, options: EngineOptions, dtype: DtypeName) -> TorchEngine:
    """What torch.compile makes of the backbone, on a CPU with kernels of our own between stages.

    Raises:
        EngineUnavailable: this machine cannot compile.
    """
    if options.device == "cpu":
        return CompiledEngine(
            backbone, capacity_bytes=options.capacity_bytes, dtype=dtype, cache=options.cache
        )
    keep_compiled_code(options.cache)
    return TorchEngine(
        backbone,
        capacity_bytes=options.capacity_bytes,
        dtype=dtype,
        device=options.device,
        compile_stages=True,
    )


def onnx(backbone: StagedBackbone, options: EngineOptions, dtype: DtypeName) -> TorchEngine:
    """ONNX Runtime for the stages.

    Raises:
        EngineUnavailable: it cannot run here, or not in this dtype.
    """
    try:
        from service.engines.onnx_engine import OnnxEngine
    except ImportError as error:
        raise EngineUnavailable(
            f"The onnx engine needs {error.name}. Install protuning[onnx], or take another engine."
        ) from error
    return OnnxEngine(
        backbone,
        capacity_bytes=options.capacity_bytes,
        cache=options.cache,
        dtype=dtype,
        device=options.device,
    )


_MAKES: dict[str, _Make] = {"compiled": compiled, "torch": eager, "onnx": onnx}


def _is_fast_at_bfloat16(device: str) -> bool:
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001  there is no other way to ask
    return torch.cuda.is_bf16_supported(including_emulation=False)


@torch.no_grad()
def _require_accuracy(engine: TorchEngine, backbone: StagedBackbone) -> None:
    """Compare the engine's features with those of the backbone as it is, in float32.

    Raises:
        EngineUnavailable: they differ by more than classes can bear.
    """
    images = golden_batch(_SEEN, backbone.spec.preprocessing)
    pixels = normalize(images, backbone.spec.preprocessing)
    exact = backbone.features(pixels, lambda _, features: features)
    error = float((engine.features(images).float() - exact).norm() / exact.norm())
    if not error <= MOST_BFLOAT16_ERROR:
        raise EngineUnavailable(
            f"In bfloat16 the features of {backbone.spec.name} are off by {error:.1%}, more than "
            f"{MOST_BFLOAT16_ERROR:.1%}. Take float32."
        )
