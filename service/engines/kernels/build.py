"""Builds the CPU kernels with the machine's own C++ compiler, and loads them as torch operators."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from service.errors import EngineUnavailable

SOURCE = Path(__file__).with_name("prompt_rows.cpp")
_HEADERS = sorted(SOURCE.parent.glob("*.h"))
COMPILERS = ("g++", "clang++", "c++")
# Of value-changing optimisations only those that leave each sum its order and infinities theirs.
_FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast"),
    *("-fopenmp", "-DAT_PARALLEL_OPENMP=1", "-Wno-psabi", "-shared", "-fPIC"),
)
_BUILD_SECONDS = 600


def load_kernels(cache: Path) -> None:
    """Make `torch.ops.protuning.prompt_rows_` and `head_rows` callable; again changes nothing.

    The library is built into `cache` unless one for this source, compiler, torch and processor is
    there. Any number of processes may do so at the same time, and be killed while they do.

    Raises:
        EngineUnavailable: there is no compiler, or it fails.
    """
    if hasattr(torch.ops.protuning, "prompt_rows_"):
        return
    command = compiler()
    library = cache / f"{_key(command)}.so"
    try:
        if not library.exists():
            build(command, library)
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise EngineUnavailable(
            f"The kernels of the compiled engine cannot be kept in {cache} ({error}). Give it a "
            "cache_dir that can be written and executed from, or take the engine torch."
        ) from error
    torch.library.register_fake("protuning::prompt_rows_", _no_result)


def _no_result(*_arguments: object) -> None:
    """What a tracer sees of an operator that works in place."""


def compiler() -> str:
    """The C++ compiler to use: that of CXX, or the first one found.

    Raises:
        EngineUnavailable: there is none.
    """
    names = (os.environ.get("CXX", ""), *COMPILERS)
    for path in filter(None, (shutil.which(name) for name in names if name)):
        return path
    raise EngineUnavailable(
        "The compiled engine needs a C++ compiler and finds none. Install g++ or set CXX, or take "
        "the engine torch."
    )


def _key(compiler: str) -> str:
    """Changes with everything that the library depends on, the processor included."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout  # noqa: S603
    sources = [path.read_bytes() for path in (SOURCE, *_HEADERS)]
    parts = [*sources, version, " ".join(_FLAGS).encode(), torch.__version__.encode()]
    return hashlib.sha256(b"\0".join([*parts, _processor()])).hexdigest()[:32]


def _processor() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"Features"))}))


def build(compiler: str, library: Path) -> None:
    """Build the kernels: the library is there whole or not at all, whoever else builds it too.

    Raises:
        EngineUnavailable: the compiler fails.
        OSError: the folder cannot be written to.
    """
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not before it is needed: its import looks for a CUDA toolkit, and remarks on what it finds.
    from torch.utils import cpp_extension

    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder, library.name)
        command = [compiler, *_FLAGS, *includes, str(SOURCE), *libraries]
        command += ["-ltorch_cpu", "-lc10", "-o", str(built)]
        try:
            done = subprocess.run(  # noqa: S603  our own source, and a compiler of the operator's choice
                command, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise EngineUnavailable(
                f"{compiler} took more than {_BUILD_SECONDS} s for the kernels. Take the engine "
                "torch, or a faster machine."
            ) from error
        if done.returncode != 0:
            raise EngineUnavailable(
                f"{compiler} cannot build the kernels: {done.stderr[-2_000:]} Set CXX to g++ 12 or "
                "newer, or take the engine torch."
            )
        # In place at once: another process sees no library, or a whole one.
        built.replace(library)
