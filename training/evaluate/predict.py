"""Labelled images through a model, on the way that served images take."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adapters.manifest import Preprocessing
from adapters.preprocess import EvalTransform, normalize
from training.corruptions import Corruption
from training.data.dataset import ImageDataset
from training.data.samples import Progress, Sample
from training.errors import EmptyDataset

Precision = Literal["fp32", "bf16"]


class PassOptions(TypedDict, total=False):
    """How images go through the model: options of `predict_logits`, with its defaults."""

    batch_size: int
    device: str | torch.device
    precision: Precision
    workers: int


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    corruption: Corruption | None = None,
    workers: int = 0,
    on_progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `samples` through `model` in eval mode; the mode it was in comes back afterwards.

    Args:
        model: on `device`; normalised images [B, 3, H, W] -> logits [B, classes].
        samples: the images, in the order of the result.
        preprocessing: the backbone's.
        batch_size: images per pass.
        device: where the model is.
        precision: "bf16" runs under autocast.
        corruption: distorts each image after decoding.
        workers: processes that decode; 0 decodes in this one.
        on_progress: called with (done, total) images after every pass.

    Returns:
        Logits float32 [N, classes] and labels int64 [N], on the CPU.

    Raises:
        EmptyDataset: there is no sample.
        ImageError: an image cannot be decoded.
    """
    if not samples:
        raise EmptyDataset("There is no image to measure on. Add images, or widen the class map.")
    dataset = ImageDataset(samples, EvalTransform(preprocessing), corruption)
    kind = torch.device(device).type
    loader = DataLoader(dataset, batch_size, num_workers=workers, pin_memory=kind == "cuda")
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    done = 0
    with _eval_mode(model):
        for images_BHWC, labels_B in loader:
            images_BCHW = normalize(images_BHWC.to(device, non_blocking=True), preprocessing)
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
                logits.append(model(images_BCHW).float().cpu())
            labels.append(labels_B)
            done += len(labels_B)
            if on_progress:
                on_progress(done, len(samples))
    return torch.cat(logits), torch.cat(labels)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
