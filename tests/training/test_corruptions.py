"""The 19 common corruptions at 5 severities, for large and small images."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from training.corruptions.arrays import magnify, plasma, smear, to_image, to_pixels
from training.corruptions.parameters import CIFAR, IMAGENET
from training.errors import UnknownCorruption

# By their published parameters these do not grow in mean absolute difference at every step:
# elastic and saturate change in nature, frost and snow trade brightness, small glass and spatter
# repeat or change their liquid.
NOT_STEADY = {
    (224, "elastic_transform"),
    (224, "frost"),
    (224, "saturate"),
    (224, "snow"),
    (32, "elastic_transform"),
    (32, "frost"),
    (32, "glass_blur"),
    (32, "saturate"),
    (32, "spatter"),
}


def picture(size: int) -> Image.Image:
    """A colourful scene with edges, gradients and texture, `size` pixels square."""
    y, x = np.mgrid[:256, :256]
    ground = np.stack([x * 0.6 + 40, y * 0.5 + 60, 150 - x * 0.3], axis=-1)
    texture = np.random.default_rng(0).normal(0, 12, (256, 256, 1))
    image = Image.fromarray(np.clip(ground + texture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 50, 130, 150), fill=(200, 60, 40), outline=(20, 20, 20), width=4)
    draw.rectangle((150, 90, 230, 220), fill=(40, 120, 70))
    for offset in range(0, 80, 10):
        draw.line((150 + offset, 90, 230, 220 - offset), fill=(230, 220, 180), width=2)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def distortion(image: Image.Image, kind: str, severity: int) -> float:
    """Mean absolute difference in 8-bit steps, over three seeds."""
    before = np.asarray(image, dtype=float)
    return np.mean(
        [
            np.abs(
                np.asarray(corrupt(image, kind, severity, np.random.default_rng(seed))) - before
            ).mean()
            for seed in range(3)
        ]
    )


def test_there_are_nineteen_with_five_severities_each() -> None:
    """Fifteen of the benchmark and four extra, in both parameter tables."""
    assert len(CORRUPTIONS) == 19
    assert set(CORRUPTIONS) == set(IMAGENET) == set(CIFAR)
    assert CORRUPTIONS[-4:] == ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@pytest.mark.parametrize("size", [224, 32])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_distortion_grows_with_severity(kind: str, size: int) -> None:
    """Every severity changes the image; the last more than the first, mostly step by step."""
    image = picture(size)
    amounts = [distortion(image, kind, severity) for severity in SEVERITIES]
    assert min(amounts) > 0.1
    if (size, kind) in NOT_STEADY:
        assert max(amounts) > min(amounts)
    else:
        assert all(after > 0.97 * before for before, after in pairwise(amounts))
        assert amounts[-1] > 1.2 * amounts[0]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_result_repeats_and_keeps_its_form(kind: str, severity: int) -> None:
    """Same seed, same pixels; the image given is left alone; size and mode stay."""
    image = picture(224).crop((0, 0, 224, 170))
    before = image.tobytes()
    first, second = (corrupt(image, kind, severity, np.random.default_rng(7)) for _ in range(2))
    assert first.tobytes() == second.tobytes() != before
    assert image.tobytes() == before
    assert (first.size, first.mode) == (image.size, "RGB")


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (65, 70), (300, 66)])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_odd_sizes_and_flat_images(kind: str, size: tuple[int, int]) -> None:
    """Tiny, oblong and all-black images neither fail nor change size."""
    for severity in (1, 5):
        corrupted = corrupt(Image.new("RGB", size), kind, severity, np.random.default_rng(0))
        assert corrupted.size == size


@pytest.mark.parametrize(
    ("kind", "severity", "expected"),
    [
        ("brightness", 3, (179, 144, 109)),
        ("contrast", 1, (102, 82, 62)),
        ("saturate", 2, (102, 100, 98)),
        ("jpeg_compression", 1, (102, 82, 62)),
    ],
)
def test_effect_on_one_colour(kind: str, severity: int, expected: tuple[int, ...]) -> None:
    """Worked by hand: value plus 0.3 at the same ratios; no contrast to lose; nearly gray."""
    image = Image.new("RGB", (224, 224), (102, 82, 62))
    result = np.asarray(corrupt(image, kind, severity, np.random.default_rng(0)), dtype=int)
    assert np.abs(result - expected).max() <= (4 if kind == "jpeg_compression" else 0)


def test_noise_has_the_published_strength() -> None:
    """Standard deviations and shares measured on a flat middle gray."""
    gray = Image.new("RGB", (224, 224), (128, 128, 128))

    def values(kind: str) -> NDArray[np.float64]:
        noisy = corrupt(gray, kind, 1, np.random.default_rng(0))
        return np.asarray(noisy, dtype=float) / 255

    assert values("gaussian_noise").std() == pytest.approx(0.08, rel=0.02)
    assert values("speckle_noise").std() == pytest.approx(0.15 * 128 / 255, rel=0.02)
    assert values("shot_noise").std() == pytest.approx(np.sqrt(128 / 255 / 60), rel=0.02)
    assert np.isin(values("impulse_noise"), (0, 1)).mean() == pytest.approx(0.03, rel=0.05)


@pytest.mark.parametrize("kind", ["defocus_blur", "gaussian_blur", "motion_blur", "zoom_blur"])
def test_blur_leaves_a_flat_image_alone(kind: str) -> None:
    """A blur's weights sum to one, at the edges too."""
    flat = Image.new("RGB", (224, 224), (200, 100, 50))
    for severity in SEVERITIES:
        blurred = np.asarray(corrupt(flat, kind, severity, np.random.default_rng(0)), dtype=int)
        assert np.abs(blurred - (200, 100, 50)).max() <= 1


