"""An adapter file on labelled images: the same answers that a server would give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from torch import Tensor, nn

from adapters.backbone import StagedBackbone
from adapters.checkpoint import Checkpoint
from adapters.manifest import Preprocessing
from training.data.open import EvaluationSet, open_evaluation_set
from training.data.samples import Progress, Sample, quoted
from training.data.scenarios import RestrictedClasses, restrict_classes
from training.errors import UnknownClass
from training.evaluate.figures import Evaluation, evaluate_logits
from training.evaluate.predict import PassOptions, predict_logits


@dataclass(frozen=True)
class AdapterTask:
    """An adapter and the labelled images to measure it on.

    Attributes:
        model: normalised images [B, 3, H, W] -> logits of `labels`, in their order.
        samples: the images, labelled by place in `labels`.
        labels: the adapter's labels that compete.
        preprocessing: the backbone's.
    """

    model: nn.Module = field(repr=False)
    samples: Sequence[Sample] = field(repr=False)
    labels: tuple[str, ...]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Prediction:
    """An image by its name in the set, its true label, the answer, and the answer's score."""

    image: str
    truth: str
    answer: str
    score: float


@dataclass(frozen=True)
class AdapterEvaluation:
    """An adapter's figures over `labels`, and its answer to every image."""

    evaluation: Evaluation
    labels: tuple[str, ...]
    predictions: tuple[Prediction, ...] = field(repr=False)


def open_adapter_task(
    checkpoint: Checkpoint,
    backbone: StagedBackbone,
    data: str | Path,
    *,
    class_map: Mapping[str, str] | None = None,
    root: Path | None = None,
    download: bool = False,
) -> AdapterTask:
    """An adapter on its backbone, and the images of `data` (see `open_evaluation_set`).

    Without a `class_map` every class of the set is one of the adapter's labels and all labels
    compete, as when serving. A map (name in the set -> label) leaves the other classes of the set
    out, and only the labels it leads to compete.

    Raises:
        WrongBackbone: the adapter was made for another one.
        UnknownClass: without a map, the set has classes that are no labels of the adapter.
        InvalidClassMap: the map names what is not there.
        DataError: the set cannot be opened.
    """
    model = checkpoint.model(backbone)
    labels = checkpoint.manifest.labels
    found = open_evaluation_set(data, root=root, download=download)
    if class_map is None:
        chosen = _all_labels(found, labels)
    else:
        chosen = restrict_classes(found.class_names, labels, class_map)
    return AdapterTask(
        model=_Columns(model, chosen.columns),
        samples=chosen.samples(found.samples),
        labels=tuple(labels[column] for column in chosen.columns),
        preprocessing=backbone.spec.preprocessing,
    )


def evaluate_adapter(
    task: AdapterTask, *, on_progress: Progress | None = None, **options: Unpack[PassOptions]
) -> AdapterEvaluation:
    """Measure an adapter as it is served; its model moves to the `device` of the options.

    Raises:
        EmptyDataset, ImageError: see `predict_logits`.
    """
    task.model.to(options.get("device", "cpu"))
    logits, labels = predict_logits(
        task.model, task.samples, task.preprocessing, on_progress=on_progress, **options
    )
    evaluation = evaluate_logits(logits, labels, classes=len(task.labels))
    return AdapterEvaluation(evaluation, task.labels, _predictions(task, logits))


class _Columns(nn.Module):
    """A model whose logits are some of another's."""

    def __init__(self, model: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.columns = list(columns)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, len(columns)]."""
        return self.model(images_BCHW)[:, self.columns]


def _all_labels(found: EvaluationSet, labels: Sequence[str]) -> RestrictedClasses:
    column_of = {label: column for column, label in enumerate(labels)}
    if strange := [name for name in found.class_names if name not in column_of]:
        raise UnknownClass(
            f"The image set has the classes {quoted(strange)}, which are no labels of the adapter; "
            f"its labels are {quoted(labels)}. Rename the folders, or pass --class-map with a file "
            "that says which class of the set means which label."
        )
    targets = tuple(column_of[name] for name in found.class_names)
    return RestrictedClasses(tuple(range(len(labels))), targets)


def _predictions(task: AdapterTask, logits: Tensor) -> tuple[Prediction, ...]:
    scores, answers = logits.softmax(dim=1).max(dim=1)
    rows = zip(task.samples, answers.tolist(), scores.tolist(), strict=True)
    return tuple(
        Prediction(sample.name, task.labels[sample.label], task.labels[answer], score)
        for sample, answer, score in rows
    )
