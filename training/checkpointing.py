"""Gradient checkpointing by stages: a backbone stage is computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils.checkpoint import checkpoint

from adapters.backbone import StagedBackbone
from adapters.backbone.cut import Stage
from training.frozen import SparingFrozen


def checkpoint_stages(backbone: StagedBackbone) -> None:
    """Keep only the features between the stages of `backbone` for the backward pass."""
    norms = [module for module in backbone.modules() if isinstance(module, BatchNorm)]
    backbone.stages = tuple(partial(_run, stage, norms) for stage in backbone.stages)


def _run(stage: Stage, norms: list[BatchNorm], features: Tensor) -> Tensor:
    return checkpoint(
        stage,
        features,
        use_reentrant=False,
        context_fn=lambda: (SparingFrozen(), _again(norms)),
    )


@contextmanager
def _again(norms: list[BatchNorm]) -> Iterator[None]:
    """The second computation is as the first, but moves no running statistics once more."""
    tracking = [norm for norm in norms if norm.training and norm.track_running_stats]
    momenta = [norm.momentum for norm in tracking]
    for norm in tracking:
        norm.momentum = 0.0
    try:
        with SparingFrozen():
            yield
    finally:
        for norm, momentum in zip(tracking, momenta, strict=True):
            norm.momentum = momentum
