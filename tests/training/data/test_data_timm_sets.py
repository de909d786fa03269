"""Datasets by timm's prefixes, through timm's own factory, on local files."""

import io
import json
import struct
import tarfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data import timm_sets
from training.data.check import check_images
from training.data.open import open_dataset, open_evaluation_set
from training.data.samples import labels_of
from training.errors import (
    DatasetTooLarge,
    DatasetUnavailable,
    MissingPackage,
    UnknownDataset,
    UnreadableImages,
)

Pack = Callable[[Mapping[str, bytes]], Path]
Files = dict[str, bytes]
Make = Callable[..., Any]

# webdataset leaves its shards for the garbage collector to close.
leaks_files = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def write_mnist(root: Path, count: int = 20) -> None:
    """Four files in MNIST's own format: `count` images each, digit = index % 10."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        images = struct.pack(">4I", 2051, count, 28, 28) + pixels.tobytes()
        labels = struct.pack(">2I", 2049, count) + bytes(index % 10 for index in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def write_shards(
    root: Path,
    encode: Make,
    splits: Mapping[str, int],
    broken: Collection[tuple[str, int]] = (),
) -> None:
    """WebDataset shards with timm's info file; labels alternate between 0 and 1."""
    info: dict[str, dict[str, object]] = {}
    for split, count in splits.items():
        name = f"set-{split}-0.tar"
        with tarfile.open(root / name, "w") as archive:
            for index in range(count):
                image = b"x" if (split, index) in broken else encode(index)
                for suffix, content in (("png", image), ("cls", str(index % 2).encode())):
                    member = tarfile.TarInfo(f"{index:04d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        info[split] = {
            "name": split,
            "num_samples": count,
            "filenames": [name],
            "shard_lengths": [count],
        }
    (root / "_info.json").write_text(json.dumps({"splits": info}))


def test_torchvision_set(tmp_path: Path) -> None:
    """`torch/mnist` gives its own splits, class names and pixels; validation comes from train."""
    write_mnist(tmp_path)
    splits = open_dataset("torch/mnist", root=tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 10, 20)
    assert splits.class_names[:2] == ("0 - zero", "1 - one")
    assert labels_of(splits.test) == [index % 10 for index in range(20)]
    expected = np.arange(784, dtype=np.uint32).astype(np.uint8).reshape(28, 28)
    image = np.asarray(splits.test[0].image())
    assert image.shape == (28, 28, 3)
    np.testing.assert_array_equal(image[..., 0], expected)
    assert check_images(splits).broken == ()


def test_torchvision_set_that_is_not_there(tmp_path: Path) -> None:
    """Without a download, a missing set is an error that says so."""
    with pytest.raises(DatasetUnavailable, match="--download"):
        open_dataset("torch/cifar10", root=tmp_path)


def test_unknown_torchvision_set(tmp_path: Path) -> None:
    """Sets that cannot be trained on by class are named as such."""
    with pytest.raises(UnknownDataset, match="cifar100"):
        open_dataset("torch/image_folder", root=tmp_path)


@pytest.mark.parametrize("name", ["torch/cifar10", "wds/"])
def test_prefix_that_needs_a_root(name: str) -> None:
    """Where there is no default place, one is asked for."""
    with pytest.raises(UnknownDataset, match="--data-root"):
        open_dataset(name)


@pytest.mark.parametrize("prefix", ["hfds", "hfids", "wds", "tfds"])
def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    """An optional package that is not installed is named with the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingPackage, match="pip install"):
        open_dataset(f"{prefix}/any", root=tmp_path)


@leaks_files
def test_webdataset_shards(tmp_path: Path, encode: Make) -> None:
    """Shards are read once; their validation split is the test where they have no test split."""
    pytest.importorskip("webdataset")
    write_shards(tmp_path, encode, {"train": 12, "validation": 4})
    splits = open_dataset("wds/", root=tmp_path)
    assert splits.class_names == ("0", "1")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 2, 4)
    assert labels_of(splits.test) == [0, 1, 0, 1]
    with Image.open(io.BytesIO(encode(3))) as expected:
        assert splits.test[3].image().tobytes() == expected.tobytes()


@leaks_files
def test_webdataset_without_other_splits_is_split_by_seed(tmp_path: Path, encode: Make) -> None:
    """Shards of a training split alone are split as one folder is."""
    pytest.importorskip("webdataset")
    write_shards(tmp_path, encode, {"train": 40})
    splits = open_dataset("wds/", root=tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (28, 4, 8)
    assert len(open_evaluation_set("wds/", root=tmp_path).samples) == 40


@leaks_files
def test_broken_images_of_a_stream_are_counted(tmp_path: Path, encode: Make) -> None:
    """What timm drops with a log line only still counts as broken."""
    pytest.importorskip("webdataset")
    write_shards(tmp_path, encode, {"train": 12, "test": 4}, broken={("train", 3), ("test", 1)})
    splits = open_dataset("wds/", root=tmp_path)
    with pytest.raises(UnreadableImages, match="2 of 16 images"):
        check_images(splits)
    assert len(check_images(splits, skip_broken=True).broken) == 2


@leaks_files
def test_stream_is_bounded(tmp_path: Path, encode: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that would fill the memory is refused."""
    pytest.importorskip("webdataset")
    write_shards(tmp_path, encode, {"train": 12, "test": 4})
    monkeypatch.setattr(timm_sets, "MAX_STREAM_BYTES", 1000)
    with pytest.raises(DatasetTooLarge, match=r"folder or \.tar"):
        open_dataset("wds/", root=tmp_path)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub can be reached; the packages read their switch when they are imported."""
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_hugging_face_dataset(tmp_path: Path, tree: Make, folder: Pack) -> None:
    """`hfds/` with local files: names from the set, labels, and the original bytes."""
    files = tree(["train/", "test/"], {"cat": 10, "bee": 10})
    splits = open_dataset(f"hfds/{folder(files)}", root=tmp_path / "cache")
    assert splits.class_names == ("bee", "cat")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (18, 2, 20)
    assert {sample.read() for sample in splits.test} == {
        content for name, content in files.items() if name.startswith("test/")
    }


@pytest.mark.usefixtures("offline")
def test_hugging_face_dataset_that_is_not_there(tmp_path: Path) -> None:
    """An unknown name, or no hub, is one clear error."""
    with pytest.raises(DatasetUnavailable, match="cannot be opened"):
        open_dataset("hfds/nobody/nothing", root=tmp_path)
