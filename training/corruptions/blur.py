"""Blur corruptions: defocus, glass, motion, zoom and Gaussian."""

import numpy as np
from PIL import Image
from scipy import ndimage, signal

from training.corruptions.arrays import Field, Parameters, Pixels, smear, to_image, to_pixels


def gaussian_blur(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: standard deviation in pixels."""
    return _gaussian(pixels, parameters[0])


def defocus_blur(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: radius of the disc of confusion in pixels, and the sigma that softens its rim."""
    disc = _disc(*parameters)
    margin = len(disc) // 2
    # A small image may be narrower than the disc: np.pad then reflects again and again.
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    blurred = signal.fftconvolve(padded, disc[..., np.newaxis], mode="valid", axes=(0, 1))
    return blurred.astype(np.float32)


def glass_blur(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Blur, swap each pixel with a near one, blur.

    Parameters: sigma, the farthest swap in pixels, and how often the swapping passes.
    """
    sigma, reach, passes = parameters[0], int(parameters[1]), int(parameters[2])
    height, width = pixels.shape[:2]
    order = np.arange(height * width).tolist()
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    here = (rows[:, np.newaxis] * width + columns).ravel()
    for _ in range(passes):
        down, right = rng.integers(-reach, reach, (2, here.size))
        there = here + down * width + right
        for first, second in zip(here.tolist(), there.tolist(), strict=True):
            order[first], order[second] = order[second], order[first]
    shuffled = _gaussian(pixels, sigma).reshape(-1, 3)[order].reshape(pixels.shape)
    return _gaussian(shuffled, sigma)


def motion_blur(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: radius in pixels and sigma; the direction is within 45 degrees of level."""
    return smear(pixels, int(parameters[0]), parameters[1], rng.uniform(-45, 45))


def zoom_blur(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """The mean of magnified copies. Parameters: end (exclusive) and step of the magnification."""
    image = to_image(pixels)
    factors = np.arange(1, *parameters)
    total = pixels.copy()
    for factor in factors:
        left, top = (side * (1 - 1 / factor) / 2 for side in image.size)
        box = (left, top, image.width - left, image.height - top)
        total += to_pixels(image.resize(image.size, Image.Resampling.BILINEAR, box=box))
    return total / np.float32(len(factors) + 1)


def _gaussian(pixels: Pixels, sigma: float) -> Pixels:
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")


def _disc(radius: float, softness: float) -> Field:
    reach = max(8, int(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.float32)
    soft = ndimage.gaussian_filter(disc, softness, radius=1 if radius <= 8 else 2, mode="mirror")
    return soft / soft.sum()
