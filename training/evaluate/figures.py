"""Accuracy, loss and confusion from logits and labels. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.scenarios import ShotGroup, shot_groups

_SHOT_GROUPS: tuple[ShotGroup, ...] = ("many", "medium", "few")


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on one labelled set.

    Attributes:
        top1: share of the images whose first answer is right, 0 to 1.
        top5: share whose label is among the first five answers (all of them, if there are fewer).
        loss: mean cross-entropy, in nats.
        per_class: share of each class's images answered right; None for a class without an image.
        confusion: int64 [classes, classes], images by true class (row) and answer (column).
        images: how many were measured.
        groups: top-1 over the images of the classes with many, medium and few training images,
            None for a group without a test image; empty if the training counts are not known.
    """

    top1: float
    top5: float
    loss: float
    per_class: tuple[float | None, ...]
    confusion: Tensor = field(repr=False, compare=False)
    images: int
    groups: Mapping[ShotGroup, float | None]


def evaluate_logits(
    logits: Tensor, labels: Tensor, *, classes: int, train_counts: Sequence[int] | None = None
) -> Evaluation:
    """The figures that follow from logits [N, classes] and labels [N], N at least 1.

    `train_counts` (training images of each class) adds the accuracy by shot group. Among equal
    logits the lower class index comes first.
    """
    answers = logits.argsort(dim=1, descending=True, stable=True)[:, : min(5, classes)]
    confusion = torch.bincount(labels * classes + answers[:, 0], minlength=classes**2)
    confusion = confusion.view(classes, classes)
    return Evaluation(
        top1=confusion.trace().item() / len(labels),
        top5=(answers == labels[:, None]).any(dim=1).double().mean().item(),
        loss=F.cross_entropy(logits.float(), labels).item(),
        per_class=tuple(_share_right(confusion, [index]) for index in range(classes)),
        confusion=confusion,
        images=len(labels),
        groups={} if train_counts is None else _by_group(confusion, train_counts),
    )


def _by_group(confusion: Tensor, train_counts: Sequence[int]) -> dict[ShotGroup, float | None]:
    group_of = shot_groups(train_counts)
    return {
        name: _share_right(confusion, [i for i, group in enumerate(group_of) if group == name])
        for name in _SHOT_GROUPS
    }


def _share_right(confusion: Tensor, classes: list[int]) -> float | None:
    images = confusion[classes].sum().item()
    return confusion.diagonal()[classes].sum().item() / images if images else None
