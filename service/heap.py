"""Python's garbage collector in a process that serves: it leaves alone what start-up has made."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """Let no collection inside look at the objects that are there now; call it before serving.

    torch, a backbone and its compiled passes are half a million objects that stay. To look through
    them takes the collector a third of a second now and then, in which no thread runs Python.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
