"""The memory of a serving process: what no collection looks at, what it returns, and huge pages."""

import ctypes
import gc
import os
import weakref
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protuning.cli import app
from service.heap import settled_heap
from service.http.server import DrainingServer
from service.serve import serve
from service.settings import Settings


class _Ring:
    """Garbage that only the collector can free."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_looked_at_again_only_afterwards():
    """Old garbage stays inside, new garbage goes, and nothing is left frozen."""
    kept = _Ring()
    old = weakref.ref(kept)
    with settled_heap():
        del kept
        new = weakref.ref(_Ring())
        gc.collect()
        assert old() is not None
        assert new() is None
    gc.collect()
    assert old() is None
    assert gc.get_freeze_count() == 0


def test_garbage_of_start_up_is_not_kept():
    """It is collected once more before."""
    garbage = weakref.ref(_Ring())
    with settled_heap():
        assert garbage() is None


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc returns it")
def test_free_memory_goes_back_to_the_system():
    """Also what lies below something that stays."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(4096) for _ in range(10_000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 4096)
    for piece in pieces[:-1]:
        libc.free(piece)
    before = _resident_bytes()
    with settled_heap():
        returned = before - _resident_bytes()
    libc.free(pieces[-1])
    assert returned > 0.8 * 4096 * len(pieces)


def _resident_bytes() -> int:
    return os.sysconf("SC_PAGESIZE") * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.parametrize("http_workers", [0, 1])
def test_servers_serve_with_a_settled_heap(http_workers, tmp_path, monkeypatch):
    """With HTTP in their own process and with processes in front."""
    frozen = []

    async def look(*_):
        # (Python 3.12 has some hundred objects frozen by itself.)
        frozen.append(gc.get_freeze_count() > len(gc.get_objects()))

    monkeypatch.setattr(DrainingServer, "serve", look)
    serve(
        Settings(
            backbone="test_resnet",
            weights="random",
            index=f"sqlite:///{tmp_path}/index.db",
            store=str(tmp_path / "store"),
            port=0,
            http_workers=http_workers,
        )
    )
    assert frozen[0]
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("given", ["", "0"])
def test_serve_asks_for_huge_pages_unless_told_otherwise(given, monkeypatch):
    """Before anything is loaded; PyTorch reads the variable once, at its first tensor."""
    variable = "THP_MEM_ALLOC_ENABLE"
    monkeypatch.setenv(variable, given)
    if not given:
        monkeypatch.delenv(variable)
    seen = []
    monkeypatch.setattr("service.serve.serve", lambda _: seen.append(os.environ[variable]))
    done = CliRunner().invoke(app, ["serve", "--backbone", "test_resnet", "--weights", "random"])
    assert (done.exit_code, seen) == (0, [given or "1"]), done.output
