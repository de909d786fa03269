"""A mixed batch on its way through the backbone: each row with the prompts and head of its task."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.backbone.layout import MapLayout
from adapters.manifest import Activation
from adapters.prompt import ACTIVATIONS, FoldedPrompt
from service.engines.bank import AdapterBank, Resident
from service.engines.base import EngineBatch
from service.engines.folded import BlockPlace, PromptLayout

# Gathering a block's weights for every row beats calling its convolutions for every segment where
# the block and the map of a row are small together (measured on a CPU, in batches of 8).
_MOST_GATHERED_VALUES = 2**18


@dataclass(frozen=True, eq=False)
class Part:
    """Rows `start` to `stop` of the arranged batch, all for one resident."""

    resident: Resident
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbouring parts with one layout, which go through a site's prompts in one call."""

    layout: PromptLayout
    parts: tuple[Part, ...]

    @property
    def rows(self) -> slice:
        """Its rows of the arranged batch."""
        return slice(self.parts[0].start, self.parts[-1].stop)


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The rows of a batch in the order of their layouts.

    Attributes:
        images: int64 [R], the image of each row; None where row r has image r.
        groups: cover the rows in order.
        places: of the batch's segments among the parts of all groups.
    """

    images: Tensor | None
    groups: tuple[Group, ...]
    places: tuple[int, ...]

    @property
    def parts(self) -> list[Part]:
        """The parts of all groups, in order."""
        return [part for group in self.groups for part in group.parts]


def arrange(batch: EngineBatch, residents: Sequence[Resident]) -> Arrangement:
    """Bring segments with the same layout together; `residents` are those of the segments."""
    by_layout: dict[PromptLayout, list[int]] = {}
    for number, resident in enumerate(residents):
        by_layout.setdefault(resident.layout, []).append(number)
    order = [number for members in by_layout.values() for number in members]
    groups, stop = [], 0
    for layout, members in by_layout.items():
        parts = []
        for number in members:
            start, stop = stop, stop + batch.segments[number].rows
            parts.append(Part(residents[number], start, stop))
        groups.append(Group(layout, tuple(parts)))
    places = sorted(range(len(order)), key=order.__getitem__)
    return Arrangement(_images_of_rows(batch, order), tuple(groups), tuple(places))


def _images_of_rows(batch: EngineBatch, order: list[int]) -> Tensor | None:
    if batch.rows is None and order == sorted(order):
        return None
    segments = [batch.segments[number] for number in order]
    rows = torch.cat([torch.arange(segment.start, segment.stop) for segment in segments])
    return rows if batch.rows is None else batch.rows[rows]


class MixedPass:
    """One pass of an arranged batch; `at_site` is what the backbone calls between its stages.

    Images that several rows share stay one until the first site with prompts.
    """

    def __init__(self, arrangement: Arrangement, bank: AdapterBank, layout: MapLayout) -> None:
        self._groups = arrangement.groups
        self._parts = arrangement.parts
        self._places = arrangement.places
        self._bank = bank
        self._layout = layout
        self._images = arrangement.images

    def at_site(self, site: str, features: Tensor) -> Tensor:
        """The features with the prompts of every row's task blended in, where there are any."""
        if not any(site in group.layout.blocks for group in self._groups):
            return features
        features = self._spread(features)
        blended = [self._blend(group, site, features[group.rows]) for group in self._groups]
        return torch.cat(blended) if len(blended) > 1 else blended[0]

    def logits(self, pooled: Tensor) -> list[Tensor]:
        """Pooled features [rows, feature_dim] -> the logits of each segment of the batch.

        Float32 [rows, classes] on the host. The product is taken in float32 in any dtype: rounded
        to bfloat16, the logits of different classes would tie.
        """
        features = self._spread(pooled).float()
        rows = torch.cat([part.resident.head_rows for part in self._parts])
        heads = self._bank.heads.index_select(0, rows).float()
        classes = [len(part.resident.head_rows) for part in self._parts]
        products = [
            torch.addmm(head[:, -1], features[part.start : part.stop], head[:, :-1].T)
            for part, head in zip(self._parts, torch.split(heads, classes), strict=True)
        ]
        # One copy to the host: each waits for the device.
        flat = torch.cat([product.flatten() for product in products]).cpu()
        sizes = [product.numel() for product in products]
        answers = [
            values.view(product.shape)
            for values, product in zip(torch.split(flat, sizes), products, strict=True)
        ]
        return [answers[place] for place in self._places]

    def _spread(self, features: Tensor) -> Tensor:
        """Give every row features of its own, the first time that it is asked for."""
        images, self._images = self._images, None
        return features if images is None else features.index_select(0, images.to(features.device))

    def _blend(self, group: Group, site: str, features: Tensor) -> Tensor:
        """Eq. (1) at one site for the rows of one group: x + beta * f(x), once for each block."""
        spec = group.layout.spec
        for block in group.layout.blocks.get(site, ()):
            map_BCHW = self._layout.read(features)
            prompt_BCHW = self._prompt(group, block, map_BCHW)
            features = self._layout.blend(features, prompt_BCHW, spec.class_token)
        return features

    def _prompt(self, group: Group, block: BlockPlace, map_BCHW: Tensor) -> Tensor:
        activation = group.layout.spec.activation
        values = self._bank.prompts(group.layout)[:, block.start : block.stop]
        slots = [part.resident.slot for part in group.parts]
        if len(slots) == len(map_BCHW) > 1 and _is_small(block, map_BCHW):
            gathered = values.index_select(0, torch.tensor(slots, device=values.device))
            return prompt_by_row(block.views(gathered), map_BCHW, activation)
        maps = torch.split(map_BCHW, [part.stop - part.start for part in group.parts])
        prompts = [
            block.views(values[slot]).prompt(map_nCHW, activation)
            for slot, map_nCHW in zip(slots, maps, strict=True)
        ]
        return torch.cat(prompts)


