"""What an engine's dtype costs in accuracy: its answers on labelled images, beside the oracle's."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapters.backbone import StagedBackbone
from adapters.checkpoint import Checkpoint
from adapters.model import AdapterModel
from adapters.preprocess import EvalTransform
from benchmarks.engine import budget
from service.engines.base import EngineBatch, EngineSegment
from service.engines.choice import DtypeChoice, EngineKind, EngineOptions, open_engine
from service.engines.folded import fold_adapter
from service.settings import default_cache
from training.data.samples import Sample, labels_of
from training.evaluate import open_adapter_task


@dataclass(frozen=True)
class PrecisionResult:
    """Shares of the images: right answers of both, and answers in which they agree."""

    backbone: str
    engine: str
    dtype: str
    images: int
    oracle_top1: float
    engine_top1: float
    agreement: float


def measure(
    backbone: StagedBackbone,
    checkpoint: Checkpoint,
    data: str,
    *,
    kind: EngineKind,
    dtype: DtypeChoice,
    batch: int,
) -> PrecisionResult:
    """Run the test images of `data` through the adapter, one by one model and by the engine.

    Raises:
        AdapterError: the adapter is another backbone's.
        DataError: the images cannot be opened.
        EngineUnavailable: this machine cannot run what is asked for.
    """
    task = open_adapter_task(checkpoint, backbone, data)
    truth = torch.tensor(labels_of(task.samples))
    folded = fold_adapter(checkpoint)
    engine = open_engine(
        backbone, EngineOptions(kind, dtype, "cpu", budget([folded]), batch, default_cache())
    )
    slot = engine.load(folded)
    model = checkpoint.model(backbone)
    oracle, answers = [], []
    for images in _batches(backbone, task.samples, batch):
        oracle.append(_oracle(model, images))
        segment = EngineSegment(slot, 0, len(images))
        answers.append(engine.run(EngineBatch(images, None, (segment,)))[0].argmax(-1))
    right, ours = torch.cat(oracle), torch.cat(answers)
    return PrecisionResult(
        backbone=backbone.spec.name,
        engine=engine.name,
        dtype=engine.dtype,
        images=len(truth),
        oracle_top1=_share(right == truth),
        engine_top1=_share(ours == truth),
        agreement=_share(right == ours),
    )


def _batches(backbone: StagedBackbone, samples: Sequence[Sample], batch: int) -> Iterator[Tensor]:
    transform = EvalTransform(backbone.spec.preprocessing)
    left = iter(samples)
    while some := [*itertools.islice(left, batch)]:
        yield torch.from_numpy(np.stack([transform(sample.image()) for sample in some]))


@torch.no_grad()
def _oracle(model: AdapterModel, images: Tensor) -> Tensor:
    return model.predict(images).argmax(-1)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
