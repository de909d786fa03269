"""Decoding and the evaluation transform: every format, every limit, timm's own pixels."""

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform

from adapters.backbone import describe
from adapters.errors import BrokenImage, ImageTooLarge, UnsupportedImageFormat
from adapters.manifest import Preprocessing
from adapters.preprocess import EvalTransform, ImageLimits, decode, decode_pixels, normalize
from tests import makers


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_images_decode_as_pillow_does(kind, mode):
    """RGB and gray come out as Pillow's RGB conversion."""
    data = makers.encode(makers.picture().convert(mode), kind)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(_array(decode(data)), _array(expected))


def test_sixteen_bit_gray_keeps_its_range():
    """The high byte of a 16-bit gray image is the picture; Pillow alone would clip it to white."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = _array(decode(makers.encode(Image.fromarray(ramp))))
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[-1, -1].tolist() == [255, 255, 255]
    assert abs(int(decoded[8, 0, 0]) - 128) <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode):
    """Fully transparent pixels are white, whatever colour lies beneath them."""
    image = Image.new("RGBA", (4, 4), (200, 10, 10, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "P":
        image = image.quantize(4)
    data = makers.encode(image.convert(mode) if mode == "LA" else image)
    decoded = _array(decode(data))
    assert decoded[:, 2:].min() == 255
    assert decoded[:, :2].max() <= 2


def test_cmyk_becomes_rgb():
    """A CMYK JPEG gives three channels with its colours right way up."""
    decoded = _array(decode(makers.encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert decoded.shape == (8, 8, 3)
    assert decoded[0, 0, 0] > 200
    assert decoded[0, 0, 1:].max() < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation):
    """All eight orientations come out upright."""
    upright = makers.picture(48, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = makers.encode(_turned(upright, orientation), exif=exif)
    assert np.array_equal(_array(decode(data)), _array(upright))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The stored form of `image` under an EXIF orientation, found by trying Pillow's turns."""
    turns = [None, *Image.Transpose]
    for turn in turns:
        stored = image if turn is None else image.transpose(turn)
        exif = stored.getexif()
        exif[0x0112] = orientation
        if np.array_equal(_array(ImageOps.exif_transpose(stored)), _array(image)):
            return stored
    raise AssertionError(orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_jpegs_have_pillows_pixels(orientation, mode, options):
    """Whichever decoder a JPEG gets, in every orientation: bit for bit what Pillow makes of it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = makers.picture(37, 53).convert(mode)
    data = makers.encode(picture, "JPEG", exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_pixels(data), _array(expected))


def test_real_jpegs_have_pillows_pixels(real_inputs):
    """Photographs of many cameras and programs: bit for bit what Pillow makes of them."""
    for path in sorted((real_inputs / "data" / "photos").glob("[!b]*.jpg")):
        expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        assert np.array_equal(decode_pixels(path.read_bytes()), _array(expected)), path.name


def test_of_an_animation_the_first_frame_counts():
    """An animated WebP is its first frame."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = makers.encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert _array(decode(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_images_are_refused(kind):
    """Any cut through the file ends in BrokenImage or, before its magic, UnsupportedImageFormat."""
    data = makers.encode(makers.picture(), kind)
    for percent in range(0, 100, 7):
        with pytest.raises((BrokenImage, UnsupportedImageFormat)):
            decode(data[: len(data) * percent // 100])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_are_refused(kind):
    """Formats off the allowlist never reach their decoder."""
    with pytest.raises(UnsupportedImageFormat, match="JPEG, PNG or WebP"):
        decode(makers.encode(makers.picture(), kind))


def test_too_many_bytes_are_refused():
    """The byte limit counts before anything is parsed."""
    with pytest.raises(ImageTooLarge, match="at most 10 "):
        decode(b"not even an image", ImageLimits(max_bytes=10))


def test_too_many_pixels_are_refused_from_the_header():
    """A tiny file that claims 9,000 x 9,000 pixels is refused without decoding them."""
    with pytest.raises(ImageTooLarge, match="9000 x 9000"):
        decode(_png_header(9_000, 9_000))


@pytest.mark.parametrize("size", [(2, 201), (20_000, 2), (1, 1_000_000)])
def test_slivers_are_refused(size):
    """A long thin image would grow by the factor that its short side needs."""
    with pytest.raises(ImageTooLarge, match="to 1"):
        decode(makers.encode(Image.new("L", size)))


def test_scan_bombs_are_refused():
    """A progressive JPEG that repeats a scan a thousand times is not decoded a thousand times."""
    data = makers.encode(makers.picture(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    with pytest.raises(BrokenImage, match="scans"):
        decode(data[:-2] + scan * 1_000 + data[-2:])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 50_000])
def test_decompression_bombs_are_too_large(side):
    """What Pillow itself warns of or refuses is ImageTooLarge as well."""
    with pytest.raises(ImageTooLarge):
        decode(_png_header(side, side))


def _png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _after_the_start(kind: str, more: bytes) -> bytes:
    """A small image with `more` between the magic (and a PNG's header) and the rest."""
    data = makers.encode(makers.picture(), kind)
    start = {"JPEG": 2, "PNG": 33}[kind]
    return data[:start] + more + data[start:]


LONG_HEADERS = {
    "pieces of EXIF": ("JPEG", _segment(0xE1, b"Exif\0\0a") * 101),
    "comments": ("JPEG", _segment(0xFE, b"x") * 40_000),
    "padding": ("JPEG", b"\xff" * 120_000),
    "strays": ("JPEG", b"\xff\xd0" + b"a" * 120_000),
    "markers": ("JPEG", b"\xff\xd0" * 60_000),
    "texts": ("PNG", _chunk(b"tEXt", b"k\0v") * 40_000),
    "empty pixels": ("PNG", _chunk(b"IDAT", b"") * 60_000),
}


@pytest.mark.parametrize("name", LONG_HEADERS)
def test_headers_of_endless_parts_are_refused(name):
    """What Pillow reads part by part in Python, seconds and minutes long, has an end."""
    with pytest.raises(BrokenImage, match="than any camera writes"):
        decode(_after_the_start(*LONG_HEADERS[name]))


REAL_HEADERS = {
    "a profile in 200 pieces": ("JPEG", _segment(0xE2, b"ICC_PROFILE\0" + b"a" * 60_000) * 200),
    "XMP of megabytes": (
        "JPEG",
        _segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"a" * 60_000) * 200,
    ),
    "1,000 texts": ("PNG", _chunk(b"tEXt", b"k\0v") * 1_000),
}


@pytest.mark.parametrize("name", REAL_HEADERS)
def test_headers_of_many_parts_are_taken(name):
    """More than cameras and programs write."""
    kind, more = REAL_HEADERS[name]
    plain = decode_pixels(makers.encode(makers.picture(), kind))
    assert np.array_equal(decode_pixels(_after_the_start(kind, more)), plain)


def test_a_large_png_of_small_chunks_is_taken():
    """Its pixels hold any two bytes hundreds of times, a scan's marker too."""
    noise = np.random.default_rng(0).integers(0, 256, (2_000, 2_000, 3), np.uint8)
    whole = makers.encode(Image.fromarray(noise), compress_level=0)
    start, end = whole.index(b"IDAT") - 4, len(whole) - 12
    pixels = b"".join(_chunks_of(whole[start:end]))
    parts = (pixels[at : at + 4_096] for at in range(0, len(pixels), 4_096))
    data = whole[:start] + b"".join(_chunk(b"IDAT", part) for part in parts) + whole[end:]
    assert data.count(b"\xff\xda") > 100
    assert np.array_equal(decode_pixels(data), noise)


def _chunks_of(png: bytes) -> Iterator[bytes]:
    """The bodies of a PNG's chunks."""
    while png:
        length = int.from_bytes(png[:4], "big")
        yield png[8 : 8 + length]
        png = png[12 + length :]


def test_of_a_file_with_several_photos_the_first_counts():
    """MPO, as stereo and burst cameras write it: JPEGs one after the other."""
    first, second = makers.picture(seed=1), makers.picture(seed=2)
    data = makers.encode(first, "MPO", save_all=True, append_images=[second] * 20)
    alone = makers.encode(first, "JPEG")
    assert np.array_equal(decode_pixels(data), decode_pixels(alone))


# Decodes images in a process of its own, and says by how many bytes a pixel it has grown at most.
_MEASURE = """
import re, sys
from pathlib import Path
from adapters.preprocess import decode_pixels

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
for path in sys.argv[1:]:
    pixels = decode_pixels(Path(path).read_bytes()).size / 3
    print((peak() - before) / pixels)
"""


def test_decoding_takes_so_many_bytes_a_pixel(tmp_path):
    """The worst of each format, as docs/operations.md adds them up; a quarter more is a change."""
    expected = {"JPEG": 9, "PNG": 17, "WEBP": 28}
    for kind in expected:
        image = Image.new("RGB" if kind == "JPEG" else "RGBA", (4_000, 4_000))
        image.save(tmp_path / kind, kind, progressive=True, lossless=True, method=0)
    command = [sys.executable, "-c", _MEASURE, *(str(tmp_path / kind) for kind in expected)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line, most in zip(done.stdout.split(), expected.values(), strict=True):
        # What was free before is taken first.
        assert most / 2 < float(line) < 1.25 * most


PREPROCESSINGS = {
    "resnet50": describe("resnet50").preprocessing,
    "vit": describe("vit_tiny_patch16_224").preprocessing,
    "squash": describe("resnet50").preprocessing.model_copy(update={"crop_mode": "squash"}),
    "border": describe("resnet50").preprocessing.model_copy(update={"crop_mode": "border"}),
    "not square": describe("resnet50").preprocessing.model_copy(update={"height": 96}),
}


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("size", [(300, 200), (37, 500), (224, 224), (8, 8)])
def test_pixels_are_timms(name, size):
    """Transform and normalisation give timm's own: a few pixels lie up to 2 of 255 beside it."""
    preprocessing: Preprocessing = PREPROCESSINGS[name]
    image = makers.picture(*size)
    timms = create_transform(
        input_size=(3, preprocessing.height, preprocessing.width),
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    pixels_HWC = EvalTransform(preprocessing)(image)
    assert pixels_HWC.shape == (preprocessing.height, preprocessing.width, 3)
    ours = normalize(torch.from_numpy(pixels_HWC)[None], preprocessing)[0]
    levels_CHW = (ours - timms(image)).abs() * torch.tensor(preprocessing.std).view(3, 1, 1) * 255
    assert levels_CHW.max() < 2.01
    assert levels_CHW.mean() < 0.25


@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_rare_interpolations_are_timms_to_the_bit(interpolation):
    """What torch has no kernel for goes through timm's own transform, from pixels too."""
    preprocessing = PREPROCESSINGS["vit"].model_copy(update={"interpolation": interpolation})
    image = makers.picture(300, 200)
    timms = create_transform(
        input_size=(3, 224, 224),
        interpolation=interpolation,
        crop_pct=preprocessing.crop_pct,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    pixels_HWC = EvalTransform(preprocessing)(np.array(image))
    assert np.array_equal(pixels_HWC, EvalTransform(preprocessing)(image))
    ours = normalize(torch.from_numpy(pixels_HWC)[None], preprocessing)[0]
    assert torch.allclose(ours, timms(image), atol=1e-6)


def test_pixels_are_the_same_on_every_cpu():
    """A fixed digest: a proof that was recorded on one machine holds on all others."""
    pixels = EvalTransform(PREPROCESSINGS["vit"])(makers.picture(300, 200))
    assert hashlib.sha256(pixels).hexdigest()[:16] == "a4272a2cded188f8"


def test_the_test_time_size_is_never_used():
    """Timm gives some models a larger test size; adapters are trained and served at input_size."""
    assert describe("resnet50.a1_in1k").preprocessing.height == 224
    assert describe("resnet50.a1_in1k").preprocessing.crop_pct == 0.95
