"""Augmentation: seeded image by image, gentle by default."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.backbone import describe
from adapters.preprocess import EvalTransform
from tests import makers
from training.augment import SeededImages, train_transform
from training.data.dataset import ImageDataset
from training.data.samples import Sample

PREPROCESSING = describe("test_resnet").preprocessing


def _images(strength, seed=0):
    sample = Sample("one", 1, lambda: makers.encode(makers.picture(90, 120)))
    dataset = ImageDataset([sample] * 3, train_transform(PREPROCESSING, strength))
    return SeededImages(dataset, seed)


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_pixels_follow_from_seed_epoch_and_index(strength):
    """The order of reading and the process's own random numbers change nothing."""
    first = [_images(strength)[epoch, index][0] for epoch in (0, 1) for index in (0, 1, 2)]
    random.seed(99)
    images = _images(strength)
    again = [images[epoch, index][0] for epoch in (1, 0) for index in (2, 1, 0)]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({pixels.tobytes() for pixels in first}) == 6
    assert first[0].shape == (PREPROCESSING.height, PREPROCESSING.width, 3)
    assert first[0].dtype == np.uint8
    assert not np.array_equal(first[0], _images(strength, seed=1)[0, 0][0])


def test_reading_leaves_the_processes_random_numbers_alone():
    """No generator is moved by an augmented image."""

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    _ = _images("strong")[0, 0]
    assert draw() == expected


def test_none_is_the_evaluation_transform():
    """Without augmentation training sees what evaluation sees."""
    image = makers.picture(90, 120)
    pixels = train_transform(PREPROCESSING, "none")(image)
    np.testing.assert_array_equal(pixels, EvalTransform(PREPROCESSING)(image))


def test_light_never_mirrors_and_medium_does():
    """By default a digit or a letter stays what it is."""
    half = Image.fromarray(np.repeat(np.arange(100, dtype=np.uint8), 100).reshape(100, 100).T)

    def mirrored(strength):
        transform = train_transform(PREPROCESSING, strength)
        views = [np.asarray(transform(half.convert("RGB"))).mean((0, 2)) for _ in range(30)]
        return [view[-1] < view[0] for view in views]

    assert not any(mirrored("light"))
    assert any(mirrored("medium"))
