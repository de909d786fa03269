"""Pixels as arrays, and the fields and filters that several corruptions share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# float32 [H, W, 3] in 0..1, RGB.
Pixels = NDArray[np.float32]
# float32 [H, W].
Field = NDArray[np.float32]
Parameters = Sequence[float]


def to_pixels(image: Image.Image) -> Pixels:
    """An image as RGB pixels in 0..1."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def to_image(pixels: Pixels) -> Image.Image:
    """Pixels as an image; what is outside 0..1 is clipped."""
    return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def gray(pixels: Pixels) -> Field:
    """The luma (ITU-R 601) of pixels."""
    return pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def magnify(field: Field, factor: float) -> Field:
    """The middle of a field, magnified bilinearly to the field's size."""
    height, width = field.shape
    left, top = (width - width / factor) / 2, (height - height / factor) / 2
    box = (left, top, width - left, height - top)
    resized = Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def smear(pixels: NDArray[np.float32], radius: int, sigma: float, degrees: float) -> Pixels:
    """Motion blur along a direction: a half Gaussian of 2 * `radius` + 1 steps.

    `pixels` is [H, W] or [H, W, C]; the edges are continued outwards.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2)).astype(np.float32)
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    right = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    margin = 2 * radius + 1
    around = ((margin, margin), (margin, margin), *((0, 0),) * (pixels.ndim - 2))
    padded = np.pad(pixels, around, mode="edge")
    height, width = pixels.shape[:2]
    blurred = np.zeros_like(pixels)
    for weight, x, y in zip(weights, right + margin, down + margin, strict=True):
        blurred += weight * padded[y : y + height, x : x + width]
    return blurred


def plasma(height: int, width: int, decay: float, rng: np.random.Generator) -> Field:
    """A cloud-like field in 0..1: midpoint displacement (diamond-square) on a periodic grid.

    Each halving of the grid's step divides the displacement by `decay` squared.
    """
    heights = np.zeros((1, 1))
    amplitude = 1.0
    while len(heights) < max(height, width, 2):
        heights = _refine(heights, amplitude, rng)
        amplitude /= decay**2
    heights = heights[:height, :width] - heights.min()
    return (heights / (heights.max() or 1)).astype(np.float32)


def _refine(
    coarse: NDArray[np.float64], amplitude: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    size = len(coarse)

    def displaced(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        return (first + second) / 2 + amplitude * rng.uniform(-1, 1, (size, size))

    columns = coarse + np.roll(coarse, -1, axis=1)
    centres = displaced(columns / 2, np.roll(columns, -1, axis=0) / 2)
    across = displaced(columns / 2, (centres + np.roll(centres, 1, axis=0)) / 2)
    rows = coarse + np.roll(coarse, -1, axis=0)
    down = displaced(rows / 2, (centres + np.roll(centres, 1, axis=1)) / 2)
    fine = np.empty((2 * size, 2 * size))
    fine[::2, ::2], fine[1::2, 1::2] = coarse, centres
    fine[::2, 1::2], fine[1::2, ::2] = across, down
    return fine
