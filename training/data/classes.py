"""Whether the classes of a set can be trained on and carried by an adapter. Pure."""

from collections import Counter
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from adapters.manifest import MAX_CLASSES, Label
from training.data.samples import LabelledSets, Sample, labels_of, quoted
from training.errors import EmptyClass, InvalidClassNames, OneClassOnly, TrainSplitMissing

_LABEL: TypeAdapter[str] = TypeAdapter(Label)


def check_trainable(found: LabelledSets) -> None:
    """Let a set pass, or not.

    Raises:
        TrainSplitMissing: no image to train on.
        OneClassOnly: fewer than two classes.
        InvalidClassNames: too many classes, or names that are no labels.
        EmptyClass: a class of the training split has no image.
    """
    if not found.sets.get("train") and not found.sets.get("all"):
        raise TrainSplitMissing(
            f"There is no training split, only {quoted(found.sets)}. Add train/CLASS/IMAGE."
        )
    if len(found.class_names) < 2:
        raise OneClassOnly(
            f"{quoted(found.class_names)} is the only class. Add a folder with images of another."
        )
    if len(found.class_names) > MAX_CLASSES:
        raise InvalidClassNames(
            f"There are {len(found.class_names):,} classes; an adapter carries {MAX_CLASSES:,}. "
            "Merge or leave out some."
        )
    if strange := [name for name in found.class_names if not _is_label(name)]:
        raise InvalidClassNames(
            f"{quoted(strange)} cannot be labels: rename these folders to 1 to 256 printable "
            "characters."
        )
    check_no_empty_class(found.sets.get("train") or found.sets["all"], found.class_names)


def check_no_empty_class(train: Sequence[Sample], class_names: Sequence[str]) -> None:
    """Let a training split pass, or not.

    Raises:
        EmptyClass: a class has no image.
    """
    counts = Counter(labels_of(train))
    if empty := [name for index, name in enumerate(class_names) if not counts[index]]:
        raise EmptyClass(
            f"{quoted(empty)} has no training image that can be read (JPEG, PNG, WebP). Add "
            "images or take the folder out."
        )


def _is_label(name: str) -> bool:
    try:
        _LABEL.validate_python(name)
    except ValidationError:
        return False
    return True
