"""What a labelled image set is to the rest of training: samples, and three splits of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from adapters.preprocess import ImageLimits, decode

# An image that the server would refuse is of no use in training either.
LIMITS = ImageLimits()

# Whoever holds one can pickle it: data loader workers may be started afresh.
Reader = Callable[[], bytes]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image, not yet read.

    `name` is unique in its split (the path inside the set), `label` is the class index.
    """

    name: str
    label: int
    read: Reader

    def image(self) -> Image.Image:
        """The upright RGB image.

        Raises:
            ImageError: the bytes cannot be had or decoded (see `adapters.preprocess.decode`).
        """
        return decode(self.read(), LIMITS)


@dataclass(frozen=True)
class DataSplits:
    """A labelled image set, split. `ignored` counts what was left out, by file suffix or reason."""

    train: Sequence[Sample]
    val: Sequence[Sample]
    test: Sequence[Sample]
    class_names: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)

    def by_name(self) -> dict[str, Sequence[Sample]]:
        """The three splits by their names."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class LabelledSets:
    """A set as it was found: `sets` holds train, val and test as far as there, or `all`."""

    sets: Mapping[str, Sequence[Sample]]
    class_names: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)


def labels_of(samples: Iterable[Sample]) -> list[int]:
    """The class index of each sample, in order."""
    return [sample.label for sample in samples]


def quoted(names: Iterable[str], at_most: int = 10) -> str:
    """Some names for an error message: quoted, the first `at_most`, and how many more."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most:,} more"
