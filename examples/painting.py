"""Colour pictures of handwritten digits, from the small gray scans that scikit-learn brings."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 160
_SCAN_WHITE = 16.0

Scans = NDArray[np.uint8]


def scanned_digits() -> dict[int, Scans]:
    """The 1,797 scans by digit: uint8 [n, 8, 8], 255 where there is ink, in scikit-learn's order.

    Neighbours in it are mostly of one hand, so a cut tests on other hands than it trains on.
    """
    digits = load_digits()
    scans = (digits.images * (255 / _SCAN_WHITE)).astype(np.uint8)
    return {digit: scans[digits.target == digit] for digit in range(10)}


def paint(scan: NDArray[np.uint8], turn: int, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of 160 x 160 pixels of a scan [8, 8], turned counter-clockwise by degrees.

    Size, place, a slight tilt, the colours and the shading of the paper are `rng`'s.
    """
    ink, paper = _colour(rng, 20, 110), _colour(rng, 150, 250)
    picture = Image.composite(_shaded(ink, rng), _shaded(paper, rng), _stencil(scan, turn, rng))
    grain = rng.normal(0, rng.uniform(0, 8), (SIDE, SIDE, 1))
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))


def _stencil(scan: NDArray[np.uint8], turn: int, rng: np.random.Generator) -> Image.Image:
    """Where there is ink: 0 to 255."""
    side = int(rng.integers(90, 140))
    digit = Image.fromarray(np.pad(scan, 1)).resize((side, side), Image.Resampling.BICUBIC)
    digit = digit.rotate(turn + rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    stencil = Image.new("L", (SIDE, SIDE))
    left, top = (int(offset) for offset in rng.integers(0, SIDE - side, 2))
    stencil.paste(digit, (left, top))
    return stencil


def _shaded(colour: NDArray[np.float64], rng: np.random.Generator) -> Image.Image:
    """One colour [3], brighter towards a side."""
    slope = rng.uniform(-0.3, 0.3, 2)
    across = np.linspace(-0.5, 0.5, SIDE)
    light = 1 + slope[0] * across[:, None, None] + slope[1] * across[None, :, None]
    return Image.fromarray((light * colour).clip(0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator, low: int, high: int) -> NDArray[np.float64]:
    return rng.uniform(low, high, 3)
