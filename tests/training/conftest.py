"""A small set of pictures to train on, and weights that look at them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from tests import makers
from training.config import TrainConfig, make_config

CLASSES = ("blue", "green", "red")


def _colour(label: int, seed: int) -> Image.Image:
    """A noisy picture in which the class's channel is brighter."""
    pixels = np.random.default_rng(seed).integers(0, 128, (40, 48, 3), dtype=np.uint8)
    pixels[:, :, 2 - label] += 96
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Three classes by colour: 8 training images and 3 test images of each."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("test", 3)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * label + 10 * index + (split == "test")
                _colour(label, seed).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A function from a small backbone's name to a file of weights that look at their input."""
    folder = tmp_path_factory.mktemp("weights")

    def path(name: str) -> str:
        file = folder / f"{name}.safetensors"
        if not file.exists():
            state = makers.backbone(name).model.state_dict()
            save_file({key: value.clone() for key, value in state.items()}, file)
        return str(file)

    return path


@pytest.fixture
def configure(pictures, weights):
    """A function that makes a small configuration; options replace its own."""

    def make(**options: object) -> TrainConfig:
        backbone = options.get("backbone", "test_vit")
        small = {
            "data": str(pictures),
            "backbone": backbone,
            "weights": weights(backbone),
            "epochs": 2,
            "lr": 0.03,
            "batch_size": 6,
            "workers": 0,
            "val_fraction": 0.25,
            "precision": "fp32",
            "device": "cpu",
        }
        return make_config(small | options)

    return make
