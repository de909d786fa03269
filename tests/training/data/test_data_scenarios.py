"""The paper's scenarios: long tails by its table, few shots, restricted class lists."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.open import open_dataset
from training.data.samples import Sample, labels_of
from training.data.scenarios import (
    FewShot,
    LongTail,
    long_tail_counts,
    read_class_map,
    restrict_classes,
    shot_groups,
)
from training.data.splitting import hold_out
from training.errors import InvalidClassMap, TooFewImages

Pack = Callable[[Mapping[str, bytes]], Path]
Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("per_class", "classes", "ratio", "total"),
    [
        (5000, 10, 100, 12_406),
        (5000, 10, 50, 13_996),
        (500, 100, 100, 10_847),
        (500, 100, 50, 12_608),
    ],
)
def test_long_tails_have_the_papers_counts(
    per_class: int, classes: int, ratio: float, total: int
) -> None:
    """Table 1 of the paper, from sets as large as CIFAR-10 and CIFAR-100."""
    labels = np.repeat(np.arange(classes), per_class).tolist()
    drawn = LongTail(ratio).indices(labels, 0, [str(label) for label in range(classes)])
    counts = Counter(labels[index] for index in drawn)
    assert len(drawn) == len(set(drawn)) == total
    assert (counts[0], counts[classes - 1]) == (per_class, per_class // ratio)
    assert list(long_tail_counts(per_class, classes, ratio)) == [
        counts[label] for label in range(classes)
    ]


def test_long_tail_of_the_real_set_is_that_profile(real_sets: Path) -> None:
    """The real CIFAR-100-LT was cut to the same profile, class by class."""
    train = open_dataset(real_sets / "cifar100_lt100.tar", val_fraction=0).train
    counts = Counter(labels_of(train))
    assert tuple(counts[label] for label in range(100)) == long_tail_counts(500, 100, 100)


def test_long_tail_is_taken_before_validation(folder: Pack, tree: Make) -> None:
    """The profile is that of the whole training set; validation comes out of it."""
    files = tree(["train/", "test/"], {"a": 40, "b": 40, "c": 40})
    splits = open_dataset(folder(files), sampling=LongTail(4), val_fraction=0.1)
    assert Counter(labels_of([*splits.train, *splits.val])) == {0: 40, 1: 20, 2: 10}
    assert Counter(labels_of(splits.val)) == {0: 4, 1: 2, 2: 1}
    assert len(splits.test) == 120


def test_long_tail_that_would_lose_a_class() -> None:
    """A ratio that leaves a class without images is refused."""
    with pytest.raises(TooFewImages, match=r"'bee'.* smaller ratio"):
        LongTail(100).indices([0] * 50 + [1] * 50, 0, ("ant", "bee"))


@pytest.mark.parametrize(("classes", "ratio"), [(1, 10), (5, 0.5)])
def test_meaningless_long_tails(classes: int, ratio: float) -> None:
    """One class has no tail, and a ratio under 1 would turn it round."""
    with pytest.raises(ValueError, match="long tail"):
        long_tail_counts(100, classes, ratio)


ABC = ("ant", "bee", "cow")


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_few_shots(shots: int) -> None:
    """So many of every class, more shots containing fewer, another seed giving others."""
    labels = [index % 3 for index in range(90)]
    drawn = FewShot(shots).indices(labels, 1, ABC)
    assert Counter(labels[index] for index in drawn) == dict.fromkeys(range(3), shots)
    assert set(drawn) <= set(FewShot(16).indices(labels, 1, ABC))
    assert drawn == FewShot(shots).indices(labels, 1, ABC)
    assert drawn != FewShot(shots).indices(labels, 2, ABC)


def test_few_shots_leave_validation_whole(folder: Pack, tree: Make) -> None:
    """Shots are taken from what validation leaves."""
    files = tree(["train/", "test/"], {"a": 20, "b": 20})
    splits = open_dataset(folder(files), sampling=FewShot(2))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4, 4, 40)


def test_more_shots_than_images() -> None:
    """The smallest class is named, with what it has, and how many more are too small."""
    with pytest.raises(TooFewImages, match=r"class 'bee' has \(3\)\. Take at most 3"):
        FewShot(4).indices([0] * 5 + [1] * 3, 0, ("ant", "bee"))
    with pytest.raises(TooFewImages, match=r"'bee' has \(2; too few in 2 classes\)"):
        FewShot(4).indices([0] * 3 + [1] * 2 + [2] * 9, 0, ABC)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.95])
def test_hold_out_is_stratified(fraction: float) -> None:
    """Each class gives its share, at least one, and keeps at least one."""
    sizes = {0: 100, 1: 7, 2: 2, 3: 1}
    labels = [label for label, size in sizes.items() for _ in range(size)]
    kept, held = hold_out(labels, fraction, seed=5)
    assert sorted(kept + held) == list(range(len(labels)))
    shares = Counter(labels[index] for index in held)
    for label, size in sizes.items():
        assert abs(shares[label] - fraction * size) <= max(1, 0.5)
        assert (shares[label] >= 1) == (size >= 2)
        assert shares[label] < size


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5])
def test_hold_out_of_an_impossible_share(fraction: float) -> None:
    """All or more cannot be held out."""
    with pytest.raises(ValueError, match="fraction"):
        hold_out([0, 0], fraction, seed=0)


def test_shot_groups_have_the_usual_bounds() -> None:
    """Many is over 100 training images, few under 20."""
    assert shot_groups([500, 101, 100, 20, 19, 1]) == (
        "many",
        "many",
        "medium",
        "medium",
        "few",
        "few",
    )


def unread(labels: list[int]) -> list[Sample]:
    """Samples that are never read."""
    return [Sample(f"{index}", label, bytes) for index, label in enumerate(labels)]


def test_restricted_classes_compete_among_themselves() -> None:
    """Two of the model's five classes, under other names: only their columns remain."""
    model_labels = ("ant", "bee", "cow", "dog", "eel")
    set_names = ("n01", "n02", "n03")
    restricted = restrict_classes(set_names, model_labels, {"n01": "dog", "n03": "bee"})
    assert restricted.columns == (1, 3)
    assert restricted.targets == (1, -1, 0)
    assert labels_of(restricted.samples(unread([0, 1, 2, 0]))) == [1, 0, 1]
    logits = np.array([[9.0, 1, 9, 2, 9], [9, 4, 9, 3, 9]])
    assert restricted.logits(logits).argmax(axis=1).tolist() == [1, 0]


