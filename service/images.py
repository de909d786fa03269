"""Decodes requests' images off the event loop, in parallel, in fair turns and within limits."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from adapters.errors import ImageError
from adapters.manifest import Preprocessing
from adapters.preprocess import EvalTransform, ImageLimits, decode_pixels
from service.admission import Admission
from service.batching.lines import FairLines
from service.errors import DeadlineExceeded, TooManyImages

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """One image, image `number` of `count` of its request."""

    data: bytes
    number: int
    count: int
    pixels: asyncio.Future[Pixels]


class ImageReader:
    """Encoded images as the pixels that the backbone takes. To be used on one event loop.

    Args:
        preprocessing: The backbone's evaluation transform.
        limits: What one encoded image may weigh.
        decoders: How many images are decoded at the same time; each may need the memory of
            `limits.max_pixels` a few times over.
        max_waiting: Most images of all requests that wait or are decoded; of one tenant alone,
            half of them where its requests are small.
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
        # One is ready, so that no decoder waits for the event loop.
        self._most_running = decoders + 1
        self._running = 0
        self._lines: FairLines[_Job] = FairLines()
        self._max_waiting = max_waiting
        self._admission = Admission(max_waiting, "images")
        self._clock = clock

    async def read(self, tenant: str, encoded: Sequence[bytes], deadline: float) -> Pixels:
        """JPEG, PNG or WebP files, at least one, as uint8 pixels [n, H, W, 3].

        `deadline` is in monotonic seconds. An error about an image says which one it is,
        counted from 1; of several bad images the first is named.

        Raises:
            ImageError: an image was refused (see `adapters.preprocess.decode`).
            Overloaded: too many images wait to be decoded.
            TooManyImages: more than may ever wait.
            DeadlineExceeded: the deadline passed.
        """
        if len(encoded) > self._max_waiting:
            raise TooManyImages(
                f"At most {self._max_waiting} images are decoded at a time. Send fewer in one "
                "request."
            )
        with self._admission.admit(tenant, len(encoded)):
            try:
                async with asyncio.timeout(deadline - self._clock()):
                    return await self._decode_all(tenant, encoded)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    "The deadline passed while the images were decoded. Send fewer or smaller "
                    "images, or allow more time."
                ) from error

    def close(self) -> None:
        """Let the threads end; who still waits is cancelled."""
        while (job := self._lines.pop()) is not None:
            job.pixels.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _decode_all(self, tenant: str, encoded: Sequence[bytes]) -> Pixels:
        with self._waiting(tenant, encoded) as jobs:
            self._step()
            return np.stack([await job.pixels for job in jobs])

    @contextmanager
    def _waiting(self, tenant: str, encoded: Sequence[bytes]) -> Iterator[list[_Job]]:
        """A request's images in its tenant's line; at the end none of them is left there."""
        loop, count = asyncio.get_running_loop(), len(encoded)
        jobs = [
            _Job(data, number, count, loop.create_future())
            for number, data in enumerate(encoded, 1)
        ]
        for job in jobs:
            self._lines.push(tenant, job)
        try:
            yield jobs
        finally:
            for job in jobs:
                self._lines.drop(tenant, job)
                if not (job.pixels.cancel() or job.pixels.cancelled()):
                    # Only the first error of a request is told.
                    job.pixels.exception()

    def _step(self) -> None:
        """Give the decoders what is next."""
        loop = asyncio.get_running_loop()
        while self._running < self._most_running and (job := self._lines.pop()) is not None:
            self._running += 1
            run = loop.run_in_executor(self._pool, self._decode, job)
            run.add_done_callback(partial(self._finish, job))

    def _finish(self, job: _Job, done: asyncio.Future[Pixels]) -> None:
        self._running -= 1
        error = None if done.cancelled() else done.exception()
        if job.pixels.done():
            pass  # Its request has left.
        elif done.cancelled():
            job.pixels.cancel()
        elif error is not None:
            job.pixels.set_exception(error)
        else:
            job.pixels.set_result(done.result())
        self._step()

    def _decode(self, job: _Job) -> Pixels:
        try:
            return self._transform(decode_pixels(job.data, self._limits))
        except ImageError as error:
            raise type(error)(f"Image {job.number} of {job.count}: {error}") from error
