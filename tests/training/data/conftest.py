"""Small generated image sets, as folders and archives."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Files = dict[str, bytes]
Pack = Callable[[Mapping[str, bytes]], Path]


def _encode(seed: int, *, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
    """An image of seeded noise, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _tree(splits: Iterable[str], classes: Mapping[str, int]) -> Files:
    """`classes` images per class under each split folder ("" for none), each image distinct."""
    names = [
        f"{split}{name}/{index:03d}.png"
        for split in splits
        for name, count in classes.items()
        for index in range(count)
    ]
    return {name: _encode(seed) for seed, name in enumerate(names)}


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Make an encoded image from a seed."""
    return _encode


@pytest.fixture
def tree() -> Callable[..., Files]:
    """Make the files of some classes under some splits."""
    return _tree


@pytest.fixture
def files() -> Files:
    """Three classes, four training images and two test images each."""
    classes = ("bee", "ant", "cow")
    return _tree(["train/"], dict.fromkeys(classes, 4)) | _tree(
        ["test/"], dict.fromkeys(classes, 2)
    )


def _write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """The files under `root`; a path that ends in a slash is an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files as an uncompressed tar."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _write_tar_gz(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files as a gzipped tar."""
    plain = _write_tar(path.with_suffix(".plain"), files)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def _write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files as a zip, every other one deflated."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, content) in enumerate(files.items()):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=method)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Pack:
    """Write files to a folder."""
    return lambda files: _write_folder(tmp_path / "folder", files)


_WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "folder": _write_folder,
    "tar": _write_tar,
    "tar.gz": _write_tar_gz,
    "zip": _write_zip,
}


@pytest.fixture
def tar(tmp_path: Path) -> Pack:
    """Write files to a tar."""
    return lambda files: _write_tar(tmp_path / "set.tar", files)


@pytest.fixture
def tar_gz(tmp_path: Path) -> Pack:
    """Write files to a gzipped tar."""
    return lambda files: _write_tar_gz(tmp_path / "set.tar.gz", files)


@pytest.fixture(params=["tar", "tar.gz", "zip"])
def archived(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """Write files as each kind of archive in turn."""
    return lambda files: _WRITERS[request.param](tmp_path / f"set.{request.param}", files)


@pytest.fixture(params=_WRITERS)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """Write files as a folder and as each kind of archive in turn."""
    return lambda files: _WRITERS[request.param](tmp_path / f"set.{request.param}", files)


@pytest.fixture
def real_sets() -> Path:
    """The folder of real image sets, or skip."""
    default = Path(__file__).parents[4] / "shared"
    sets = Path(os.environ.get("PROTUNING_REAL_INPUTS", default)) / "data"
    if not sets.is_dir():
        pytest.skip("no real image sets: PROTUNING_REAL_INPUTS names no folder with data/")
    return sets