def test_imagenet_a_style_restriction() -> None:
    """200 folders named by WordNet id over a model of 1000 classes, each to its own label."""
    labels = [f"class {index}" for index in range(1000)]
    chosen = np.random.default_rng(0).permutation(1000)[:200]
    class_map = {f"n{index:08d}": labels[index] for index in chosen}
    names = sorted(class_map)
    restricted = restrict_classes(names, labels, class_map)
    assert len(restricted.columns) == 200
    for label, name in enumerate(names):
        assert restricted.columns[restricted.targets[label]] == int(name[1:])


def test_two_folders_may_mean_one_label() -> None:
    """Several classes of a set can be one class of the model."""
    restricted = restrict_classes(("cat1", "cat2"), ("cat", "dog"), {"cat1": "cat", "cat2": "cat"})
    assert (restricted.columns, restricted.targets) == ((0,), (0, 0))


@pytest.mark.parametrize(
    ("class_map", "says"),
    [
        ({}, "empty"),
        ({"typo": "cat"}, "'typo', which the image set lacks"),
        ({"a": "typo"}, "'typo', which are no labels"),
    ],
)
def test_class_lists_that_name_what_is_not_there(class_map: dict[str, str], says: str) -> None:
    """A typo in the list is found before anything is measured."""
    with pytest.raises(InvalidClassMap, match=says):
        restrict_classes(("a", "b"), ("cat", "dog"), class_map)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", json.dumps({"a b": "cat", "c": "c"})),
        ("map.txt", "a b\tcat\n\nc\n"),
    ],
)
def test_class_lists_are_read(tmp_path: Path, name: str, text: str) -> None:
    """JSON and lines, with spaces in names; a name alone stands for itself."""
    path = tmp_path / name
    path.write_text(text)
    assert read_class_map(path) == {"a b": "cat", "c": "c"}


def test_class_list_as_a_json_list(tmp_path: Path) -> None:
    """A list of names restricts without renaming."""
    path = tmp_path / "list.json"
    path.write_text('["b", "a"]')
    assert read_class_map(path) == {"a": "a", "b": "b"}


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "3"])
def test_class_lists_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """Malformed files are refused with the formats that are taken."""
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InvalidClassMap, match="TAB"):
        read_class_map(path)
