"""What an engine is: batches in, logits out, and a fixed budget of memory for adapters."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from adapters.manifest import BackboneSpec
from adapters.proof import DtypeName
from service.engines.folded import FoldedAdapter


@dataclass(frozen=True, slots=True)
class Slot:
    """The handle of a loaded adapter: valid until it is unloaded, and never given out again."""

    number: int


@dataclass(frozen=True, slots=True)
class EngineSegment:
    """Rows `start` to `stop` (exclusive) of a batch, all for the adapter in `slot`."""

    slot: Slot
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class EngineBatch:
    """One pass through the backbone.

    Args:
        images: uint8 pixels [U, H, W, 3] of the backbone's input size.
        rows: int64 [R], row r runs image `rows[r]`, so that several tasks can share an image;
            None where row r runs image r.
        segments: They cover the rows 0 to R in order, each with one row at least.
        normalised: Further images as the backbone takes them, float32 [V, 3, H, W], counted from
            U on; None in nearly every batch.

    Raises:
        ValueError: images that are not such arrays, or segments that leave rows out.
    """

    images: Tensor
    rows: Tensor | None
    segments: tuple[EngineSegment, ...]
    normalised: Tensor | None = None

    @property
    def distinct_images(self) -> int:
        """How many images there are of either kind, U + V."""
        return len(self.images) + (0 if self.normalised is None else len(self.normalised))

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(
                f"Images are uint8 [U, H, W, 3], not {self.images.dtype} {[*self.images.shape]}."
            )
        more = self.normalised
        if more is not None and (more.dtype != torch.float32 or more.shape[1:2] != (3,)):
            raise ValueError(
                f"Normalised images are float32 [V, 3, H, W], not {more.dtype} {[*more.shape]}."
            )
        count = self.distinct_images if self.rows is None else len(self.rows)
        bounds = [0, *(segment.stop for segment in self.segments)]
        starts = [segment.start for segment in self.segments]
        if starts != bounds[:-1] or bounds[-1] != count or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(f"The segments {self.segments} do not cover {count} rows in order.")


class Engine(Protocol):
    """A frozen backbone, adapters in slots, and mixed batches.

    `run` and `warm_up` are called by one thread. Other threads may load and unload meanwhile,
    but never unload a slot that a running batch names.

    Attributes:
        name: of the kind of engine ("torch"); a proof holds for one kind.
        dtype: that backbone, prompts and heads are in.
        device: "cpu", "cuda", "cuda:1", ...
        spec: the backbone's.
    """

    name: str
    dtype: DtypeName
    device: str
    spec: BackboneSpec

    @property
    def capacity_bytes(self) -> int:
        """The budget for adapters, all of it reserved from the start."""
        ...

    @property
    def used_bytes(self) -> int:
        """The part of the budget that loaded adapters hold."""
        ...

    def adapter_bytes(self, adapter: FoldedAdapter) -> int:
        """What the adapter takes of the budget."""
        ...

    def load(self, adapter: FoldedAdapter) -> Slot:
        """Copy an adapter into the reserved memory.

        Raises:
            EngineFull: there is no room in one piece; unload something and try again.
            InvalidSpec: the adapter was folded for another architecture.
        """
        ...

    def unload(self, slot: Slot) -> None:
        """Free a slot. What lay there is overwritten whole before the memory is read again.

        Raises:
            UnknownSlot: it is not loaded.
        """
        ...

    def run(self, batch: EngineBatch) -> list[Tensor]:
        """The logits of each segment, float32 [rows, classes] on the host.

        Raises:
            UnknownSlot: a segment's slot is not loaded.
            ValueError: the images are not of the backbone's input size.
        """
        ...

    def warm_up(self, batch_sizes: Iterable[int]) -> None:
        """Run the backbone once for each number of images, so that no request pays for it."""
        ...
