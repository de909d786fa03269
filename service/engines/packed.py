"""Adapters in the order that the CPU kernels read: a block's tensors, and the plan of a row."""

from typing import get_args

import torch
from torch import Tensor

from adapters.manifest import MAX_BLOCKS_PER_SITE, Activation, Architecture
from adapters.prompt import FoldedPrompt
from adapters.proof import DtypeName
from service.engines.folded import FoldedAdapter, PromptLayout

# The fields of a plan: where the block begins in the bank (-1: there is none), kernel size, groups,
# width of the SE bottleneck, activation, and whether class tokens get the prompt's mean.
PLAN_FIELDS = 6
NO_BLOCK = -1
_ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def pack_prompts(adapter: FoldedAdapter, layout: PromptLayout, dtype: DtypeName) -> Tensor:
    """The adapter's prompts [size] with each tensor laid out as the kernels read it."""
    packed = torch.zeros_like(adapter.prompts)
    for blocks in layout.blocks.values():
        for place in blocks:
            tensors = place.views(adapter.prompts[place.start : place.stop])
            values = packed[place.start : place.stop]
            for tensor, target in zip(_pack(tensors, dtype), place.tensors, strict=True):
                values[target.offset : target.stop] = tensor.flatten()
    return packed


def _pack(block: FoldedPrompt, dtype: DtypeName) -> FoldedPrompt:
    """Inputs go down the rows of a panel, outputs along them; likewise taps and channels."""
    width = _panel_width(block.conv1_weight.shape[1])
    taps = block.conv2_weight[0].numel()
    return block._replace(
        conv1_weight=_pack_1x1(block.conv1_weight, dtype),
        conv2_weight=block.conv2_weight.flatten(1).view(-1, width, taps).transpose(1, 2),
        expand_weight=block.expand_weight.T,
        conv3_weight=_pack_1x1(block.conv3_weight, dtype),
    )


def _panel_width(per_group: int) -> int:
    """The channels that lie together: two vectors, one, or a group that vectors do not fill.

    As in kernels/products.h.
    """
    return next((width for width in (32, 16) if per_group % width == 0), per_group)


def _pack_1x1(weight: Tensor, dtype: DtypeName) -> Tensor:
    """[C, C/G, 1, 1] as panels [inputs, outputs]; in bfloat16 two inputs lie interleaved."""
    per_group = weight.shape[1]
    width = _panel_width(per_group)
    if dtype == "float32" or per_group % 2:
        return weight.view(-1, width, per_group).transpose(1, 2)
    return weight.view(-1, width, per_group // 2, 2).transpose(1, 2)


def plan_of(layout: PromptLayout, slot: int, architecture: Architecture) -> Tensor:
    """What the kernels need to know of a resident: int64 [sites, MAX_BLOCKS_PER_SITE, fields]."""
    sites = architecture.sites
    plan = torch.full((len(sites), MAX_BLOCKS_PER_SITE, PLAN_FIELDS), NO_BLOCK)
    for number, site in enumerate(sites):
        for block, place in enumerate(layout.blocks.get(site.name, ())):
            squeezed = place.tensors[FoldedPrompt._fields.index("reduce_bias")].shape[0]
            plan[number, block] = torch.tensor(
                [
                    slot * layout.size + place.start,
                    layout.spec.kernel_size,
                    layout.spec.groups,
                    squeezed,
                    _ACTIVATIONS.index(layout.spec.activation),
                    layout.spec.class_token == "mean",
                ]
            )
    return plan
