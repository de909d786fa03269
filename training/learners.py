"""What the loop trains: a model, its batches in order, and how it is validated.

An `ImageLearner` runs the whole model on images. A `FeatureLearner` trains a head on features that
the frozen backbone has computed once: the same training, many times faster, while no augmentation
asks for another view of an image.
"""

import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adapters.manifest import Preprocessing
from adapters.model import AdapterModel
from adapters.preprocess import normalize
from training.augment import SeededImages, train_transform
from training.batches import BatchPlan
from training.config import Augment
from training.data.dataset import ImageDataset
from training.data.samples import Sample
from training.evaluate import evaluate_logits, predict_logits
from training.machine import Machine


class Batch(NamedTuple):
    """What the model takes [B, ...] and the labels [B], on the model's device."""

    inputs: Tensor
    labels: Tensor


class Score(NamedTuple):
    """Validation: top-1 (0 to 1) and mean cross-entropy (nats)."""

    top1: float
    loss: float


class Learner(Protocol):
    """A model with the data that it learns from."""

    @property
    def model(self) -> nn.Module:
        """What trains: a batch's inputs -> logits."""
        ...

    @property
    def plan(self) -> BatchPlan:
        """The order of the training images."""
        ...

    def batches(self, epoch: int, update: int, epochs: int) -> Generator[Batch]:
        """The parts of all batches from here to the end, in the order of the plan."""
        ...

    def validate(self) -> Score | None:
        """How good the model is now; None without a validation split."""
        ...


@dataclass(frozen=True)
class ImageLearner:
    """The whole model on augmented images.

    Attributes:
        model: normalised images -> logits, on the machine's device.
        plan: the order of `train`.
        train: the training images.
        val: the validation images, perhaps none.
        preprocessing: of the backbone.
        augment: the strength of the augmentation.
        machine: that it runs on.
    """

    model: nn.Module
    plan: BatchPlan
    train: Sequence[Sample]
    val: Sequence[Sample]
    preprocessing: Preprocessing
    augment: Augment
    machine: Machine

    def batches(self, epoch: int, update: int, epochs: int) -> Generator[Batch]:
        """Decoded and augmented in the background; one loader for all epochs never pauses."""
        transform = train_transform(self.preprocessing, self.augment)
        images = SeededImages(ImageDataset(self.train, transform), self.plan.seed)
        loader = DataLoader(
            images,
            batch_sampler=self._keys(epoch, update, epochs),
            num_workers=self.machine.workers,
            pin_memory=self.machine.device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_loop,
        )
        for pixels_BHWC, labels_B in loader:
            on_device = pixels_BHWC.to(self.machine.device, non_blocking=True)
            images_BCHW = normalize(on_device, self.preprocessing)
            yield Batch(images_BCHW, labels_B.to(self.machine.device, non_blocking=True))

    def validate(self) -> Score | None:
        """Each process measures its share of the images."""
        if not self.val:
            return None
        machine = self.machine
        share = self.val[machine.rank :: machine.ranks] or self.val
        logits, labels = predict_logits(
            self.model,
            share,
            self.preprocessing,
            device=machine.device,
            precision=machine.precision,
            workers=machine.workers,
        )
        return _score(logits, labels, machine)

    def _keys(self, epoch: int, update: int, epochs: int) -> Iterator[list[tuple[int, int]]]:
        for current, part in self.plan.stream(epoch, update, epochs):
            yield [(current, int(index)) for index in part]


@dataclass(frozen=True)
class FeatureLearner:
    """A head on features [N, F] and labels [N] that lie on the machine's device.

    Attributes:
        model: features -> logits.
        plan: the order of `train`.
        train: all of the training split.
        val: all of the validation split; None without one.
        machine: that it runs on.
    """

    model: nn.Module
    plan: BatchPlan
    train: Batch
    val: Batch | None
    machine: Machine

    def batches(self, epoch: int, update: int, epochs: int) -> Generator[Batch]:
        """Rows of the features."""
        for _, part in self.plan.stream(epoch, update, epochs):
            rows = torch.from_numpy(part).to(self.machine.device)
            yield Batch(self.train.inputs[rows], self.train.labels[rows])

    @torch.no_grad()
    def validate(self) -> Score | None:
        """All at once."""
        if self.val is None:
            return None
        logits: Tensor = self.model(self.val.inputs)
        return _score(logits.cpu(), self.val.labels.cpu(), self.machine)


class _Pooled(nn.Module):
    """A model that stops before its head."""

    def __init__(self, model: AdapterModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Pooled features [B, F]."""
        return self.model.features(images_BCHW)


def compute_features(
    model: AdapterModel,
    samples: Sequence[Sample],
    machine: Machine,
) -> Batch:
    """The pooled float32 features of `samples`, one at least, on the model's device."""
    features, labels = predict_logits(
        _Pooled(model),
        samples,
        model.backbone.spec.preprocessing,
        device=machine.device,
        precision=machine.precision,
        workers=machine.workers,
    )
    # The evaluation's inference tensors cannot take part in a backward pass; their copies can.
    return Batch(features.clone().to(machine.device), labels.clone().to(machine.device))


def _score(logits: Tensor, labels: Tensor, machine: Machine) -> Score:
    count = len(labels)
    measured = evaluate_logits(logits, labels, classes=logits.shape[1])
    top1, loss, images = machine.total([measured.top1 * count, measured.loss * count, count])
    return Score(top1 / images, loss / images)


def _leave_interrupts_to_the_loop(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the step at hand still needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
