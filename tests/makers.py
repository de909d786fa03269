"""What tests make again and again: small backbones, adapters that do something, pictures."""

import io
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters.backbone import StagedBackbone, describe, load_backbone
from adapters.checkpoint import Checkpoint, make_checkpoint
from adapters.head import head_spec
from adapters.manifest import Provenance
from adapters.model import Adapter, AdapterModel
from adapters.preprocess import normalize
from adapters.prompt import prompt_spec
from service.engines.compiled_engine import CompiledEngine
from service.engines.onnx_engine import OnnxEngine
from service.engines.torch_engine import TorchEngine

# Built once for an environment, not once for each run of the tests.
KERNELS = Path(sys.prefix, "kernels")
NULL_DEVICE = Path("/dev/null")

# Where the engines run that the tests compare; benchmarks/gpu.sh sets it.
DEVICE = os.environ.get("PROTUNING_TEST_DEVICE", "cpu")
# One small timm model of every family, and of every class within it.
SMALL_BACKBONES = {
    "resnet": "test_resnet",
    "regnet": "regnetx_002",
    "vit": "test_vit",
    "deit-distilled": "deit_tiny_distilled_patch16_224",
    "swin": "swin_tiny_patch4_window7_224",
    "convnext": "test_convnext",
    "efficientnet": "test_efficientnet",
    "mobilenetv3": "mobilenetv3_small_050",
}


def engine(kind: str, name: str, **options: Any) -> TorchEngine:
    """An engine of a kind, "torch", "compiled" or "onnx", on a small backbone."""
    if kind == "onnx":
        return OnnxEngine(backbone(name), cache=KERNELS, device=DEVICE, **options)
    if kind == "compiled":
        return CompiledEngine(backbone(name), cache=KERNELS, **options)
    return TorchEngine(backbone(name), device=DEVICE, **options)


@cache
def backbone(name: str) -> StagedBackbone:
    """A timm model with seeded random weights, shared by all tests: it is frozen.

    Freshly initialised networks hardly look at their input. Statistics taken from pictures and
    layer scales away from zero make them as sensitive as trained ones are.
    """
    model = load_backbone(name, "random").model
    size = describe(name).preprocessing
    images_BCHW = normalize(pictures(4, size.height, size.width), size)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
            if isinstance(getattr(module, "gamma", None), torch.nn.Parameter):
                module.gamma.fill_(20.0)
        model.train()(images_BCHW)
    return StagedBackbone(model.eval(), describe(name))


def randomise(adapter: Adapter, seed: int = 0) -> Adapter:
    """Give every parameter and statistic a plain random value, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in adapter.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.empty_like(values).uniform_(-1, 1, generator=generator)
        if "bn" in name and name.endswith(("weight", "running_var")):
            values.copy_(1 + 0.5 * noise)
        elif name.endswith("beta"):
            values.fill_(0.5)
        else:
            fan_in = max(1, values[0].numel()) if values.ndim > 1 else 1
            values.copy_(noise * (3 / fan_in) ** 0.5)
    return adapter


def model(
    name: str = "test_resnet", classes: int = 4, seed: int = 0, **spec: object
) -> AdapterModel:
    """A randomised adapter on a small backbone."""
    frozen = backbone(name)
    prompt = prompt_spec(frozen.spec, **spec)  # type: ignore[arg-type]
    adapter = Adapter(prompt, head_spec(frozen.spec, classes), frozen.spec)
    return AdapterModel(frozen, randomise(adapter, seed)).eval()


def labels(classes: int) -> tuple[str, ...]:
    """Class names."""
    return tuple(f"class {number}" for number in range(classes))


@cache
def checkpoint(name: str = "test_resnet", classes: int = 4, seed: int = 0) -> Checkpoint:
    """The checkpoint of a randomised adapter."""
    provenance = Provenance(method="pro-tuning", data="made up", metrics={"test_top1": 0.5})
    return make_checkpoint(model(name, classes, seed), labels(classes), provenance)


def pixels(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random uint8 images [count, height, width, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Image.Image:
    """An RGB picture with large areas, edges and noise."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(-(-height // 4), 0)
    tiles = tiles.repeat(-(-width // 4), 1)[:height, :width]
    noise = rng.integers(0, 16, tiles.shape, dtype=np.uint8)
    return Image.fromarray(tiles // 2 + noise)


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Pictures as uint8 pixels [count, height, width, 3].

    What backbones are made for: plain noise drives the features of some a thousand times higher,
    and there float32 itself is off by 1e-4.
    """
    drawn = [np.asarray(picture(height, width, seed + number)) for number in range(count)]
    return torch.from_numpy(np.stack(drawn))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
