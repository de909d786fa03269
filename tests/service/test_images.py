"""Decoding: the pixels of training, off the event loop, in parallel, within limits."""

import asyncio
import io
import math
import threading
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import service.images
from adapters.errors import BrokenImage, ImageTooLarge, UnsupportedImageFormat
from adapters.manifest import Preprocessing
from adapters.preprocess import EvalTransform, ImageLimits, decode, decode_pixels
from service.errors import DeadlineExceeded, Overloaded, TooManyImages
from service.images import ImageReader
from tests import makers

pytestmark = pytest.mark.anyio

PREPROCESSING = Preprocessing(
    height=24,
    width=32,
    crop_pct=0.875,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
PNG = makers.encode(makers.picture())
TENANT = "ours"


@contextmanager
def _reader(**changes):
    options = {"limits": ImageLimits(), "decoders": 2, "max_waiting": 16} | changes
    reader = ImageReader(PREPROCESSING, options.pop("limits"), **options)
    try:
        yield reader
    finally:
        reader.close()


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return makers.encode(makers.picture(), "JPEG", exif=exif)


FORMS = {
    "png": PNG,
    "jpeg": makers.encode(makers.picture(), "JPEG"),
    "webp": makers.encode(makers.picture(), "WEBP"),
    "turned": _turned(),
    "gray": makers.encode(makers.picture().convert("L")),
    "alpha": makers.encode(makers.picture().convert("RGBA")),
    "palette": makers.encode(makers.picture().convert("P")),
    "cmyk": makers.encode(makers.picture().convert("CMYK"), "JPEG"),
}


async def test_pixels_are_those_of_training():
    """Each form gives what `decode` and `EvalTransform` give, in the order of the request."""
    transform = EvalTransform(PREPROCESSING)
    with _reader() as reader:
        pixels = await reader.read(TENANT, [*FORMS.values()], math.inf)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(FORMS), 24, 32, 3)
    for image, data in zip(pixels, FORMS.values(), strict=True):
        assert np.array_equal(image, transform(decode(data)))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (PNG[: len(PNG) // 2], BrokenImage),
        (b"GIF89a", UnsupportedImageFormat),
        (b"", UnsupportedImageFormat),
        (makers.encode(makers.picture(200, 200)), ImageTooLarge),
        (makers.encode(Image.new("RGB", (1, 101))), ImageTooLarge),
    ],
    ids=["truncated", "gif", "empty", "large", "sliver"],
)
async def test_a_bad_image_is_named(bad, error):
    """Its class says what is wrong, its message says which of how many."""
    with _reader(limits=ImageLimits(max_pixels=64 * 101)) as reader:
        with pytest.raises(error, match=r"^Image 2 of 3: "):
            await reader.read(TENANT, [PNG, bad, b"also bad"], math.inf)
        assert len(await reader.read(TENANT, [PNG], math.inf)) == 1


async def test_a_sliver_does_not_grow_to_gigabytes():
    """1 x 50,000 pixels would be scaled to 27 x 1,350,000, and wider backbones to far more."""
    sliver = makers.encode(Image.new("L", (1, 50_000)))
    with _reader() as reader, pytest.raises(ImageTooLarge, match="100 to 1"):
        await reader.read(TENANT, [sliver], math.inf)


async def test_images_are_decoded_in_parallel_and_off_the_loop(monkeypatch):
    """Two images are under way at the same time, each in a thread of the pool."""
    both = threading.Barrier(2, timeout=20)
    threads = set()

    def meet(data, limits):
        both.wait()
        threads.add(threading.current_thread())
        return decode_pixels(data, limits)

    monkeypatch.setattr(service.images, "decode_pixels", meet)
    with _reader(decoders=2) as reader:
        await reader.read(TENANT, [PNG, PNG], math.inf)
    assert len(threads) == 2
    assert threading.current_thread() not in threads


@contextmanager
def _held(monkeypatch):
    """Decoding stands still while this is open; tells that it has begun, and can let it go on."""
    go_on, begun = threading.Event(), threading.Event()

    def hold(data, limits):
        begun.set()
        assert go_on.wait(20)
        return decode_pixels(data, limits)

    monkeypatch.setattr(service.images, "decode_pixels", hold)
    try:
        yield begun, go_on
    finally:
        go_on.set()


