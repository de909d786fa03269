"""Datasets by timm's prefixes, opened through timm's own factory, as samples.

- `torch/NAME`: torchvision's labelled sets, under `root`.
- `hfds/NAME`: Hugging Face datasets; `root` is the cache folder.
- `wds/`: WebDataset shards under `root`, with timm's `_info.json`.
- `hfids/NAME`, `tfds/NAME`: Hugging Face streams and TensorFlow datasets.

The last three are streams without random access: they are read once and held in memory, within
`MAX_STREAM_BYTES`. A set keeps its own class order. Where it has no labelled test split, its
validation split is the test (as is usual for ImageNet), and validation comes out of train.
"""

import importlib.util
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset

from adapters.errors import BrokenImage
from training.data.listing import read_file, refuse_oversized
from training.data.samples import LIMITS, LabelledSets, Sample
from training.errors import (
    DatasetTooLarge,
    DatasetUnavailable,
    MissingPackage,
    TrainingError,
    UnknownDataset,
)

# timm ships no annotations: its datasets and readers are taken as they come.
_TimmDataset = Any
_TimmReader = Any

MAX_STREAM_BYTES = 4 * 2**30
_PACKAGES: Mapping[str, str] = {
    "hfds": "datasets",
    "hfids": "datasets",
    "tfds": "tensorflow_datasets",
    "torch": "torchvision",
    "wds": "webdataset",
}
_NEED_ROOT = ("torch", "wds")
PREFIXES = tuple(f"{prefix}/" for prefix in _PACKAGES)
# torchvision's name -> the labelled split beside its training split.
_TORCH_TEST_SPLITS: Mapping[str, str] = {
    "cifar10": "test",
    "cifar100": "test",
    "mnist": "test",
    "kmnist": "test",
    "fashion_mnist": "test",
    "qmnist": "test",
    "imagenet": "val",
    "places365": "val",
}
_ROLES: Mapping[str, str] = {
    "train": "train",
    "validation": "val",
    "val": "val",
    "valid": "val",
    "test": "test",
}
# timm drops an image of a WebDataset that it cannot decode, and says so only here.
_STREAM_LOG = logging.getLogger("timm.data.readers.reader_wds")


def has_prefix(name: str) -> bool:
    """Whether `name` begins with one of `PREFIXES`, in any case."""
    return name.lower().startswith(PREFIXES)


def open_timm(name: str, root: Path | None, *, download: bool) -> LabelledSets:
    """Open a set by its prefixed name.

    Raises:
        MissingPackage: the prefix needs a package that is not installed.
        UnknownDataset: torchvision has no such labelled set.
        DatasetUnavailable: it is not there, or cannot be read.
        DatasetTooLarge: a stream is over `MAX_STREAM_BYTES`.
    """
    prefix = name.partition("/")[0].lower()
    package = _PACKAGES[prefix]
    if importlib.util.find_spec(package) is None:
        raise MissingPackage(
            f"{prefix}/ datasets need the package {package}. Install it: pip install {package}"
        )
    if root is None and prefix in _NEED_ROOT:
        raise UnknownDataset(f"{name} has no default place. Say where it lies with --data-root.")
    create = partial(_create, name, root, download=download)
    if prefix == "torch":
        return _open_torch(name, create)
    try:
        return _open_by_reader(create, _index_map if prefix == "hfds" else _hold_stream)
    except TrainingError:
        raise
    except Exception as error:
        raise _unavailable(name, error) from error


def _create(name: str, root: Path | None, *, split: str, download: bool) -> _TimmDataset:
    try:
        return create_dataset(
            name, root=str(root) if root else None, split=split, download=download
        )
    except Exception as error:
        raise _unavailable(name, error) from error


def _unavailable(name: str, cause: object) -> DatasetUnavailable:
    return DatasetUnavailable(
        f"{name} cannot be opened ({cause}). Check its name and --data-root; without --download "
        "it must be there already, and a download needs its hub to be reachable."
    )


