"""The CPU engine: frozen stages compiled around kernels that read each row's own weights."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor import config as inductor_config

from adapters.backbone import StagedBackbone
from adapters.backbone.layout import ChannelsFirst, MapLayout, Tokens
from adapters.manifest import MAX_BLOCKS_PER_SITE
from adapters.preprocess import normalize
from adapters.proof import DtypeName
from service.engines.base import EngineBatch, Slot
from service.engines.folded import FoldedAdapter
from service.engines.kernels.build import load_kernels
from service.engines.packed import NO_BLOCK, PLAN_FIELDS, pack_prompts, plan_of
from service.engines.torch_engine import TorchEngine
from service.errors import EngineUnavailable

# A primitive is made for every layer and batch size; the libraries' own limit is 1,024.
_PRIMITIVES = "16384"
_PROCESSORS: dict[DtypeName, tuple[str, ...]] = {
    "float32": ("AVX512", "AVX2"),
    "bfloat16": ("AVX512",),
}
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@dataclass(frozen=True)
class _Site:
    """A prompt site as the kernel knows it: its number, and the size of its map."""

    number: int
    height: int
    width: int


class CompiledEngine(TorchEngine):
    """See `service.engines.base.Engine`: a CPU engine that is compiled for its backbone.

    The passes are compiled at the first warm-up, which takes a minute or two, and from the cache
    after that. No batch, however mixed and of whatever size, compiles anything again: what differs
    from batch to batch is data, a plan for each row that says where its prompts lie.

    Args:
        backbone: Copied, so that the caller's stays as it is.
        capacity_bytes: The budget for adapters, reserved at once.
        dtype: Of backbone, prompts and heads; bfloat16 wants a processor with AVX-512.
        cache: Where compiled code is kept.

    Raises:
        EngineUnavailable: this machine cannot build or run the kernels.
    """

    name = "compiled"

    def __init__(
        self,
        backbone: StagedBackbone,
        *,
        capacity_bytes: int,
        cache: Path,
        dtype: DtypeName = "float32",
    ) -> None:
        _require_processor(dtype)
        for variable in _CACHES:
            os.environ.setdefault(variable, _PRIMITIVES)
        keep_compiled_code(cache)
        load_kernels(cache)
        super().__init__(backbone, capacity_bytes=capacity_bytes, dtype=dtype)
        self._plans: dict[Slot, Tensor] = {}
        self._sites = {
            site.name: _Site(number, site.height, site.width)
            for number, site in enumerate(self.spec.sites)
        }
        self._normalise = compile_frozen(self._normalised)
        self._start = compile_frozen(self._backbone.stages[0])
        self._finish = compile_frozen(self._finished)

    def load(self, adapter: FoldedAdapter) -> Slot:
        """Copy an adapter into the reserved memory, in the order that the kernels read.

        Raises:
            EngineFull: there is no room in one piece; unload something and try again.
            InvalidSpec: the adapter was folded for another architecture.
        """
        layout = self._bank.layout_of(adapter)
        slot = super().load(replace(adapter, prompts=pack_prompts(adapter, layout, self.dtype)))
        self._plans[slot] = plan_of(layout, self._resident(slot).slot, self.spec)
        return slot

    def unload(self, slot: Slot) -> None:
        """Free a slot; no running batch may name it.

        Raises:
            UnknownSlot: it is not loaded.
        """
        super().unload(slot)
        del self._plans[slot]

    @torch.no_grad()
    def run(self, batch: EngineBatch) -> list[Tensor]:
        """The logits of each segment, float32 [rows, classes].

        Raises:
            UnknownSlot: a segment's slot is not loaded.
            ValueError: the images are not of the backbone's input size.
        """
        residents = [self._resident(segment.slot) for segment in batch.segments]
        features = self._start(_sized(self._input(batch)))
        if batch.rows is not None:
            features = _rows(features, batch.rows)
        plans = torch.stack([self._plans[s.slot] for s in batch.segments for _ in range(s.rows)])
        pooled = self._finish(_sized(features), self._bank.buffer, _sized(plans))
        return torch.ops.protuning.head_rows(
            pooled.float().contiguous(),
            self._bank.heads,
            [resident.head_rows for resident in residents],
            [segment.rows for segment in batch.segments],
        )

    @torch.no_grad()
    def features(self, images_UHWC: Tensor) -> Tensor:
        """The pooled features [U, feature_dim] of uint8 images without any adapter.

        Raises:
            ValueError: the images are not of the backbone's input size.
        """
        shape = (len(images_UHWC), len(self._sites), MAX_BLOCKS_PER_SITE, PLAN_FIELDS)
        features = self._start(_sized(self._pixels(images_UHWC)))
        plans = torch.full(shape, NO_BLOCK)
        return self._finish(_sized(features), self._bank.buffer, _sized(plans))

    def warm_up(self, batch_sizes: Iterable[int]) -> None:
        """Compile the passes, and prepare each layer for every size up to the largest one."""
        super().warm_up(range(1, max(batch_sizes, default=0) + 1))

    def _pixels(self, images_UHWC: Tensor) -> Tensor:
        self._require_size(images_UHWC.shape[1:3])
        return self._normalise(_sized(images_UHWC))

    def _normalised(self, images_UHWC: Tensor) -> Tensor:
        pixels = normalize(images_UHWC, self.spec.preprocessing)
        return pixels.to(self._dtype, memory_format=torch.channels_last)

    def _finished(self, features: Tensor, bank: Tensor, plans: Tensor) -> Tensor:
        """From the first site, where rows become their tasks' own, to the pooled features."""
        first, *others = self.spec.sites
        features = self._blend(first.name, features, bank, plans)
        for stage, site in zip(self._backbone.stages[1:], others, strict=True):
            features = self._blend(site.name, stage(features), bank, plans)
        return self._backbone.pool(features)

    def _blend(self, name: str, features: Tensor, bank: Tensor, plans: Tensor) -> Tensor:
        site, layout = self._sites[name], self._backbone.layout
        features, rows_BTC = _as_rows(features, layout)
        class_tokens = layout.class_tokens if isinstance(layout, Tokens) else 0
        torch.ops.protuning.prompt_rows_(
            rows_BTC, class_tokens, site.height, site.width, bank, plans, site.number
        )
        return features