async def test_too_many_waiting_images_are_refused(monkeypatch):
    """What waits is bounded over all requests, and room comes back."""
    with _reader(max_waiting=3) as reader:
        with _held(monkeypatch) as (begun, _):
            first = asyncio.create_task(reader.read(TENANT, [PNG, PNG], math.inf))
            await asyncio.to_thread(begun.wait, 20)
            with pytest.raises(Overloaded) as refused:
                await reader.read(TENANT, [PNG, PNG], math.inf)
            assert refused.value.retry_after > 0
            with pytest.raises(TooManyImages):
                await reader.read(TENANT, [PNG] * 4, math.inf)
        assert len(await first) == 2
        assert len(await reader.read(TENANT, [PNG] * 3, math.inf)) == 3


async def test_a_flooding_tenant_delays_no_other(monkeypatch):
    """With forty images ahead of it, another tenant's image is among the next few decoded."""
    order, mine = [], makers.encode(makers.picture(seed=7))
    with _reader(decoders=1, max_waiting=128) as reader:
        with _held(monkeypatch) as (begun, _):
            flood = asyncio.create_task(reader.read("flood", [PNG] * 40, math.inf))
            await asyncio.to_thread(begun.wait, 20)
            flood.add_done_callback(lambda _: order.append("flood"))
            other = asyncio.create_task(reader.read(TENANT, [mine] * 2, math.inf))
            other.add_done_callback(lambda _: order.append("other"))
            await asyncio.sleep(0)
        await asyncio.gather(flood, other)
    assert order == ["other", "flood"]


async def test_a_flooding_tenant_leaves_room(monkeypatch):
    """One tenant gets half of the room, and another one finds some."""
    with _reader(max_waiting=8) as reader, _held(monkeypatch):
        flood = [asyncio.create_task(reader.read("flood", [PNG], math.inf)) for _ in range(8)]
        await asyncio.sleep(0)
        other = asyncio.create_task(reader.read(TENANT, [PNG], math.inf))
        await asyncio.sleep(0)
        assert [task.done() for task in flood] == [False] * 4 + [True] * 4
        assert all(isinstance(task.exception(), Overloaded) for task in flood[4:])
        assert not other.done()
        for task in (*flood[:4], other):
            task.cancel()


async def test_who_waits_when_the_reader_closes_is_cancelled(monkeypatch):
    """Nobody waits for a decoder that is gone."""
    with _held(monkeypatch) as (begun, go_on), _reader(decoders=1) as reader:
        waiting = asyncio.create_task(reader.read(TENANT, [PNG] * 5, math.inf))
        await asyncio.to_thread(begun.wait, 20)
        go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_passed_deadline_ends_the_wait(monkeypatch):
    """Whoever waits too long gets an error, and the images that have not begun are dropped."""
    with _reader(decoders=1, clock=lambda: 100.0) as reader, _held(monkeypatch):
        with pytest.raises(DeadlineExceeded):
            await reader.read(TENANT, [PNG] * 16, 100.0)
        with pytest.raises(DeadlineExceeded):
            await reader.read(TENANT, [PNG] * 16, 100.0)


async def test_a_cancelled_request_gives_its_room_back(monkeypatch):
    """A client that leaves takes nothing along."""
    with _reader(max_waiting=2, decoders=1) as reader:
        with _held(monkeypatch) as (begun, _):
            leaving = asyncio.create_task(reader.read(TENANT, [PNG, PNG], math.inf))
            await asyncio.to_thread(begun.wait, 20)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        assert len(await reader.read(TENANT, [PNG, PNG], math.inf)) == 2


async def test_limits_are_checked_before_decoding():
    """50,000 x 50,000 pixels in a few bytes are refused by their header."""
    buffer = io.BytesIO()
    Image.new("1", (50_000, 50)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[20:24] = (50_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with _reader() as reader, pytest.raises(ImageTooLarge, match="2500000000 pixels"):
        await reader.read(TENANT, [bytes(data)], math.inf)
