"""Digital and colour corruptions: brightness, contrast, saturation, elastic, pixelate, JPEG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from training.corruptions.arrays import Field, Parameters, Pixels, to_image, to_pixels


def contrast(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: what remains of each value's distance from its channel's mean."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * parameters[0] + mean


def brightness(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: what is added to the value of HSV."""
    value = pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + parameters[0], 1)
    # Hue and saturation stay as the three channels scale together; black has neither.
    scale = brighter / np.where(value > 0, value, 1)
    return np.where(value > 0, pixels * scale, brighter)


def saturate(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: factor on the saturation of HSV, and what is added to it."""
    factor, offset = parameters
    value = pixels.max(axis=2, keepdims=True)
    span = value - pixels.min(axis=2, keepdims=True)
    saturation = span / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * factor + offset, 0, 1)
    # How far each channel lies below the value, from 0 to 1; gray has hue 0, which is red.
    depth = np.where(span > 0, (value - pixels) / np.where(span > 0, span, 1), _RED_DEPTH)
    return value * (1 - wanted * depth)


def jpeg_compression(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: JPEG quality."""
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, "JPEG", quality=int(parameters[0]))
    with Image.open(buffer) as image:
        return to_pixels(image)


def pixelate(pixels: Pixels, parameters: Parameters, _rng: np.random.Generator) -> Pixels:
    """Parameters: the size to which the image shrinks before it grows again."""
    image = to_image(pixels)
    small = (max(1, int(image.width * parameters[0])), max(1, int(image.height * parameters[0])))
    box = Image.Resampling.BOX
    return to_pixels(image.resize(small, box).resize(image.size, box))


def elastic_transform(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """A random affine map and a smooth random displacement, in one bilinear sampling.

    Parameters: strength of the displacement in pixels, sigma that smooths it, and how far the
    three corners of the affine map move.
    """
    strength, sigma, reach = parameters
    height, width = pixels.shape[:2]
    right, down = (strength * _smooth(rng.uniform(-1, 1, (height, width)), sigma) for _ in range(2))
    y, x = np.mgrid[:height, :width]
    target = np.stack([x + right, y + down, np.ones((height, width))], axis=-1)
    source = target @ _random_affine(height, width, reach, rng)
    places = [source[..., 1], source[..., 0]]
    channels = [
        ndimage.map_coordinates(pixels[..., channel], places, order=1, mode="mirror")
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1)


_RED_DEPTH = np.array([0, 1, 1], dtype=np.float32)


def _smooth(field: NDArray[np.float64], sigma: float) -> Field:
    # A Gaussian as wide as the image is cheap only as a product of cosine coefficients.
    rows, columns = (
        np.exp(-0.5 * (sigma * np.pi * np.arange(size) / size) ** 2) for size in field.shape
    )
    smoothed = fft.idctn(fft.dctn(field) * rows[:, np.newaxis] * columns)
    return np.asarray(smoothed, dtype=np.float32)


def _random_affine(
    height: int, width: int, reach: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """[3, 2]: a row (x, y, 1) of the result times it is the place (x, y) in the source."""
    x, y, side = width // 2, height // 2, max(1, min(height, width) // 3)
    source = np.array([[x + side, y + side], [x + side, y - side], [x - side, y - side]], float)
    target = source + rng.uniform(-reach, reach, source.shape)
    return np.linalg.solve(np.column_stack([target, np.ones(3)]), source)
