"""Weather corruptions: snow, frost, fog and spatter."""

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from training.corruptions.arrays import Field, Parameters, Pixels, gray, magnify, plasma, smear

_WATER = np.array([175, 238, 238], dtype=np.float32) / np.float32(255)
_MUD = np.array([63, 42, 20], dtype=np.float32) / np.float32(255)
_ICE = np.array([0.86, 1.0, 1.08], dtype=np.float32)


def fog(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: thickness, and the decay of the cloud's detail (see `plasma`)."""
    thickness, decay = parameters
    brightest = pixels.max()
    height, width = pixels.shape[:2]
    cloud = plasma(height, width, decay, rng)[..., np.newaxis]
    return (pixels + thickness * cloud) * brightest / (brightest + thickness)


def frost(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Parameters: weight of the image and weight of the frost laid over it.

    The benchmark crops the overlay from six photographs; here it is a procedural texture of
    their mean brightness, so accuracies under frost compare in kind with published ones only.
    """
    image_weight, frost_weight = parameters
    height, width = pixels.shape[:2]
    return image_weight * pixels + frost_weight * frost_texture(height, width, rng)


def frost_texture(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Bluish ice [height, width, 3]: a cloudy ground under needles grown from random grains."""
    length = max(2, min(height, width) // 10)
    # Needles grow in from outside, too; at the canvas's own edge they would be drawn out.
    margin = 2 * length + 1
    canvas = (height + 2 * margin, width + 2 * margin)
    needles = np.zeros(canvas, dtype=np.float32)
    for degrees in rng.uniform(0, 360, 6):
        grains = (rng.random(canvas) > 0.995).astype(np.float32)
        needles = np.maximum(needles, smear(grains, length, length, degrees))
    inside = needles[margin : margin + height, margin : margin + width]
    sharp = np.minimum(inside / (np.quantile(inside, 0.98) or 1), 1)
    ground = plasma(height, width, 1.6, rng)
    ice = 0.25 + 0.35 * ground + 0.5 * sharp * plasma(height, width, 1.8, rng)
    return (ice[..., np.newaxis] * _ICE).astype(np.float32)


def snow(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Flakes drawn out by the wind, over a whitened image.

    Parameters: mean and deviation of the flakes' field, its magnification, the threshold of a
    flake, radius and sigma of the motion, and how much of the image's own light remains.
    """
    mean, deviation, factor, threshold, radius, sigma, keep = parameters
    field = rng.normal(mean, deviation, pixels.shape[:2]).astype(np.float32)
    flakes = magnify(field, factor)
    flakes = np.where(flakes < threshold, np.float32(0), np.clip(flakes, 0, 1))
    flakes = smear(flakes, int(radius), sigma, rng.uniform(-135, -45))[..., np.newaxis]
    whitened = np.maximum(pixels, gray(pixels)[..., np.newaxis] * 1.5 + 0.5)
    return keep * pixels + (1 - keep) * whitened + flakes + flakes[::-1, ::-1]


def spatter(pixels: Pixels, parameters: Parameters, rng: np.random.Generator) -> Pixels:
    """Drops of water, or of mud, on the lens.

    Parameters: mean and deviation of the liquid's field, sigma that smooths it, the threshold of
    a drop, the strength (water) or softness (mud) of the drops, and 0 for water or 1 for mud.
    """
    mean, deviation, smoothing, threshold, strength, is_mud = parameters
    field = rng.normal(mean, deviation, pixels.shape[:2]).astype(np.float32)
    liquid = ndimage.gaussian_filter(field, smoothing, mode="nearest")
    liquid = np.where(liquid < threshold, np.float32(0), np.minimum(liquid, 1))
    if is_mud:
        cover = ndimage.gaussian_filter((liquid > 0).astype(np.float32), strength, mode="nearest")
        cover = np.where(cover < 0.8, np.float32(0), cover)[..., np.newaxis]
        return pixels * (1 - cover) + cover * _MUD
    shine = liquid * _relief(liquid)
    shine *= strength / (shine.max() or 1)
    return pixels + shine[..., np.newaxis] * _WATER


def _relief(liquid: Field) -> Field:
    """Light on the drops: embossed distance from their outlines, in 0..255.

    A drop's field falls to zero at its rim, so the rim is the edge that Canny's filter finds.
    """
    drops = liquid > 0
    outline = drops & ~ndimage.binary_erosion(drops, np.ones((3, 3)), border_value=1)
    distance = ndimage.distance_transform_edt(~outline) if outline.any() else np.zeros(drops.shape)
    mild = ndimage.uniform_filter(np.minimum(distance, 20), 3, mode="mirror")
    even = np.asarray(ImageOps.equalize(Image.fromarray(mild.astype(np.uint8))), dtype=np.float32)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    embossed = np.clip(ndimage.correlate(even, emboss, mode="mirror"), 0, 255)
    return ndimage.uniform_filter(embossed, 3, mode="mirror").astype(np.float32)