def _is_small(block: BlockPlace, map_BCHW: Tensor) -> bool:
    return block.stop - block.start + map_BCHW[0].numel() <= _MOST_GATHERED_VALUES


def prompt_by_row(block: FoldedPrompt, map_BCHW: Tensor, activation: Activation) -> Tensor:
    """The prompts of a map [B, C, H, W], row b with the block's tensors [B, ...] at b."""
    act = ACTIVATIONS[activation]
    batch, channels, height, width = map_BCHW.shape
    x = act(_grouped_1x1(map_BCHW, block.conv1_weight, block.conv1_bias))
    # To a depthwise convolution, more images are more channels.
    x = F.conv2d(
        x.reshape(1, batch * channels, height, width),
        block.conv2_weight.flatten(0, 1),
        block.conv2_bias.flatten(),
        padding=block.conv2_weight.shape[-1] // 2,
        groups=batch * channels,
    )
    x = act(x).view(batch, channels, height, width)
    mean_BC1 = x.mean(dim=(2, 3))[:, :, None]
    squeezed_BR1 = F.silu(_linear(mean_BC1, block.reduce_weight, block.reduce_bias))
    gates_BC1 = _linear(squeezed_BR1, block.expand_weight, block.expand_bias)
    x = x * gates_BC1.sigmoid()[:, :, :, None]
    return _grouped_1x1(x, block.conv3_weight, block.conv3_bias)


def _linear(x_BI1: Tensor, weight_BOI: Tensor, bias_BO: Tensor) -> Tensor:
    """A linear layer of its own per row: [B, O, 1]."""
    return torch.baddbmm(bias_BO[:, :, None], weight_BOI, x_BI1)


def _grouped_1x1(map_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A grouped 1x1 convolution of its own per row: weight [B, C, C/G, 1, 1], bias [B, C]."""
    batch, channels, per_group = weight.shape[:3]
    groups = batch * channels // per_group
    x = torch.baddbmm(
        bias.reshape(groups, per_group, 1),
        weight.reshape(groups, per_group, per_group),
        map_BCHW.reshape(groups, per_group, -1),
    )
    return x.view(map_BCHW.shape)
