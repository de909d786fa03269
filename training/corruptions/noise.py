"""Noise corruptions: Gaussian, shot, impulse and speckle."""

import numpy as np

from training.corruptions.arrays import Parameters, Pixels


def gaussian_noise(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: standard deviation."""
    return pixels + parameters[0] * rng.standard_normal(pixels.shape, dtype=np.float32)


def shot_noise(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: photons of a full pixel; fewer is noisier."""
    photons = parameters[0]
    return (rng.poisson(pixels * photons) / photons).astype(np.float32)


def impulse_noise(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: share of values that become 0 or 1, with equal chance."""
    chance = rng.random(pixels.shape, dtype=np.float32) / parameters[0]
    noisy = np.where(chance < 0.5, np.float32(0), pixels)
    return np.where((chance >= 0.5) & (chance < 1), np.float32(1), noisy)


def speckle_noise(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: standard deviation, relative to the pixel's value."""
    return pixels + pixels * parameters[0] * rng.standard_normal(pixels.shape, dtype=np.float32)
