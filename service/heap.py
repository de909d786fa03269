"""The memory of a process that serves: huge pages, and what is left of starting."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def prefer_huge_pages() -> None:
    """Ask PyTorch for huge pages below large CPU tensors; call it before the first of them is made.

    Adapters and features then take the processor fewer searches for a page. Where the system has
    none to give, or the environment says otherwise, everything is as before.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def settled_heap() -> Iterator[None]:
    """Let no collection inside look at the objects that are there now; call it before serving.

    torch, a backbone and its compiled passes are half a million objects that stay. To look through
    them takes the collector a third of a second now and then, in which no thread runs Python. What
    loading and compiling have freed goes back to the system.
    """
    gc.collect()
    gc.freeze()
    _trim()
    try:
        yield
    finally:
        gc.unfreeze()


def _trim() -> None:
    """Give back the free memory between what stays, which the C library would keep (glibc only)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
