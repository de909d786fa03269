"""Samples as a torch `Dataset`: what a data loader reads."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from PIL import Image
from torch.utils.data import Dataset

from training.corruptions import Corruption
from training.data.samples import Sample

T = TypeVar("T")


class ImageDataset(Dataset[tuple[T, int]], Generic[T]):
    """(transformed image, label) of each sample; workers of any start method can read it."""

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Callable[[Image.Image], T],
        corruption: Corruption | None = None,
    ) -> None:
        """Read `samples`; `corruption` distorts the decoded image before `transform`."""
        self.samples = samples
        self.transform = transform
        self.corruption = corruption

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[T, int]:
        sample = self.samples[index]
        image = sample.image()
        if self.corruption is not None:
            image = self.corruption(image, sample.name)
        return self.transform(image), sample.label
