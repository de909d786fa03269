"""The prompt block of Pro-tuning and its folded form for inference, and the specs that shape it.

Section 3.1 of the paper gives three convolutions and an SE module; docs/decisions/0001 says how
their configuration was found.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.depthwise import depthwise_conv2d
from adapters.errors import InvalidSpec, first_error, shown
from adapters.manifest import (
    Activation,
    Architecture,
    ClassToken,
    Placement,
    PromptSpec,
    squeeze_channels,
)

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
}
NORM_EPS = 1e-5
_TRANSFORMERS = ("vit", "swin")


def prompt_spec(
    architecture: Architecture,
    *,
    sites: str = "stages",
    blocks: int = 1,
    kernel_size: int = 5,
    groups: int = 4,
    se_reduction: int | None = None,
    activation: Activation = "relu",
    beta: float | None = None,
    class_token: ClassToken = "mean",
) -> PromptSpec:
    """The prompt configuration for a backbone; the defaults are the paper's.

    Args:
        architecture: the backbone's.
        sites: "stages" for one place after every stage; "none" for a head alone; for a ViT F1,
            F5, L1, L5 or U5 (Table 10); or site names with commas between them.
        blocks: prompt blocks at each site, one after the other (Table 9).
        kernel_size: of the depthwise convolution, odd (Table 12).
        groups: of the 1x1 convolutions.
        se_reduction: C/r is the width of the SE bottleneck; 16 for CNNs, 4 for transformers.
        activation: of the block.
        beta: the constant of Eq. (1), or None to learn it (Table 11).
        class_token: what a ViT's class token receives, "mean" of the prompt or "none".

    Raises:
        InvalidSpec: the backbone cannot carry it.
    """
    if se_reduction is None:
        se_reduction = 4 if architecture.family in _TRANSFORMERS else 16
    try:
        spec = PromptSpec(
            placements=_placements(architecture, sites, blocks),
            kernel_size=kernel_size,
            groups=groups,
            se_reduction=se_reduction,
            activation=activation,
            beta=beta,
            class_token=class_token,
        )
    except ValidationError as error:
        raise InvalidSpec(f"The prompt configuration is not valid. {first_error(error)}") from error
    check_spec(spec, architecture)
    return spec


def _placements(architecture: Architecture, sites: str, blocks: int) -> tuple[Placement, ...]:
    if sites == "none":
        return ()
    if sites == "stages":
        names = architecture.stage_sites
    elif sites in ("F1", "F5", "L1", "L5", "U5"):
        names, blocks = _table_10(architecture, sites, blocks)
    else:
        names = tuple(name.strip() for name in sites.split(","))
        _check_names(names, architecture)
    return tuple(Placement(site=name, blocks=blocks) for name in names)


def _table_10(architecture: Architecture, sites: str, blocks: int) -> tuple[tuple[str, ...], int]:
    """The inserting positions of Table 10 as site names and blocks at each."""
    if architecture.family != "vit" or blocks != 1:
        raise InvalidSpec(
            f"The position {sites} (Table 10) is for ViTs and says itself how many blocks it has. "
            "Take --sites stages or site names, or leave --blocks out."
        )
    if sites == "U5":
        return architecture.stage_sites, 1
    site = "layer1" if sites.startswith("F") else architecture.stage_sites[-1]
    return (site,), int(sites[1:])


def _check_names(names: Collection[str], architecture: Architecture) -> None:
    known = [site.name for site in architecture.sites]
    if strange := [name for name in names if name not in known]:
        raise InvalidSpec(
            f"{architecture.name} has no prompt site {shown(strange[0])}. It has "
            f"{', '.join(known)}: take --sites stages for one after each stage, or some of these "
            "with commas."
        )


def check_spec(spec: PromptSpec, architecture: Architecture) -> None:
    """Refuse a configuration that the backbone cannot carry.

    Raises:
        InvalidSpec: an unknown site, sites out of order, or channels that the groups do not divide.
    """
    names = [site.name for site in architecture.sites]
    placed = [placement.site for placement in spec.placements]
    if placed != [name for name in names if name in placed]:
        raise InvalidSpec(
            f"The prompt sites {', '.join(placed)} are not sites of {architecture.name} in its "
            f"order. It has {', '.join(names)}."
        )
    for site in architecture.sites:
        if site.name in placed and site.channels % spec.groups:
            raise InvalidSpec(
                f"The {site.channels} channels of {architecture.name} at {site.name} cannot be "
                f"split into {spec.groups} groups. Take --groups that divides them, or 1."
            )


class SqueezeExcite(nn.Module):
    """Channel gates from the map's spatial mean (SENet): C -> C/r -> C, both layers biased.

    SiLU in between: at 16 channels the bottleneck is one unit wide, and a ReLU there is dead for
    half of all initialisations.
    """

    def __init__(self, channels: int, spec: PromptSpec) -> None:
        super().__init__()
        squeezed = squeeze_channels(channels, spec.se_reduction)
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The map with each channel scaled by its gate in (0, 1)."""
        squeezed_BR = F.silu(self.reduce(map_BCHW.mean(dim=(2, 3))))
        return map_BCHW * self.expand(squeezed_BR).sigmoid()[:, :, None, None]


