"""Training's view of an image: timm's augmentation in four strengths, and its randomness.

The default is without mirror images: digits, letters and hands are not what they were in a mirror.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform
from torch.utils.data import Dataset

from adapters.manifest import Preprocessing
from adapters.preprocess import EvalTransform
from training.config import Augment
from training.data.dataset import ImageDataset

Transform = Callable[[Image.Image], NDArray[np.uint8]]

# timm's options: scale is the share of the area that a crop keeps, ratio its change of shape.
_STRENGTHS: Mapping[Augment, dict[str, Any]] = {
    "light": {"scale": (0.6, 1.0), "ratio": (0.85, 1.18), "hflip": 0.0, "color_jitter": None},
    "medium": {"scale": (0.35, 1.0), "hflip": 0.5, "color_jitter": 0.2},
    "strong": {"scale": (0.08, 1.0), "hflip": 0.5, "auto_augment": "rand-m9-mstd0.5-inc1"},
}


def train_transform(preprocessing: Preprocessing, augment: Augment) -> Transform:
    """An RGB image to uint8 pixels [H, W, 3]; "none" is the evaluation transform."""
    if augment == "none":
        return EvalTransform(preprocessing)
    return _RandomTransform(preprocessing, _STRENGTHS[augment])


class _RandomTransform:
    """timm's training transform up to the uint8 pixels; the device normalises them."""

    def __init__(self, preprocessing: Preprocessing, options: dict[str, Any]) -> None:
        self._steps = create_transform(
            input_size=(3, preprocessing.height, preprocessing.width),
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            is_training=True,
            use_prefetcher=True,
            **options,
        ).transforms[:-1]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        for step in self._steps:
            image = step(image)
        return np.array(image, dtype=np.uint8)


class SeededImages(Dataset[tuple[NDArray[np.uint8], int]]):
    """Images by (epoch, index): the augmentation depends on these and the seed alone.

    So neither the number of workers nor where a run was resumed changes a pixel.
    """

    def __init__(self, images: ImageDataset[NDArray[np.uint8]], seed: int) -> None:
        """Draw the randomness of `images` from `seed`."""
        self.images = images
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        epoch, index = key
        with seeded(self.seed, epoch, index):
            return self.images[index]


def derive_seed(*numbers: int) -> int:
    """One seed below 2**32 from several numbers, unlike that of any other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU's generators of torch, NumPy and Python inside, and leave them as they were."""
    seed = derive_seed(*numbers)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
