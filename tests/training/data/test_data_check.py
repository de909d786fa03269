"""The check of all images: broken ones by name, the digest, and reading through a dataset."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import ImageError
from training.data.check import check_images
from training.data.dataset import ImageDataset
from training.data.listing import read_file
from training.data.open import open_dataset
from training.data.samples import Sample
from training.errors import EmptyClass, EmptyDataset, UnreadableImages

Pack = Callable[[Mapping[str, bytes]], Path]
Files = dict[str, bytes]
Make = Callable[..., Any]


def test_sound_images_pass(packed: Pack, files: Files) -> None:
    """All are seen, none is lost, and the progress ends at the total."""
    seen: list[tuple[int, int]] = []
    splits = open_dataset(packed(files))
    checked = check_images(splits, on_progress=lambda done, total: seen.append((done, total)))
    assert checked.splits == splits
    assert checked.broken == ()
    assert seen[-1] == (18, 18)


def test_broken_images_stop_the_run_by_name(packed: Pack, files: Files) -> None:
    """Truncated, empty and mislabelled files are named with their reasons, and the way on."""
    files["train/ant/000.png"] = files["train/ant/000.png"][:150]
    files["test/bee/000.png"] = b""
    files["test/bee/001.png"] = b"not an image"
    with pytest.raises(UnreadableImages) as caught:
        check_images(open_dataset(packed(files), val_fraction=0))
    message = str(caught.value)
    assert "3 of 18 images" in message
    assert "train: train/ant/000.png: The PNG image cannot be decoded" in message
    assert "test: test/bee/001.png: The data is not a JPEG, PNG or WebP image" in message
    assert "--skip-broken" in message


def test_only_ten_broken_images_are_named(folder: Pack, tree: Make) -> None:
    """A thousand broken images are counted, not listed."""
    files = tree(["train/", "test/"], {"a": 10, "b": 10})
    broken = {name: b"x" for name in files if name.startswith("train/")}
    with pytest.raises(UnreadableImages, match="and 10 more") as caught:
        check_images(open_dataset(folder(files | broken), val_fraction=0))
    assert str(caught.value).count("train/") == 10


def test_broken_images_are_left_out_on_request(packed: Pack, files: Files) -> None:
    """Skipping gives the sound images and the list of the others."""
    files["train/ant/000.png"] = b"x"
    checked = check_images(open_dataset(packed(files), val_fraction=0), skip_broken=True)
    assert [item.name for item in checked.broken] == ["train: train/ant/000.png"]
    assert len(checked.splits.train) == 11
    assert "train/ant/000.png" not in {sample.name for sample in checked.splits.train}


def test_skipping_must_leave_every_class_an_image(folder: Pack, files: Files) -> None:
    """Where a class is gone, going on would make another task."""
    gone = {name: b"x" for name in files if name.startswith("train/ant/")}
    with pytest.raises(EmptyClass, match="'ant'"):
        check_images(open_dataset(folder(files | gone), val_fraction=0), skip_broken=True)


def test_skipping_must_leave_every_split_an_image(folder: Pack, files: Files) -> None:
    """Without any test image there is nothing to report."""
    gone = {name: b"x" for name in files if name.startswith("test/")}
    with pytest.raises(EmptyDataset, match="test"):
        check_images(open_dataset(folder(files | gone)), skip_broken=True)


def test_digest_is_that_of_the_content(packed: Pack, folder: Pack, files: Files) -> None:
    """A folder and an archive of it agree."""
    assert (
        check_images(open_dataset(packed(files))).digest
        == check_images(open_dataset(folder(files))).digest
    )


def test_digest_changes_with_content_label_and_split(
    folder: Pack, tmp_path: Path, files: Files, encode: Make
) -> None:
    """Another pixel, another class of an image, or another split: another digest."""
    base = check_images(open_dataset(folder(files))).digest
    moved = dict(files)
    moved["train/bee/zzz.png"] = moved.pop("train/ant/000.png")
    variants = [files | {"train/ant/000.png": encode(999)}, moved]
    digests = {base, check_images(open_dataset(folder(files), seed=8)).digest}
    for number, variant in enumerate(variants):
        root = tmp_path / f"variant{number}"
        for name, content in variant.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        digests.add(check_images(open_dataset(root)).digest)
    assert len(digests) == 4


def test_dataset_gives_transformed_images_and_labels(folder: Pack, files: Files) -> None:
    """Length, order and labels are those of the samples."""
    samples = open_dataset(folder(files)).test
    dataset = ImageDataset(samples, lambda image: image.size)
    assert [dataset[index] for index in range(len(dataset))] == [
        ((12, 10), sample.label) for sample in samples
    ]


def test_awkward_photos_are_told_from_broken_ones(real_sets: Path) -> None:
    """Of the real photos in every format, exactly the two broken ones cannot be read."""
    photos = sorted((real_sets / "photos").glob("*.*"))
    broken = [path.name for path in photos if _is_broken(path)]
    assert broken == ["broken_truncated.jpg", "broken_truncated.png"]


def _is_broken(path: Path) -> bool:
    try:
        Sample(path.name, 0, partial(read_file, path)).image()
    except ImageError:
        return True
    return False
