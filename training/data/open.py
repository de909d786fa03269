"""Open a labelled image set by its path or timm name, and split it: the door to `training.data`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data import timm_sets
from training.data.archives import list_tar, list_tar_gz, list_zip
from training.data.classes import check_trainable
from training.data.layout import find_layout
from training.data.listing import Listing, list_folder
from training.data.samples import DataSplits, LabelledSets, Sample, labels_of, quoted
from training.data.scenarios import FewShot, LongTail, Sampling
from training.data.splitting import hold_out
from training.errors import (
    TestSplitMissing,
    TooFewImages,
    UnknownClass,
    UnknownDataset,
)

_LISTERS: Mapping[str, Callable[[Path], Listing]] = {
    ".tar": list_tar,
    ".tar.gz": list_tar_gz,
    ".tgz": list_tar_gz,
    ".zip": list_zip,
}


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images to measure on, with the set's own class names."""

    samples: Sequence[Sample]
    class_names: tuple[str, ...]
    ignored: Mapping[str, int]


def open_dataset(
    data: str | Path,
    *,
    root: Path | None = None,
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    sampling: Sampling | None = None,
    download: bool = False,
) -> DataSplits:
    """Open `data` and make three splits of it. No image is decoded yet (see `check_images`).

    `data` is a folder, a .tar, .tar.gz or .zip, laid out as `train/CLASS/IMAGE`, `test/...` and
    perhaps `val/...`, or as `CLASS/IMAGE`; or a name with one of timm's prefixes, whose files are
    under `root` (see `timm_sets`). A class's index is its place in the sorted names of train.

    One folder of classes gives `test_fraction` of each class to test; where there is no
    validation split, `val_fraction` of each class of train becomes it (0: none). Both keep at
    least one image in train, and depend on `seed` and the names only.

    A `LongTail` is taken from the whole of train, so that its counts are the published ones, and
    validation comes out of it; a `FewShot` is taken from what validation leaves.

    Raises:
        UnknownDataset: there is no such path or prefix, or no such kind of file.
        DataError: see its tree for the others.
    """
    found = _open(data, root, download=download)
    check_trainable(found)
    train, test = _train_and_test(found, test_fraction, seed)
    if isinstance(sampling, LongTail):
        train = _sample(train, sampling, seed, found.class_names)
    if "val" in found.sets:
        val: Sequence[Sample] = found.sets["val"]
    else:
        train, val = _hold_out(train, val_fraction, seed)
        if val_fraction and not val:
            raise TooFewImages(
                "No class has an image to spare for validation. Add images, or a val/ folder."
            )
    if isinstance(sampling, FewShot):
        train = _sample(train, sampling, seed, found.class_names)
    return DataSplits(train, val, test, found.class_names, found.ignored)


def _sample(
    train: Sequence[Sample], sampling: Sampling, seed: int, class_names: Sequence[str]
) -> list[Sample]:
    return [train[index] for index in sampling.indices(labels_of(train), seed, class_names)]


def open_evaluation_set(
    data: str | Path, *, root: Path | None = None, download: bool = False
) -> EvaluationSet:
    """The test split of `data`; where it has no splits, all of it; else its validation split.

    For sets that no training images come from. What a seed once cut off, `open_dataset` gives
    again.

    Raises:
        TestSplitMissing: there is only a training split.
        DataError: as `open_dataset`.
    """
    found = _open(data, root, download=download)
    for name in ("test", "all", "val"):
        if found.sets.get(name):
            return EvaluationSet(found.sets[name], found.class_names, found.ignored)
    raise TestSplitMissing(f"{data} has a training split only. Add a test/ folder to measure on.")


def _open(data: str | Path, root: Path | None, *, download: bool) -> LabelledSets:
    if not str(data).strip():
        # As a path it would be the current folder.
        raise UnknownDataset("The data set's name is empty. Give a folder, an archive, or a name.")
    path = Path(data)
    if not path.exists() and timm_sets.has_prefix(str(data)):
        return timm_sets.open_timm(str(data), root, download=download)
    listing = _list(path)
    layout = find_layout(listing.files, listing.folders)
    names = layout.splits.get("train") or layout.splits.get("all")
    class_names = tuple(sorted(names or {n for split in layout.splits.values() for n in split}))
    index = {name: number for number, name in enumerate(class_names)}
    sets: dict[str, list[Sample]] = {}
    for split, classes in layout.splits.items():
        _check_known(split, classes, index)
        sets[split] = [
            Sample(image, index[name], listing.files[layout.prefix + image])
            for name, images in classes.items()
            for image in images
        ]
    return LabelledSets(sets, class_names, layout.ignored)


def _list(path: Path) -> Listing:
    if path.is_dir():
        return list_folder(path)
    for suffix, lister in _LISTERS.items():
        if path.name.lower().endswith(suffix):
            if not path.is_file():
                raise UnknownDataset(f"{path} does not exist. Check the path.")
            return lister(path)
    what = "is neither a folder nor" if path.exists() else "does not exist, and is not"
    raise UnknownDataset(
        f"{path} {what} a {', '.join(_LISTERS)}. Give a folder or archive of labelled images, or a "
        f"name that begins with {', '.join(timm_sets.PREFIXES)}."
    )


def _check_known(split: str, classes: Iterable[str], index: Mapping[str, int]) -> None:
    if unknown := [name for name in classes if name not in index]:
        raise UnknownClass(
            f"The {split} split has {quoted(unknown)}, which the training split lacks. Add "
            "training images of each, rename the folder, or take it out."
        )


def _train_and_test(
    found: LabelledSets, fraction: float, seed: int
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    if "all" in found.sets:
        train, test = _hold_out(found.sets["all"], fraction, seed)
        if not test:
            raise TooFewImages(
                "No class has an image to spare for the test. Add images, or a test/ folder."
            )
        return train, test
    if not found.sets.get("test"):
        raise TestSplitMissing(
            f"There are the splits {quoted(found.sets)} but no test split. Add test/CLASS/IMAGE; "
            "or rename val/ to test/ (validation then comes out of train); or give the train "
            "folder itself, to have it split by seed."
        )
    return found.sets["train"], found.sets["test"]


def _hold_out(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    ordered = sorted(samples, key=lambda sample: sample.name)
    kept, held = hold_out(labels_of(ordered), fraction, seed)
    return [ordered[index] for index in kept], [ordered[index] for index in held]
