"""Accuracy under the common corruptions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

from torch import nn

from adapters.manifest import Preprocessing
from training.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from training.data.samples import Progress, Sample
from training.evaluate.predict import PassOptions, predict_logits


@dataclass(frozen=True)
class CorruptionTable:
    """Top-1 (0 to 1) under each kind of corruption, one figure for each of `severities`."""

    severities: tuple[int, ...]
    top1: Mapping[str, tuple[float, ...]]

    @property
    def mean(self) -> float:
        """The mean over all kinds and severities, 0 to 1."""
        figures = [figure for row in self.top1.values() for figure in row]
        return sum(figures) / len(figures)


def evaluate_corruptions(
    model: nn.Module,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    kinds: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    on_progress: Progress | None = None,
    **options: Unpack[PassOptions],
) -> CorruptionTable:
    """Top-1 on distorted copies of `samples`, for each of `kinds` at each of `severities`.

    Both name at least one. `on_progress` counts the images of all passes together.

    Raises:
        UnknownCorruption: no such kind or severity; nothing has been run yet.
        EmptyDataset, ImageError: see `predict_logits`.
    """
    corruptions = [Corruption(kind, severity, seed) for kind in kinds for severity in severities]
    total = len(corruptions) * len(samples)
    top1: dict[str, tuple[float, ...]] = dict.fromkeys(kinds, ())
    for number, corruption in enumerate(corruptions):
        logits, labels = predict_logits(
            model,
            samples,
            preprocessing,
            corruption=corruption,
            on_progress=_part_of(total, number * len(samples), on_progress),
            **options,
        )
        right = (logits.argmax(dim=1) == labels).double().mean().item()
        top1[corruption.kind] += (right,)
    return CorruptionTable(tuple(severities), top1)


def _part_of(total: int, before: int, on_progress: Progress | None) -> Progress | None:
    """One pass's progress as that of all passes."""
    return on_progress and (lambda done, _: on_progress(before + done, total))
