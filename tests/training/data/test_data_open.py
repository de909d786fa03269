"""Opening a labelled image set: layouts, archives, splits, and what is refused."""

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from training.data.dataset import ImageDataset
from training.data.open import open_dataset, open_evaluation_set
from training.data.samples import Sample, labels_of
from training.errors import (
    AmbiguousSplits,
    EmptyClass,
    EmptyDataset,
    InvalidClassNames,
    OneClassOnly,
    TestSplitMissing,
    TooFewImages,
    TrainSplitMissing,
    UnknownClass,
    UnknownDataset,
)

Pack = Callable[[Mapping[str, bytes]], Path]
Files = dict[str, bytes]
Make = Callable[..., Any]


def names_of(samples: Iterable[Sample]) -> list[str]:
    """The names, sorted."""
    return sorted(sample.name for sample in samples)


def test_every_container_gives_the_same_splits_and_bytes(packed: Pack, files: Files) -> None:
    """Folder, tar, tar.gz and zip: same names, labels and content, classes in sorted order."""
    splits = open_dataset(packed(files), seed=3)
    assert splits.class_names == ("ant", "bee", "cow")
    assert names_of(splits.test) == sorted(name for name in files if name.startswith("test/"))
    assert names_of([*splits.train, *splits.val]) == sorted(
        name for name in files if name.startswith("train/")
    )
    assert Counter(labels_of(splits.val)) == {0: 1, 1: 1, 2: 1}
    for sample in [*splits.train, *splits.val, *splits.test]:
        assert sample.read() == files[sample.name]
        assert splits.class_names[sample.label] == sample.name.split("/")[1]


def test_split_is_the_same_for_a_seed_in_every_container(
    packed: Pack, folder: Pack, files: Files
) -> None:
    """The split depends on names and seed, not on how the set is stored."""
    expected = names_of(open_dataset(folder(files), seed=3).val)
    assert names_of(open_dataset(packed(files), seed=3).val) == expected
    others = {tuple(names_of(open_dataset(packed(files), seed=seed).val)) for seed in range(6)}
    assert len(others) > 1


@pytest.mark.parametrize("alias", ["val", "valid", "Validation"])
def test_given_validation_split_is_taken(folder: Pack, tree: Make, alias: str) -> None:
    """A validation folder under its usual names is used as it is."""
    files = tree(["train/", f"{alias}/", "test/"], {"a": 2, "b": 3})
    splits = open_dataset(folder(files))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [5, 5, 5]


def test_one_folder_is_split_in_three_by_class(folder: Pack, tree: Make) -> None:
    """Each class gives a fifth to test and a tenth of the rest to validation."""
    splits = open_dataset(folder(tree([""], {"a": 50, "b": 10})))
    assert Counter(labels_of(splits.test)) == {0: 10, 1: 2}
    assert Counter(labels_of(splits.val)) == {0: 4, 1: 1}
    assert Counter(labels_of(splits.train)) == {0: 36, 1: 7}
    assert len({*names_of(splits.train), *names_of(splits.val), *names_of(splits.test)}) == 60


def test_no_validation_on_request(folder: Pack, files: Files) -> None:
    """A fraction of 0 leaves validation empty and train whole."""
    splits = open_dataset(folder(files), val_fraction=0)
    assert not splits.val
    assert len(splits.train) == 12


def test_wrapping_folder_is_looked_through(packed: Pack, files: Files) -> None:
    """A single folder around everything changes nothing, names neither."""
    wrapped = {f"my set/{name}": content for name, content in files.items()}
    splits = open_dataset(packed(wrapped))
    assert names_of(splits.test) == names_of(
        sample for sample in splits.test if sample.name.startswith("test/")
    )
    assert splits.test[0].image().size == (12, 10)


def test_class_may_be_called_train(folder: Pack, tree: Make) -> None:
    """A class folder with the name of a split is a class where images lie right in it."""
    splits = open_dataset(folder(tree([""], {"bus": 5, "train": 5})))
    assert splits.class_names == ("bus", "train")


def test_class_folders_are_read_to_any_depth(folder: Pack, tree: Make) -> None:
    """Images in folders inside a class folder belong to the class."""
    files = tree(["train/", "test/"], {"a": 3, "b/left": 3, "b/right": 3})
    splits = open_dataset(folder(files))
    assert splits.class_names == ("a", "b")
    assert Counter(labels_of(splits.test)) == {0: 3, 1: 6}


def test_other_files_are_left_out_and_counted(packed: Pack, files: Files) -> None:
    """Files of other kinds are counted by suffix, hidden ones left out without a word."""
    extra = {
        "train/ant/notes.txt": b"x",
        "train/ant/old.GIF": b"x",
        "train/ant/more.gif": b"x",
        "train/loose.png": b"x",
        "train/ant/.hidden.png": b"x",
        "__MACOSX/train/ant/._a.png": b"x",
        "README": b"x",
    }
    splits = open_dataset(packed(files | extra))
    assert splits.ignored == {
        ".txt": 1,
        ".gif": 2,
        "no suffix": 1,
        "images outside class folders": 1,
    }
    assert len(splits.train) + len(splits.val) == 12


def test_links_in_a_folder_are_followed_but_not_in_circles(folder: Pack, files: Files) -> None:
    """A class folder may be a link; links that lead back into themselves do not hang."""
    root = folder(files)
    (root / "train" / "dog").symlink_to(root / "test" / "cow")
    (root / "train" / "ant" / "loop").symlink_to(root)
    splits = open_dataset(root, val_fraction=0)
    assert splits.class_names == ("ant", "bee", "cow", "dog")
    assert len(splits.train) == 14


