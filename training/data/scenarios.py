"""The paper's scenarios (section 4.1): long tails, few shots, restricted class lists. Pure.

Long-tailed sets follow the exponential profile of class-balanced loss (the paper's [5]):
class i of C keeps n_max * ratio^(-i / (C - 1)) images, truncated.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from training.data.samples import Sample, quoted
from training.data.splitting import Indices, draw
from training.errors import InvalidClassMap, TooFewImages

ShotGroup = Literal["many", "medium", "few"]
_CLASS_MAP: TypeAdapter[list[str] | dict[str, str]] = TypeAdapter(list[str] | dict[str, str])


@dataclass(frozen=True)
class LongTail:
    """Class 0 has `imbalance_ratio` times the images of the last class."""

    imbalance_ratio: float

    def indices(self, labels: Sequence[int], seed: int, class_names: Sequence[str]) -> Indices:
        """Indices of the long tail; its largest class is as large as the smallest in `labels`.

        Raises:
            TooFewImages: the last class would be left without an image.
        """
        counts = Counter(labels)
        if not counts:
            return []
        keep = long_tail_counts(min(counts.values()), max(counts) + 1, self.imbalance_ratio)
        if not keep[-1]:
            raise TooFewImages(
                f"An imbalance ratio of {self.imbalance_ratio:g} leaves the last class, "
                f"{class_names[-1]!r}, without an image: the smallest class has "
                f"{min(counts.values())}. Take a smaller ratio."
            )
        return draw(labels, lambda label, _available: keep[label], seed)


@dataclass(frozen=True)
class FewShot:
    """`shots` images of every class."""

    shots: int

    def indices(self, labels: Sequence[int], seed: int, class_names: Sequence[str]) -> Indices:
        """Indices of the shots. Those of fewer shots are among those of more, at one seed.

        Raises:
            TooFewImages: a class has fewer images.
        """
        short = {label: count for label, count in Counter(labels).items() if count < self.shots}
        if short:
            fewest = min(short, key=lambda label: (short[label], label))
            others = f"; too few in {len(short):,} classes" if len(short) > 1 else ""
            raise TooFewImages(
                f"{self.shots:,} shots are more training images than the class "
                f"{class_names[fewest]!r} has ({short[fewest]:,}{others}). Take at most "
                f"{short[fewest]:,}, or add images."
            )
        return draw(labels, lambda _label, _available: self.shots, seed)


Sampling = LongTail | FewShot


def long_tail_counts(largest: int, classes: int, imbalance_ratio: float) -> tuple[int, ...]:
    """Images per class of the exponential profile, `classes` of them.

    Raises:
        ValueError: fewer than two classes, or a ratio under 1.
    """
    if classes < 2 or imbalance_ratio < 1:
        raise ValueError(
            "A long tail needs at least 2 classes and an imbalance ratio of 1 or more."
        )
    return tuple(
        int(largest * (1 / imbalance_ratio) ** (index / (classes - 1))) for index in range(classes)
    )


def shot_groups(train_counts: Sequence[int]) -> tuple[ShotGroup, ...]:
    """The group of each class: many (over 100 training images), medium (20 to 100), few."""
    return tuple(
        "many" if count > 100 else "medium" if count >= 20 else "few" for count in train_counts
    )


@dataclass(frozen=True)
class RestrictedClasses:
    """Evaluation over some of a model's classes.

    `columns` are the model's logit columns that compete, ascending; `targets` maps a label of
    the set to its place among `columns`, or to -1 where the class is left out.
    """

    columns: tuple[int, ...]
    targets: tuple[int, ...]

    def samples(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples of the classes that take part, labelled by place among `columns`."""
        return [
            Sample(sample.name, self.targets[sample.label], sample.read)
            for sample in samples
            if self.targets[sample.label] >= 0
        ]

    def logits(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        """[N, model classes] -> [N, len(columns)]."""
        return logits[:, list(self.columns)]


def restrict_classes(
    set_names: Sequence[str], model_labels: Sequence[str], class_map: Mapping[str, str]
) -> RestrictedClasses:
    """Evaluate the classes in `class_map` (name in the set -> label of the model) and no others.

    Several classes of the set may mean one label.

    Raises:
        InvalidClassMap: a name or label that is not there, or no class at all.
    """
    if not class_map:
        raise InvalidClassMap("The class list is empty. Name at least one class.")
    if strange := sorted(set(class_map) - set(set_names)):
        raise InvalidClassMap(
            f"The class list names {quoted(strange)}, which the image set lacks. It has "
            f"{quoted(set_names)}."
        )
    if strange := sorted(set(class_map.values()) - set(model_labels)):
        raise InvalidClassMap(
            f"The class list leads to {quoted(strange)}, which are no labels of the model. It has "
            f"{quoted(model_labels)}."
        )
    column_of = {label: column for column, label in enumerate(model_labels)}
    columns = sorted({column_of[label] for label in class_map.values()})
    place_of = {column: place for place, column in enumerate(columns)}
    targets = (
        place_of[column_of[class_map[name]]] if name in class_map else -1 for name in set_names
    )
    return RestrictedClasses(tuple(columns), tuple(targets))


def read_class_map(path: Path) -> dict[str, str]:
    """A class list: JSON (an object name -> label, or a list of names), or text.

    Text has one class a line: `name`, or `name<TAB>label` where the model calls it otherwise.

    Raises:
        InvalidClassMap: the file cannot be read as either.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".json":
            return _parse_lines(text)
        names = _CLASS_MAP.validate_python(json.loads(text))
    except (OSError, ValueError, ValidationError) as error:
        raise InvalidClassMap(
            f"{path} is not a class list ({error}). Give JSON, or lines of name<TAB>label."
        ) from error
    return names if isinstance(names, dict) else {name: name for name in names}


def _parse_lines(text: str) -> dict[str, str]:
    pairs = (line.partition("\t") for line in text.splitlines() if line.strip())
    return {name.strip(): label.strip() or name.strip() for name, _, label in pairs}
