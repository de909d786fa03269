"""The order of training images: which make up which update of which epoch. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import InvalidConfig

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class BatchPlan:
    """Shuffled batches of nearly equal size, so that every image counts once an epoch.

    A batch is computed in `parts` on each of `ranks` processes. The order depends on the seed and
    the epoch alone, so that a run can begin anywhere.

    Attributes:
        images: in the training split.
        batch_size: the most images of one update, over all parts and processes.
        seed: of the order.
        parts: that a batch is computed in on each process, one after the other.
        ranks: processes that train together.
        rank: this process.
    """

    images: int
    batch_size: int
    seed: int
    parts: int = 1
    ranks: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        """Refuse parts without an image.

        Raises:
            InvalidConfig: a batch has fewer images than parts.
        """
        smallest, shares = self.images // self.updates, self.parts * self.ranks
        if smallest < shares:
            images = "1 image" if smallest == 1 else f"{smallest} images"
            raise InvalidConfig(
                f"A batch of {images} cannot be computed in {shares} parts (accumulation "
                "times devices). Take a larger --batch-size or a smaller --accumulation."
            )

    @property
    def updates(self) -> int:
        """Optimiser steps in an epoch."""
        return -(-self.images // self.batch_size)

    def batches(self, epoch: int) -> list[Indices]:
        """The images of each update of an epoch (from 0)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
        return np.array_split(order, self.updates)

    def parts_of(self, batch: Indices) -> list[Indices]:
        """What this process computes of a batch, part by part."""
        shares = np.array_split(batch, self.parts * self.ranks)
        return shares[self.rank :: self.ranks]

    def stream(self, epoch: int, update: int, epochs: int) -> Iterator[tuple[int, Indices]]:
        """(epoch, part) of all that this process computes, from `update` of `epoch` to the end."""
        for current in range(epoch, epochs):
            skipped = update if current == epoch else 0
            for batch in self.batches(current)[skipped:]:
                for part in self.parts_of(batch):
                    yield current, part