class PromptBlock(nn.Module):
    """beta * f(x) of Eq. (1) for a map [B, C, H, W].

    f is a grouped 1x1 convolution, a depthwise k x k convolution, an SE module and a grouped 1x1
    convolution; BatchNorm after each convolution, an activation after the first two.
    """

    def __init__(self, channels: int, spec: PromptSpec) -> None:
        super().__init__()
        self.spec = spec
        k = spec.kernel_size
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=spec.groups)
        self.bn1 = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels)
        self.bn2 = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self.se = SqueezeExcite(channels, spec)
        self.conv3 = nn.Conv2d(channels, channels, 1, groups=spec.groups)
        self.bn3 = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self._activation = ACTIVATIONS[spec.activation]
        self.beta: Tensor | float = (
            nn.Parameter(torch.tensor(1.0)) if spec.beta is None else spec.beta
        )
        # The block starts as the identity: f = 0, and the gradient reaches this scale at once.
        nn.init.zeros_(self.bn3.weight)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The prompt [B, C, H, W], to be added to the features."""
        x = self._activation(self.bn1(self.conv1(map_BCHW)))
        x = self._activation(self.bn2(self._depthwise(x)))
        x = self.bn3(self.conv3(self.se(x)))
        return self.beta * x

    def _depthwise(self, map_BCHW: Tensor) -> Tensor:
        if not map_BCHW.is_cpu:
            output: Tensor = self.conv2(map_BCHW)
            return output
        assert self.conv2.bias is not None  # noqa: S101  made with one
        with torch.autocast("cpu", enabled=False):
            return depthwise_conv2d(map_BCHW, self.conv2.weight, self.conv2.bias)

    def fold(self) -> "FoldedPrompt":
        """The same function in eval mode; see `fold_block`."""
        return fold_block(self.state_dict(), self.spec)


@torch.no_grad()
def fold_block(state: Mapping[str, Tensor], spec: PromptSpec) -> "FoldedPrompt":
    """A block in eval mode from its state, with BatchNorms and beta inside the convolutions.

    Folded in float64 and rounded once; equal to the block within 1e-5 * max(1, max|y|).
    """
    conv1_weight, conv1_bias = _fold_norm(state, "conv1", "bn1")
    conv2_weight, conv2_bias = _fold_norm(state, "conv2", "bn2")
    conv3_weight, conv3_bias = _fold_norm(state, "conv3", "bn3")
    beta = state["beta"].double() if spec.beta is None else spec.beta
    return FoldedPrompt(
        conv1_weight.float(),
        conv1_bias.float(),
        conv2_weight.float(),
        conv2_bias.float(),
        state["se.reduce.weight"].clone(),
        state["se.reduce.bias"].clone(),
        state["se.expand.weight"].clone(),
        state["se.expand.bias"].clone(),
        (beta * conv3_weight).float(),
        (beta * conv3_bias).float(),
    )


def _fold_norm(state: Mapping[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64 of the convolution that equals `conv` and then `norm`."""
    mean, variance, gain, shift = (
        state[f"{norm}.{name}"].double()
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    scale = gain / torch.sqrt(variance + NORM_EPS)
    weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
    bias = (state[f"{conv}.bias"].double() - mean) * scale + shift
    return weight, bias


class FoldedPrompt(NamedTuple):
    """The tensors of one prompt block in its inference form.

    Shapes for C channels, G groups, kernel k and SE width R: conv1 and conv3 [C, C/G, 1, 1], conv2
    [C, 1, k, k], reduce [R, C], expand [C, R]; biases as long as the outputs.
    """

    conv1_weight: Tensor
    conv1_bias: Tensor
    conv2_weight: Tensor
    conv2_bias: Tensor
    reduce_weight: Tensor
    reduce_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    conv3_weight: Tensor
    conv3_bias: Tensor

    def prompt(self, map_BCHW: Tensor, activation: Activation) -> Tensor:
        """The prompt, beta * f(x), for a map [B, C, H, W]."""
        act = ACTIVATIONS[activation]
        channels, per_group, _, _ = self.conv1_weight.shape
        groups = channels // per_group
        x = act(F.conv2d(map_BCHW, self.conv1_weight, self.conv1_bias, groups=groups))
        padding = self.conv2_weight.shape[-1] // 2
        x = act(F.conv2d(x, self.conv2_weight, self.conv2_bias, padding=padding, groups=channels))
        squeezed_BR = F.silu(F.linear(x.mean(dim=(2, 3)), self.reduce_weight, self.reduce_bias))
        gates_BC = F.linear(squeezed_BR, self.expand_weight, self.expand_bias).sigmoid()
        x = x * gates_BC[:, :, None, None]
        return F.conv2d(x, self.conv3_weight, self.conv3_bias, groups=groups)