def test_samples_survive_pickling(packed: Pack, files: Files) -> None:
    """A sample can be sent to another process."""
    sample = open_dataset(packed(files)).test[0]
    assert pickle.loads(pickle.dumps(sample)).read() == sample.read()  # noqa: S301


def test_loader_workers_read_archives(archived: Pack, files: Files) -> None:
    """Forked workers give the same pixels as reading here."""
    dataset = ImageDataset(open_dataset(archived(files)).test, lambda image: sum(image.tobytes()))
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork")
    sums = torch.cat([batch for batch, _ in loader])
    assert sums.tolist() == [dataset[index][0] for index in range(len(dataset))]


def test_threads_read_archives(archived: Pack, files: Files) -> None:
    """Many threads reading one archive at once get what each asked for."""
    samples = open_dataset(archived(files)).train * 50
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda sample: sample.read(), samples))
    assert read == [files[sample.name] for sample in samples]


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({}, EmptyDataset, "train/CLASS/IMAGE"),
        ({"a/x.txt": b"", "b/y.txt": b""}, EmptyDataset, r"2 x \.txt"),
        ({"x.png": b"", "y.png": b""}, EmptyDataset, "2 x images outside"),
        ({"a/x.png": b"", "a/y.png": b""}, OneClassOnly, "'a' is the only class"),
        ({"a/x.png": b"", "b/y.png": b"", "c/": b""}, EmptyClass, "'c'"),
        ({"a/x.png": b"", "b/y.png": b"", "c/z.bmp": b""}, EmptyClass, "'c'"),
        ({"a/x.png": b"", "b/y.png": b""}, TooFewImages, "spare"),
        ({"train/a/x.png": b"", "train/b/y.png": b""}, TestSplitMissing, "test/CLASS"),
        ({"test/a/x.png": b"", "test/b/y.png": b""}, TrainSplitMissing, "train/CLASS"),
        (
            {"train/a/x.png": b"", "train/b/y.png": b"", "test/dog/z.png": b""},
            UnknownClass,
            "'dog', which the training split lacks",
        ),
        (
            {"train/a/x.png": b"", "train/b/y.png": b"", "val/a/z.png": b"", "valid/a/z.png": b""},
            AmbiguousSplits,
            "'val', 'valid' both mean the val split",
        ),
        ({"a\n/x.png": b"", "b/y.png": b""}, InvalidClassNames, "printable"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_what_cannot_be_trained_on_is_refused(
    folder: Pack, files: Files, error: type[Exception], says: str
) -> None:
    """Each unusable layout has its own error, and it tells what to do."""
    with pytest.raises(error, match=says):
        open_dataset(folder(files))


def test_train_with_val_but_no_test_says_how_to_go_on(folder: Pack, tree: Make) -> None:
    """ImageNet's usual layout is not guessed at."""
    with pytest.raises(TestSplitMissing, match="rename val/ to test/"):
        open_dataset(folder(tree(["train/", "val/"], {"a": 2, "b": 2})))


def test_empty_class_folder_is_seen_in_archives(packed: Pack, files: Files) -> None:
    """An archive's empty folder is a class without images, too."""
    with pytest.raises(EmptyClass, match="'dog'"):
        open_dataset(packed(files | {"train/dog/": b""}))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.tar", "nowhere.zip"])
def test_missing_path(tmp_path: Path, name: str) -> None:
    """A path that is not there is named."""
    with pytest.raises(UnknownDataset, match="does not exist"):
        open_dataset(tmp_path / name)


def test_an_empty_name_is_not_the_current_folder() -> None:
    """What a shell makes of an unset variable is refused."""
    with pytest.raises(UnknownDataset, match="empty"):
        open_dataset("")


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    """A file of another kind is refused with the kinds that are taken."""
    path = tmp_path / "set.rar"
    path.write_bytes(b"x")
    with pytest.raises(UnknownDataset, match=r"\.tar\.gz"):
        open_dataset(path)


def test_evaluation_set_is_test_or_everything(
    folder: Pack, tmp_path: Path, tree: Make, files: Files
) -> None:
    """A set with splits gives its test split, one folder gives all of it, even of one class."""
    found = open_evaluation_set(folder(files))
    assert len(found.samples) == 6
    only = tmp_path / "only"
    for name, content in tree([""], {"n01498041": 3}).items():
        (only / name).parent.mkdir(parents=True, exist_ok=True)
        (only / name).write_bytes(content)
    assert len(open_evaluation_set(only).samples) == 3
    assert open_evaluation_set(only).class_names == ("n01498041",)


def test_evaluation_needs_more_than_a_training_split(folder: Pack, tree: Make) -> None:
    """What has been trained on is no evaluation."""
    with pytest.raises(TestSplitMissing):
        open_evaluation_set(folder(tree(["train/"], {"a": 2, "b": 2})))


@pytest.mark.parametrize(
    ("name", "classes", "train", "test"),
    [
        ("cifar100_lt100", 100, 10_847, 10_000),
        ("flowers12", 12, 719, 240),
        ("caltech28", 28, 840, 420),
        ("signdigits10", 10, 800, 400),
        ("tinyimagenet40", 40, 2_400, 1_000),
    ],
)
def test_real_sets_have_their_published_counts(
    real_sets: Path, name: str, classes: int, train: int, test: int
) -> None:
    """The real archives open with the classes and images that their description counts."""
    splits = open_dataset(real_sets / f"{name}.tar", val_fraction=0)
    assert len(splits.class_names) == classes
    assert (len(splits.train), len(splits.test)) == (train, test)
    assert splits.test[-1].image().mode == "RGB"
