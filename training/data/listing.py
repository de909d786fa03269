"""The files of a folder: their paths, and how to read each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapters.errors import BrokenImage, ImageTooLarge
from training.data.samples import LIMITS, Reader


@dataclass(frozen=True)
class Listing:
    """Files by path (relative, with slashes) and the folders, empty ones too."""

    files: Mapping[str, Reader]
    folders: frozenset[str]


def list_folder(root: Path) -> Listing:
    """Everything under `root`. Links are followed, except into a folder that they lie in.

    Raises:
        OSError: the folder cannot be read.
    """
    files: dict[str, Reader] = {}
    folders: set[str] = set()
    for top, below, names in os.walk(root, followlinks=True, onerror=_raise):
        here = Path(top)
        below[:] = [name for name in below if not _leads_back(here / name, root)]
        folders.update((here / name).relative_to(root).as_posix() for name in below)
        for name in names:
            path = here / name
            files[path.relative_to(root).as_posix()] = partial(read_file, path)
    return Listing(files, frozenset(folders))


def _leads_back(folder: Path, root: Path) -> bool:
    if not folder.is_symlink():
        return False
    around = (above.resolve() for above in folder.parents if above.is_relative_to(root))
    return folder.resolve() in around


def read_file(path: Path) -> bytes:
    """The bytes of one image file.

    Raises:
        ImageTooLarge: over the limit; nothing is read.
        BrokenImage: the file cannot be read.
    """
    try:
        refuse_oversized(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(
            f"The file cannot be read ({error.strerror}). Check that it is there and readable."
        ) from error


def refuse_oversized(size: int) -> None:
    """Let an image of `size` bytes pass, or not.

    Raises:
        ImageTooLarge: over the limit.
    """
    if size > LIMITS.max_bytes:
        raise ImageTooLarge(
            f"The image has {size:,} bytes; at most {LIMITS.max_bytes:,} are taken. "
            "Make the file smaller."
        )


def _raise(error: OSError) -> None:
    raise error
