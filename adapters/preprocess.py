"""The only image decoding and evaluation transform, shared by training and serving."""

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from timm.data import create_transform
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor
from torch.nn import functional as F

from adapters.errors import BrokenImage, ImageTooLarge, UnsupportedImageFormat
from adapters.manifest import Frozen, Preprocessing

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP")
# A crop takes the short side, so the long one is scaled by the same factor: beyond this ratio a
# few bytes would become gigabytes.
_MAX_ASPECT = 100
# Every scan of a progressive JPEG and every colour profile of a PNG is decoded anew, and every
# piece of EXIF costs a copy of all before it. (The zero begins the length of a scan's header:
# without it, the pixels of any large PNG would hold a hundred.)
_MAX_OF = {
    b"\xff\xda\0": 100,
    b"iCCP": 8,
    b"Exif\0\0": 100,
}
_MAX_EXIF_BYTES = 256 * 2**10
# Pillow's parsers are Python and read up to four times for each segment, chunk or byte of padding.
# A camera's JPEG takes some hundred reads, a PNG of 16 MiB in chunks of 8 KiB some 6,000.
_MAX_READS = 100_000
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
# What undoes an EXIF orientation.
_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


class ImageLimits(Frozen):
    """What an encoded image may weigh, in bytes, and how many pixels it may claim."""

    max_bytes: int = Field(default=16 * 2**20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0)


def decode(data: bytes, limits: ImageLimits | None = None) -> Image.Image:
    """`decode_pixels` as an image, for those who go on with Pillow."""
    return Image.fromarray(decode_pixels(data, limits))


def decode_pixels(data: bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG or WebP into upright RGB pixels [H, W, 3].

    The EXIF (or XMP) orientation is applied; gray, 16-bit, palette and CMYK become RGB;
    transparency is laid over white (but for a single transparent colour in 16-bit images); of an
    animation the first frame is taken. The limits are checked against the header, before any pixel
    is decoded; decoding then takes at most some 30 bytes a pixel.

    Raises:
        ImageTooLarge: over `limits`, or longer than 100 times its width.
        UnsupportedImageFormat: none of the allowed formats.
        BrokenImage: truncated or damaged.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"The image has {len(data):,} bytes; at most {limits.max_bytes:,} are taken. "
            "Send a smaller file."
        )
    if any(data.count(mark) > most for mark, most in _MAX_OF.items()):
        raise BrokenImage(
            "The image has more scans, colour profiles or pieces of EXIF than any camera writes. "
            "Re-encode it."
        )
    image = _open(data)
    if image.width * image.height > limits.max_pixels:
        raise ImageTooLarge(
            f"The image has {image.width} x {image.height} pixels; at most "
            f"{limits.max_pixels:,} are taken. Scale it down."
        )
    if max(image.size) > _MAX_ASPECT * min(image.size):
        raise ImageTooLarge(
            f"The image has {image.width} x {image.height} pixels, more than {_MAX_ASPECT} to 1. "
            "Cut it."
        )
    try:
        pixels = _from_jpeg(image, data)
        return _from_any(image) if pixels is None else pixels
    except Exception as error:
        raise BrokenImage(
            f"The {image.format} image cannot be decoded ({error}). Send it whole, re-encoded."
        ) from error


class _Encoded(io.BytesIO):
    """An encoded image that may be read from `_MAX_READS` times, which bounds Pillow's parsers."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes.

        Raises:
            ValueError: there were too many reads.
        """
        self._reads += 1
        if self._reads > _MAX_READS:
            raise ValueError("it has more segments or chunks than any camera writes")
        return super().read(size)


def _open(data: bytes) -> Image.Image:
    try:
        # A read takes a byte at least: there cannot be too many of a short file.
        source = _Encoded(data) if len(data) > _MAX_READS else io.BytesIO(data)
        return Image.open(source, formats=ALLOWED_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{error} Scale the image down.") from error
    except UnidentifiedImageError as error:
        raise UnsupportedImageFormat(
            "The data is not a JPEG, PNG or WebP image. Convert it to one of these."
        ) from error
    except Exception as error:
        raise BrokenImage(
            f"The image's header cannot be read ({error}). Send it whole, re-encoded."
        ) from error


def _from_jpeg(image: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """Pillow's pixels of a plain JPEG in half of its time; None for what needs more care."""
    exif_bytes = len(image.info.get("exif", b""))
    if image.format != "JPEG" or image.mode not in {"RGB", "L"} or exif_bytes > _MAX_EXIF_BYTES:
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None  # Pillow has the last word on what is damaged.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _from_any(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    if len(image.info.get("exif", b"")) > _MAX_EXIF_BYTES:
        raise ValueError(f"more than {_MAX_EXIF_BYTES:,} bytes of EXIF")
    return np.array(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit gray on conversion; its high byte is the 8-bit picture.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        foreground = image.convert("RGBA")
        white = Image.new("RGB", foreground.size, (255, 255, 255))
        white.paste(foreground, mask=foreground.getchannel("A"))
        return white
    return image.convert("RGB")


class EvalTransform:
    """timm's evaluation transform up to the uint8 pixels; `normalize` is the rest.

    The geometry is timm's own. Bilinear and bicubic resizing is torch's, several times faster
    than Pillow's: pixels differ by 2 of 255 at most, and they are the same on every CPU.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Build the transform that `preprocessing` describes."""
        # The last step of timm's pipeline makes a normalised tensor on the CPU; the uint8 pixels
        # before it are a quarter of the bytes, and the device normalises them for free.
        self._resize, self._crop = create_transform(
            input_size=(3, preprocessing.height, preprocessing.width),
            interpolation=preprocessing.interpolation,
            crop_pct=preprocessing.crop_pct,
            crop_mode=preprocessing.crop_mode,
            mean=preprocessing.mean,
            is_training=False,
            use_prefetcher=True,
            separate=False,
        ).transforms[:-1]
        self._interpolation = preprocessing.interpolation
        # Whatever hardly any backbone asks for is left to Pillow.
        self._is_common = (
            preprocessing.interpolation in {"bilinear", "bicubic"}
            and preprocessing.crop_mode != "border"
        )

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An RGB image, or its pixels, as uint8 pixels [H, W, 3] of the backbone's input size."""
        if not self._is_common:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            return np.array(self._crop(self._resize(image)), dtype=np.uint8)
        pixels = np.array(image) if isinstance(image, Image.Image) else image
        images_BCHW = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
        resized_BCHW = F.interpolate(
            images_BCHW,
            size=self._resized(images_BCHW),
            mode=self._interpolation,
            antialias=True,
        )
        cropped_HWC = self._crop(resized_BCHW)[0].permute(1, 2, 0)
        return np.ascontiguousarray(cropped_HWC.numpy())

    def _resized(self, images_BCHW: Tensor) -> tuple[int, int]:
        """The size [H, W] that timm's resizing would give images of this size."""
        resize = self._resize
        if isinstance(resize, ResizeKeepRatio):
            height, width = resize.get_params(images_BCHW, resize.size, resize.longest)
        elif isinstance(resize.size, int):
            sides = images_BCHW.shape[2:]
            height, width = (int(resize.size * side / min(sides)) for side in sides)
        else:
            height, width = resize.size
        return height, width


def normalize(images_BHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 pixels [B, H, W, 3] as the backbone's float32 input [B, 3, H, W], on their device."""
    mean, std = (
        torch.tensor(values, device=images_BHWC.device).view(1, 3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32).div(255)
    return images_BCHW.sub(mean).div(std)
