"""Which parts of a backbone are its last layers: what partial fine-tuning trains.

The paper gives counts, not names. Its "Partial-1" and "Partial-2" come out to the printed digit as
the last one or two bottlenecks of a ResNet; the last one or two convolutions of a RegNet in the
order of its modules (in RegNetX-32 the shortcut of the only block of its last stage, then also
that block's last convolution); the last MLP or block of a DeiT and the last linear layer or MLP of
a Swin, both with the final norm.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from adapters.backbone import StagedBackbone

Depth = Literal[1, 2]


def last_layers(backbone: StagedBackbone, depth: Depth) -> list[nn.Module]:
    """The parts that partial-`depth` trains besides the new head."""
    return _LAST[backbone.spec.family](backbone.model, depth)


def _resnet(model: Any, depth: Depth) -> list[nn.Module]:  # noqa: ANN401  timm has no types
    blocks = [*model.layer1, *model.layer2, *model.layer3, *model.layer4]
    return blocks[-depth:]


def _regnet(model: Any, depth: Depth) -> list[nn.Module]:  # noqa: ANN401
    last_block = [*model.s4.children()][-1]
    return [part for part in last_block.children() if any(True for _ in part.parameters())][-depth:]


def _vit(model: Any, depth: Depth) -> list[nn.Module]:  # noqa: ANN401
    block = model.blocks[-1]
    return [block.mlp if depth == 1 else block, model.norm, model.fc_norm]


def _swin(model: Any, depth: Depth) -> list[nn.Module]:  # noqa: ANN401
    mlp = model.layers[-1].blocks[-1].mlp
    return [mlp.fc2 if depth == 1 else mlp, model.norm]


def _convnext(model: Any, depth: Depth) -> list[nn.Module]:  # noqa: ANN401
    block = model.stages[-1].blocks[-1]
    return [block.mlp if depth == 1 else block, model.norm_pre, model.head.norm]


def _efficientnet(model: Any, depth: Depth) -> list[nn.Module]:  # noqa: ANN401
    last_convolution = [model.conv_head, getattr(model, "bn2", nn.Identity())]
    return last_convolution if depth == 1 else [model.blocks[-1][-1], *last_convolution]


_LAST: Mapping[str, Callable[[Any, Depth], list[nn.Module]]] = {
    "resnet": _resnet,
    "regnet": _regnet,
    "vit": _vit,
    "swin": _swin,
    "convnext": _convnext,
    "efficientnet": _efficientnet,
}
