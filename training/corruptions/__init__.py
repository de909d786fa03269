"""The 19 common corruptions of Hendrycks and Dietterich (2019), in 5 severities each.

Fifteen are the benchmark, the last four are its extra set for validation. The parameters are
those published for ImageNet-C (224 pixels) and CIFAR-C (32 pixels), in `parameters.py`. The
ImageNet-C files were also stored as JPEG of quality 85; that further loss is not repeated here.

Why not a library: those on PyPI either stopped in 2020 or bring OpenCV and numba, have the
224-pixel parameters only, and draw from NumPy's global state, which data loader threads share.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.corruptions import blur, digital, noise, weather
from training.corruptions.arrays import Parameters, Pixels, to_image, to_pixels
from training.corruptions.parameters import CIFAR, IMAGENET
from training.errors import UnknownCorruption

SEVERITIES = (1, 2, 3, 4, 5)
# Images with a short side up to this get the parameters made for 32 pixels.
SMALL = 64
_SHORT_SIDE = 224

_Effect = Callable[[Pixels, Parameters, np.random.Generator], Pixels]
_EFFECTS: Mapping[str, _Effect] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}
CORRUPTIONS = tuple(_EFFECTS)


def corrupt(image: Image.Image, kind: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """A distorted copy of an RGB image, of the same size.

    The parameters are CIFAR-C's up to a short side of `SMALL` pixels, else ImageNet-C's.

    Raises:
        UnknownCorruption: no such kind, or a severity outside 1 to 5.
    """
    _check(kind, severity)
    table = CIFAR if min(image.size) <= SMALL else IMAGENET
    pixels = _EFFECTS[kind](to_pixels(image), table[kind][severity - 1], rng)
    return to_image(pixels)


@dataclass(frozen=True)
class Corruption:
    """One kind and severity for a whole set: each image's randomness depends on its name only.

    Raises:
        UnknownCorruption: no such kind, or a severity outside 1 to 5.
    """

    kind: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.kind, self.severity)

    def __call__(self, image: Image.Image, name: str) -> Image.Image:
        """The distorted image. Over `SMALL` pixels it is first scaled to a short side of 224.

        That is the scale the parameters were made for.
        """
        return corrupt(_at_scale(image), self.kind, self.severity, self._rng(name))

    def _rng(self, name: str) -> np.random.Generator:
        key = f"{self.seed}\0{self.kind}\0{self.severity}\0{name}".encode(errors="surrogateescape")
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16]))


def _check(kind: str, severity: int) -> None:
    if kind not in _EFFECTS:
        raise UnknownCorruption(f"There is no corruption {kind!r}. Use {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise UnknownCorruption(f"There is no severity {severity}. Use 1 (mild) to 5 (strong).")


def _at_scale(image: Image.Image) -> Image.Image:
    short = min(image.size)
    if short <= SMALL or short == _SHORT_SIDE:
        return image
    width, height = (max(1, round(side * _SHORT_SIDE / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
