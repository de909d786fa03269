"""Memory that an HTTP process shares with the engine process: pixels go through it uncopied."""

import mmap
import os
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adapters.manifest import Preprocessing
from service.errors import LineBroken, Overloaded

RETRY_AFTER = 1.0


class Slab:
    """Room for a number of images [H, W, 3], mapped into both processes.

    The HTTP process places and frees, the engine process only looks. The memory is taken from the
    system when it is first written, and goes back when the last of both has gone, however it went.

    Args:
        fd: The memory file; it stays the caller's to close.
        images: How many there is room for.
        preprocessing: Has their size.
    """

    def __init__(self, fd: int, images: int, preprocessing: Preprocessing) -> None:
        shape = (images, preprocessing.height, preprocessing.width, 3)
        self._memory = np.frombuffer(mmap.mmap(fd, _bytes(images, preprocessing)), np.uint8)
        self._images = self._memory.reshape(shape)
        self._taken = bytearray(images)

    @classmethod
    def create(cls, images: int, preprocessing: Preprocessing) -> tuple[Self, int]:
        """A new one, and the memory file for the other process."""
        fd = os.memfd_create("protuning-images")
        os.ftruncate(fd, _bytes(images, preprocessing))
        return cls(fd, images, preprocessing), fd

    @property
    def taken(self) -> int:
        """How many images lie in it."""
        return self._taken.count(1)

    def place(self, images_NHWC: NDArray[np.uint8]) -> int:
        """Copy images in, and return the place of the first one.

        Raises:
            Overloaded: there is no room in one piece.
        """
        count = len(images_NHWC)
        start = self._taken.find(bytes(count))
        if start < 0:
            raise Overloaded(
                f"{self.taken} images wait for the engine, and {count} more do not fit. Try again "
                "a little later.",
                retry_after=RETRY_AFTER,
            )
        self._taken[start : start + count] = b"\1" * count
        self._images[start : start + count] = images_NHWC
        return start

    def free(self, start: int, count: int) -> None:
        """Give the places of `count` images back."""
        self._taken[start : start + count] = bytes(count)

    def look(self, start: int, count: int) -> NDArray[np.uint8]:
        """The images [count, H, W, 3] from a place on, where they lie.

        Raises:
            LineBroken: there are no such places.
        """
        if not (start >= 0 and count >= 1 and start + count <= len(self._images)):
            raise LineBroken(f"{count} images from place {start} on lie outside of the memory.")
        return self._images[start : start + count]


def _bytes(images: int, preprocessing: Preprocessing) -> int:
    return images * preprocessing.height * preprocessing.width * 3