def keep_compiled_code(cache: Path) -> None:
    """Have torch.compile keep its code below `cache`.

    Not below /tmp, its own default, where other users could have put code to run.
    """
    # (torch has set it to that by now, on the import of libraries that compile.)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    # For compiled headers it asks nobody. (Imported late: only those who compile need it.)
    from torch._inductor import codecache

    headers = cache / "inductor" / "precompiled_headers"
    codecache._HEADER_DIR = str(headers)  # noqa: SLF001
    codecache._HEADER_LOCK_DIR = str(headers / "locks")  # noqa: SLF001


def _require_processor(dtype: DtypeName) -> None:
    """Raise EngineUnavailable where the kernels' matrix products have no implementation."""
    has = torch.backends.cpu.get_cpu_capability()
    if has not in _PROCESSORS[dtype]:
        raise EngineUnavailable(
            f"The compiled engine in {dtype} needs a processor with {_PROCESSORS[dtype][-1]}, and "
            f"this one has {has}. Take the engine torch, or float32."
        )


def compile_frozen(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile what a frozen backbone does: weights become constants, laid out as each layer likes.

    Call the result without gradients, from one thread.
    """
    # Called from C++ the layers leave the interpreter to the event loop and to decoders meanwhile.
    compiled = torch.compile(function, fullgraph=True, options={"cpp_wrapper": True})
    # As one of the options this would come too late for the tracing, to which all weights would be
    # inputs then: each call would lay them out anew.
    freezing: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    freezing = inductor_config.patch(freezing=True)
    return freezing(compiled)


def _sized(values: Tensor) -> Tensor:
    """Say that the number of rows changes from batch to batch; one row has code of its own."""
    if len(values) > 1:
        torch._dynamo.mark_dynamic(values, 0)  # noqa: SLF001  the documented way to say it
    return values


def _as_rows(features: Tensor, layout: MapLayout) -> tuple[Tensor, Tensor]:
    """The features with the channels last in memory, and a view of them [B, tokens, C]."""
    if isinstance(layout, ChannelsFirst):
        features = features.contiguous(memory_format=torch.channels_last)
        return features, features.permute(0, 2, 3, 1).flatten(1, 2)
    features = features.contiguous()
    return features, features if isinstance(layout, Tokens) else features.flatten(1, 2)


def _rows(features: Tensor, rows: Tensor) -> Tensor:
    """Features of the images of `rows`, in the memory order that they have."""
    if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
        return features.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return features.index_select(0, rows)
