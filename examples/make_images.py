"""Three small tasks as folders of labelled pictures: `python -m examples.make_images FOLDER`.

Every digit here is one that the sample backbone has never seen: it knows 0 to 4 only.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from examples.painting import Scans, paint, scanned_digits

Split = Literal["train", "test"]
Subject = tuple[int, int]

_NAMES = {5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_WAYS = {0: "up", 90: "left", 180: "down", 270: "right"}
COUNTS: Mapping[Split, int] = {"train": 360, "test": 120}
_TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class Task:
    """What its pictures show and how they are labelled: digit and turn in degrees -> class."""

    name: str
    classes: Mapping[Subject, str]


TASKS = (
    Task("digits-5-to-9", {(digit, 0): name for digit, name in _NAMES.items()}),
    Task("even-or-odd", {(digit, 0): "odd" if digit % 2 else "even" for digit in _NAMES}),
    # Without 8 and 9: they look like themselves and like 6 when they stand on their heads.
    Task("which-way-up", {(digit, turn): _WAYS[turn] for digit in (5, 6, 7) for turn in _WAYS}),
)


def make_images(folder: Path, counts: Mapping[Split, int] = COUNTS, seed: int = 0) -> list[Path]:
    """Write each task as FOLDER/TASK/train|test/CLASS/IMAGE, and return the tasks' folders.

    A task has as many pictures as `counts` says, a PNG among six JPEGs. The same seed gives the
    same pictures. What was there under the tasks' names is replaced.
    """
    scans = scanned_digits()
    for number, task in enumerate(TASKS):
        shutil.rmtree(folder / task.name, ignore_errors=True)
        for split, count in counts.items():
            rng = np.random.default_rng((seed, number, split == "train"))
            _write(folder / task.name / split, task, _part(scans, split), count, rng)
    return [folder / task.name for task in TASKS]


def _write(
    folder: Path, task: Task, scans: Mapping[int, Scans], count: int, rng: np.random.Generator
) -> None:
    subjects = list(task.classes)
    for number in range(count):
        digit, turn = subjects[number % len(subjects)]
        path = folder / task.classes[digit, turn] / f"{number:03}.{'jpg' if number % 7 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(rng.choice(scans[digit]), turn, rng).save(path)


def _part(scans: Mapping[int, Scans], split: Split) -> dict[int, Scans]:
    """The first scans of each digit are for training, the others for testing."""
    cut = {digit: int(len(own) * _TRAIN_SHARE) for digit, own in scans.items()}
    if split == "train":
        return {digit: own[: cut[digit]] for digit, own in scans.items()}
    return {digit: own[cut[digit] :] for digit, own in scans.items()}


def main(folder: Annotated[Path, typer.Argument(help="Where the tasks' folders go.")]) -> None:
    """Write three small tasks as folders of labelled pictures."""
    for path in make_images(folder):
        typer.echo(str(path))


if __name__ == "__main__":
    typer.run(main)
