"""From paths to splits and classes: which folder layout a set has. Pure: it reads nothing."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from training.data.samples import quoted
from training.errors import AmbiguousSplits, EmptyDataset

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
SPLIT_ALIASES: Mapping[str, "Split"] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
OUTSIDE = "images outside class folders"

Split = Literal["train", "val", "test", "all"]
# Class name -> paths of its images, sorted; a class folder without images has none.
Classes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """The images by split and class. One folder of class folders is the single split `all`.

    `prefix` is the folder that wraps everything, with a slash, or "". `ignored` counts the files
    left out, by suffix or reason.
    """

    splits: Mapping[Split, Classes]
    prefix: str
    ignored: Mapping[str, int]


def find_layout(files: Collection[str], folders: Collection[str]) -> Layout:
    """The layout of a set with these paths (relative, with slashes).

    A folder that alone wraps everything is looked through. Hidden files are left out.

    Raises:
        EmptyDataset: no image lies in a class folder.
        AmbiguousSplits: two folders mean the same split.
    """
    visible = [path for path in files if not _is_hidden(path)]
    images = sorted(path for path in visible if _suffix(path) in IMAGE_SUFFIXES)
    ignored = Counter(
        _suffix(path) or "no suffix" for path in visible if _suffix(path) not in IMAGE_SUFFIXES
    )
    prefix = _wrapper(images)
    splits = _splits(
        [path.removeprefix(prefix) for path in images],
        [path.removeprefix(prefix) for path in folders if not _is_hidden(path)],
    )
    placed = sum(len(paths) for classes in splits.values() for paths in classes.values())
    if len(images) > placed:
        ignored[OUTSIDE] = len(images) - placed
    if not placed:
        raise EmptyDataset(
            f"No image lies in a class folder; found: {_listed(ignored)}. Lay the images out as "
            "train/CLASS/IMAGE and test/CLASS/IMAGE, or as CLASS/IMAGE; JPEG, PNG and WebP are "
            "read."
        )
    return Layout(splits, prefix, dict(ignored))


def _splits(images: list[str], folders: list[str]) -> dict[Split, Classes]:
    named = _split_folders(images)
    if not named:
        return {"all": _classes(images, folders, base="")}
    return {split: _classes(images, folders, base=f"{top}/") for split, top in named.items()}


def _split_folders(images: list[str]) -> dict[Split, str]:
    # A class may be called "train" (the vehicle): a split has class folders below it.
    tops = sorted({path.split("/", 1)[0] for path in images if path.count("/") >= 2})
    named: dict[Split, str] = {}
    for top in tops:
        split = SPLIT_ALIASES.get(top.lower())
        if split is None:
            continue
        if split in named:
            raise AmbiguousSplits(
                f"{quoted([named[split], top])} both mean the {split} split. Keep one of them."
            )
        named[split] = top
    return named


def _classes(images: list[str], folders: list[str], *, base: str) -> Classes:
    classes: dict[str, list[str]] = {
        folder.removeprefix(base): []
        for folder in folders
        if folder.startswith(base) and "/" not in folder.removeprefix(base)
    }
    for path in images:
        name, slash, _ = path.removeprefix(base).partition("/")
        if path.startswith(base) and slash:
            classes.setdefault(name, []).append(path)
    return {name: tuple(paths) for name, paths in sorted(classes.items())}


def _wrapper(images: list[str]) -> str:
    prefix = ""
    while True:
        rest = [path.removeprefix(prefix) for path in images]
        tops = {path.split("/", 1)[0] for path in rest}
        if len(tops) != 1 or any(path.count("/") < 2 for path in rest):
            return prefix
        top = tops.pop()
        if top.lower() in SPLIT_ALIASES:
            return prefix
        prefix += f"{top}/"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _listed(ignored: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {kind}" for kind, count in ignored.most_common(5)) or "no file"
