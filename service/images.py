"""Decodes a request's images off the event loop, in parallel, within limits."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from adapters.errors import ImageError
from adapters.manifest import Preprocessing
from adapters.preprocess import EvalTransform, ImageLimits, decode_pixels
from service.errors import DeadlineExceeded, Overloaded, TooManyImages

RETRY_AFTER = 1.0


class ImageReader:
    """Encoded images as the pixels that the backbone takes.

    Args:
        preprocessing: The backbone's evaluation transform.
        limits: What one encoded image may weigh.
        decoders: How many images are decoded at the same time; each may need the memory of
            `limits.max_pixels` a few times over.
        max_waiting: Most images of all requests that wait or are decoded.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        limits: ImageLimits,
        *,
        decoders: int,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.preprocessing = preprocessing
        self._transform = EvalTransform(preprocessing)
        self._limits = limits
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._max_waiting = max_waiting
        self._clock = clock
        self._waiting = 0

    async def read(self, encoded: Sequence[bytes], deadline: float) -> NDArray[np.uint8]:
        """JPEG, PNG or WebP files, at least one, as uint8 pixels [n, H, W, 3].

        `deadline` is in monotonic seconds. An error about an image says which one it is,
        counted from 1; of several bad images the first is named.

        Raises:
            ImageError: an image was refused (see `adapters.preprocess.decode`).
            Overloaded: too many images wait to be decoded.
            TooManyImages: more than may ever wait.
            DeadlineExceeded: the deadline passed.
        """
        self._admit(len(encoded))
        try:
            async with asyncio.timeout(deadline - self._clock()):
                return await self._decode_all(encoded)
        except TimeoutError as error:
            raise DeadlineExceeded(
                "The deadline passed while the images were decoded. Send fewer or smaller images, "
                "or allow more time."
            ) from error
        finally:
            self._waiting -= len(encoded)

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _admit(self, images: int) -> None:
        if images > self._max_waiting:
            raise TooManyImages(
                f"At most {self._max_waiting} images are decoded at a time. Send fewer in one "
                "request."
            )
        if self._waiting + images > self._max_waiting:
            raise Overloaded(
                f"{self._waiting} images wait to be decoded already. Try again a little later.",
                retry_after=RETRY_AFTER,
            )
        self._waiting += images

    async def _decode_all(self, encoded: Sequence[bytes]) -> NDArray[np.uint8]:
        count = len(encoded)
        futures = [
            self._pool.submit(self._decode, data, number, count)
            for number, data in enumerate(encoded, 1)
        ]
        try:
            images = [await asyncio.wrap_future(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()
        return np.stack(images)

    def _decode(self, data: bytes, number: int, count: int) -> NDArray[np.uint8]:
        try:
            return self._transform(decode_pixels(data, self._limits))
        except ImageError as error:
            raise type(error)(f"Image {number} of {count}: {error}") from error