def _open_torch(name: str, create: Callable[..., _TimmDataset]) -> LabelledSets:
    test_split = _TORCH_TEST_SPLITS.get(name.rpartition("/")[2].lower())
    if test_split is None:
        raise UnknownDataset(
            f"{name} is none of the torchvision sets that can be trained on: "
            f"{', '.join(_TORCH_TEST_SPLITS)}. A folder of images is given by its path."
        )
    sets: dict[str, list[Sample]] = {}
    for role, split in (("train", "train"), ("test", test_split)):
        dataset = create(split=split)
        if hasattr(dataset, "loader"):
            # Sets of files decode by themselves; hand out bytes, `decode` is the only decoder.
            dataset.loader = _read_path
        sets[role] = [
            Sample(f"{split}/{index:07d}", int(label), partial(_read_item, dataset, index))
            for index, label in enumerate(dataset.targets)
        ]
    return LabelledSets(sets, tuple(_one_name(entry) for entry in dataset.classes))


def _one_name(entry: str | Sequence[str]) -> str:
    # ImageNet's classes are tuples of synonyms.
    return entry if isinstance(entry, str) else entry[0]


def _read_path(path: str) -> bytes:
    return read_file(Path(path))


def _read_item(dataset: _TimmDataset, index: int) -> bytes:
    item = dataset[index][0]
    return item if isinstance(item, bytes) else _as_png(item)


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _open_by_reader(
    create: Callable[..., _TimmDataset], samples_of: Callable[[_TimmDataset, str], list[Sample]]
) -> LabelledSets:
    first = create(split="train")
    class_to_idx: Mapping[str, int] = first.reader.class_to_idx
    sets: dict[str, list[Sample]] = {}
    for split in _splits_of(first.reader):
        if role := _ROLES.get(split):
            dataset = first if split == "train" else create(split=split)
            sets[role] = samples_of(dataset, split)
    class_names = _names(class_to_idx, sets["train"])
    # Hidden labels of a test split are commonly written as -1.
    labelled = {
        role: samples
        for role, samples in sets.items()
        if all(0 <= sample.label < len(class_names) for sample in samples)
    }
    return LabelledSets(_with_test(labelled), class_names)


def _splits_of(reader: _TimmReader) -> list[str]:
    if hasattr(reader, "info"):
        return [*reader.info.get("splits", ["train"])]
    source = reader.builder if hasattr(reader, "builder") else reader.dataset
    return [*(source.info.splits or ["train"])]


def _with_test(sets: Mapping[str, list[Sample]]) -> Mapping[str, list[Sample]]:
    if "test" in sets:
        return sets
    if "val" in sets:
        return {"train": sets["train"], "test": sets["val"]}
    return {"all": sets["train"]}


def _names(class_to_idx: Mapping[str, int], train: Sequence[Sample]) -> tuple[str, ...]:
    if class_to_idx:
        return tuple(sorted(class_to_idx, key=lambda name: class_to_idx[name]))
    return tuple(str(label) for label in range(max(sample.label for sample in train) + 1))


def _index_map(dataset: _TimmDataset, split: str) -> list[Sample]:
    return [
        Sample(f"{split}/{index:07d}", int(label), partial(_read_entry, dataset.reader, index))
        for index, label in enumerate(dataset.reader.iter_targets())
    ]


def _read_entry(reader: _TimmReader, index: int) -> bytes:
    with reader[index][0] as stream:
        data: bytes = stream.read(LIMITS.max_bytes + 1)
    refuse_oversized(len(data))
    return data


def _hold_stream(dataset: _TimmDataset, split: str) -> list[Sample]:
    # Every process holds the whole set: which part it trains on is the sampler's business.
    dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1
    samples: list[Sample] = []
    held = 0
    with _dropped_images() as reasons:
        for index, (image, label) in enumerate(dataset):
            data = _as_png(image)
            held += len(data)
            if held > MAX_STREAM_BYTES:
                raise DatasetTooLarge(
                    f"The {split} stream has more than {MAX_STREAM_BYTES:,} bytes, all of which "
                    "are held in memory. Write its images to a folder or .tar and give that."
                )
            samples.append(Sample(f"{split}/{index:07d}", int(label), partial(_give, data)))
    return samples + [
        Sample(f"{split}/dropped-{number}", 0, partial(_refuse, reason))
        for number, reason in enumerate(reasons)
    ]


def _give(data: bytes) -> bytes:
    return data


def _refuse(reason: str) -> bytes:
    raise BrokenImage(f"{reason} The stream does not say which image it is.")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _dropped_images() -> Iterator[list[str]]:
    collector = _Collector()
    _STREAM_LOG.addHandler(collector)
    try:
        yield collector.messages
    finally:
        _STREAM_LOG.removeHandler(collector)