def test_glass_blur_moves_pixels_only() -> None:
    """With hardly any blur, the same colours lie elsewhere."""
    image = picture(32)
    glass = corrupt(image, "glass_blur", 1, np.random.default_rng(0))
    pixels = [
        sorted(map(tuple, np.asarray(each).reshape(-1, 3).tolist())) for each in (image, glass)
    ]
    assert pixels[0] == pixels[1]
    assert image.tobytes() != glass.tobytes()


def test_smear_along_a_level_line() -> None:
    """A single bright pixel is drawn out to one side, with falling weights that sum to one."""
    dot = np.zeros((9, 9), dtype=np.float32)
    dot[4, 6] = 1
    row = smear(dot, 2, 1.5, 0)[4]
    assert row.sum() == pytest.approx(1)
    assert np.flatnonzero(row).tolist() == [2, 3, 4, 5, 6]
    assert all(np.diff(row[2:7]) > 0)


def test_magnify_keeps_the_middle() -> None:
    """A ramp magnified twice has half the slope and the same mean."""
    ramp = np.tile(np.arange(32, dtype=np.float32), (32, 1))
    larger = magnify(ramp, 2)
    assert larger.shape == ramp.shape
    assert larger.mean() == pytest.approx(ramp.mean())
    assert np.diff(larger[16])[5:-5] == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (224, 224), (300, 20)])
def test_plasma_fills_its_range(shape: tuple[int, int]) -> None:
    """Any size, from 0 to 1 on the whole grid."""
    field = plasma(*shape, 2, np.random.default_rng(0))
    assert field.shape == shape
    assert field.min() >= 0
    assert field.max() <= 1


def test_plasma_is_smoother_with_more_decay() -> None:
    """Decay takes away fine detail."""
    rough, smooth = (
        np.abs(np.diff(plasma(128, 128, decay, np.random.default_rng(0)))).mean()
        for decay in (1.4, 3)
    )
    assert rough > 2 * smooth


def test_pixels_survive_the_round_trip() -> None:
    """Image to pixels to image changes nothing."""
    image = picture(64)
    assert to_image(to_pixels(image)).tobytes() == image.tobytes()


def test_randomness_hangs_on_the_name_alone() -> None:
    """Order and repetition do not matter; name, seed, kind and severity do."""
    image = picture(32)
    noise = Corruption("gaussian_noise", 3)
    base = noise(image, "a.png").tobytes()
    noise(image, "b.png")
    assert noise(image, "a.png").tobytes() == base
    others = [
        noise(image, "b.png"),
        Corruption("gaussian_noise", 3, seed=1)(image, "a.png"),
        Corruption("speckle_noise", 3)(image, "a.png"),
        Corruption("gaussian_noise", 4)(image, "a.png"),
    ]
    assert base not in {other.tobytes() for other in others}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((32, 32), (32, 32)),
        ((64, 90), (64, 90)),
        ((100, 100), (224, 224)),
        ((600, 400), (336, 224)),
    ],
)
def test_large_images_are_brought_to_the_parameters_scale(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Over 64 pixels the short side becomes 224; small images keep their size."""
    assert Corruption("contrast", 1)(Image.new("RGB", before), "x").size == after


@pytest.mark.parametrize(("kind", "severity"), [("rain", 1), ("fog", 0), ("fog", 6)])
def test_unknown_corruptions_are_refused(kind: str, severity: int) -> None:
    """When it is made, not at the first image."""
    with pytest.raises(UnknownCorruption, match="Use"):
        Corruption(kind, severity)
    with pytest.raises(UnknownCorruption, match="Use"):
        corrupt(Image.new("RGB", (8, 8)), kind, severity, np.random.default_rng(0))
