"""An adapter in the form that engines load: its prompts in one buffer, and how that is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from adapters.checkpoint import Checkpoint
from adapters.manifest import Architecture, PromptSpec
from adapters.model import Adapter, fold_prompts
from adapters.prompt import FoldedPrompt, PromptBlock, check_spec
from adapters.proof import DtypeName

TORCH_DTYPES: dict[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}
# Every tensor starts at a cache line, 64 bytes, in either dtype, as fast kernels want it.
_ALIGNMENT = 32


class TensorPlace(NamedTuple):
    """Where one tensor lies in a prompt buffer."""

    offset: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The offset after its last value."""
        return self.offset + prod(self.shape)

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor, without a copy, in a buffer [..., size]: [..., *shape]."""
        return buffer[..., self.offset : self.stop].view(*buffer.shape[:-1], *self.shape)


class BlockPlace(NamedTuple):
    """Where one prompt block lies in a prompt buffer: values `start` to `stop` (exclusive)."""

    start: int
    stop: int
    tensors: tuple[TensorPlace, ...]

    def views(self, buffer: Tensor) -> FoldedPrompt:
        """The block's tensors, without a copy, in its values [..., stop - start]."""
        return FoldedPrompt(*(place.view(buffer) for place in self.tensors))


class PromptLayout:
    """Where each tensor of an adapter with `spec` lies in its one buffer: site by site, in order.

    Attributes:
        spec: the configuration of the blocks.
        size: how many values the buffer has.
        blocks: by site; a site without prompts is not there.
    """

    def __init__(self, spec: PromptSpec, architecture: Architecture) -> None:
        """Lay the buffer out.

        Raises:
            InvalidSpec: the backbone cannot carry `spec`.
        """
        check_spec(spec, architecture)
        self.spec = spec
        self.size = 0
        self.blocks: dict[str, tuple[BlockPlace, ...]] = {}
        channels = {site.name: site.channels for site in architecture.sites}
        for placement in spec.placements:
            shapes = _block_shapes(channels[placement.site], spec)
            places = [self._append(shapes) for _ in range(placement.blocks)]
            self.blocks[placement.site] = tuple(places)

    def _append(self, shapes: list[tuple[int, ...]]) -> BlockPlace:
        places = []
        offset = 0
        for shape in shapes:
            places.append(TensorPlace(offset, shape))
            offset = -(-places[-1].stop // _ALIGNMENT) * _ALIGNMENT
        block = BlockPlace(self.size, self.size + offset, tuple(places))
        self.size = block.stop
        return block


def _block_shapes(channels: int, spec: PromptSpec) -> list[tuple[int, ...]]:
    """Taken from a real block without memory, so that they cannot drift from it."""
    with torch.device("meta"):
        folded = PromptBlock(channels, spec).fold()
    return [tuple(values.shape) for values in folded]


@dataclass(frozen=True, eq=False)
class FoldedAdapter:
    """One adapter version for inference, on the host in float32.

    Attributes:
        key: the checkpoint's digest.
        spec: of the prompts; `beta` is None, because its value is in the weights.
        prompts: the prompt blocks in one buffer [size], see `PromptLayout`.
        head_weight: [classes, feature_dim].
        head_bias: [classes].
    """

    key: str
    spec: PromptSpec
    prompts: Tensor = field(repr=False)
    head_weight: Tensor = field(repr=False)
    head_bias: Tensor = field(repr=False)

    def nbytes(self, dtype: DtypeName = "float32") -> int:
        """How many bytes its values take in `dtype`."""
        values = self.prompts.numel() + self.head_weight.numel() + self.head_bias.numel()
        return values * TORCH_DTYPES[dtype].itemsize


def fold_adapter(checkpoint: Checkpoint) -> FoldedAdapter:
    """The adapter of a checkpoint, folded; this is done once per load."""
    manifest = checkpoint.manifest
    return _fold(checkpoint.state, manifest.prompt, manifest.backbone, checkpoint.digest)


def fold(adapter: Adapter, architecture: Architecture, *, key: str) -> FoldedAdapter:
    """An adapter, folded."""
    return _fold(adapter.state_dict(), adapter.prompt_spec, architecture, key)


def _fold(
    state: Mapping[str, Tensor], spec: PromptSpec, architecture: Architecture, key: str
) -> FoldedAdapter:
    """Put BatchNorms and betas into the convolutions, and these into one buffer."""
    # Adapters that differ in beta alone run together once it is folded.
    folded_spec = spec.model_copy(update={"beta": None})
    layout = _layout(folded_spec, architecture)
    prompts = torch.zeros(layout.size)
    for site, blocks in fold_prompts(state, spec).items():
        for place, block in zip(layout.blocks[site], blocks, strict=True):
            views = place.views(prompts[place.start : place.stop])
            for view, values in zip(views, block, strict=True):
                view.copy_(values)
    return FoldedAdapter(key, folded_spec, prompts, state["head.weight"], state["head.bias"])


@lru_cache(maxsize=64)
def _layout(spec: PromptSpec, architecture: Architecture) -> PromptLayout:
    """To lay a buffer out takes longer than to fill it."""
    return PromptLayout(spec, architecture)
