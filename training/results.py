"""What a finished run leaves: adapter or baseline weights, report, metrics."""

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import PurePath

import torch
from safetensors.torch import save
from torch import Tensor

from adapters.backbone.fingerprint import classifier_keys
from adapters.checkpoint import make_checkpoint
from adapters.errors import ProofInsensitive
from adapters.manifest import Provenance
from adapters.model import AdapterModel
from training.config import OF_PROMPTS, TrainConfig
from training.data.check import Checked
from training.data.samples import labels_of
from training.directory import ADAPTER, METRICS, MODEL, RunDirectory
from training.errors import RunNotWritten
from training.evaluate import Evaluation
from training.loop import Outcome
from training.machine import Machine
from training.methods import Method
from training.report import RunReport, write_report

_OF_THE_MACHINE = ("seconds", "images_per_s", "peak_memory_mib")
_LIBRARIES = ("protuning", "torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True)
class Run:
    """Everything a run stands on, before its first update.

    Attributes:
        config: settled.
        method: of the config.
        machine: that it runs on.
        directory: of its files.
        images: the splits, every image of which decodes.
        model: on the machine's device.
    """

    config: TrainConfig
    method: Method
    machine: Machine
    directory: RunDirectory
    images: Checked
    model: AdapterModel

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training images of each class."""
        counts = Counter(labels_of(self.images.splits.train))
        return tuple(counts[label] for label in range(len(self.images.splits.class_names)))


@dataclass(frozen=True)
class Finished:
    """A run after its last update.

    Attributes:
        outcome: of the loop.
        evaluation: of the best weights on the test images.
        test_logits: float32 [test images, classes].
        seconds: of training, with the computation of features, without validation.
    """

    outcome: Outcome
    evaluation: Evaluation
    test_logits: Tensor = field(repr=False)
    seconds: float


def write_results(run: Run, finished: Finished) -> dict[str, float]:
    """Write everything that a finished run leaves, metrics.json last; the metrics are returned.

    Raises:
        ProofInsensitive: the adapter is not written; the report, which says so, and the metrics
            are.
        RunNotWritten: the disk is full; the run can be resumed.
    """
    metrics = _metrics(run, finished)
    try:
        name, weights = _weights(run, metrics)
    except ProofInsensitive as error:
        refusal = f"{error} {_how_to_go_on(run)}"
        _report(run, finished, metrics, refusal)
        _end(run, metrics)
        raise ProofInsensitive(
            f"{refusal} No adapter was written; the metrics and the report are in "
            f"{run.directory.path}."
        ) from error
    _report(run, finished, metrics)
    run.directory.write(name, weights)
    _end(run, metrics)
    return metrics


def _end(run: Run, metrics: dict[str, float]) -> None:
    run.directory.write(METRICS, json.dumps(metrics, indent=2).encode() + b"\n")
    run.directory.finish()


def _how_to_go_on(run: Run) -> str:
    """What to do about weights that have learned too little to be proven."""
    assert run.config.epochs is not None  # noqa: S101  settled
    enough = max(run.method.recipe.epochs, 2 * run.config.epochs)
    return (
        f"Run it again with --overwrite and more epochs: --epochs {enough}, for example, "
        f"instead of {run.config.epochs}."
    )


def _weights(run: Run, metrics: dict[str, float]) -> tuple[str, bytes]:
    """The file that the trained weights go into, and its content."""
    if run.method.servable:
        return ADAPTER, _adapter(run, metrics)
    return MODEL, _baseline(run)


def _metrics(run: Run, finished: Finished) -> dict[str, float]:
    """The run in numbers: accuracies 0 to 1, losses in nats, memory in MiB."""
    best, history = finished.outcome.best, finished.outcome.history
    splits = run.images.splits
    validation = {"val_top1": best.val_top1, "val_loss": best.val_loss}
    return {
        "test_top1": finished.evaluation.top1,
        "test_top5": finished.evaluation.top5,
        "test_loss": finished.evaluation.loss,
        **{name: value for name, value in validation.items() if value is not None},
        "best_epoch": best.epoch,
        "epochs": len(history),
        "classes": len(splits.class_names),
        "train_images": len(splits.train),
        "val_images": len(splits.val),
        "test_images": len(splits.test),
        "parameters": _count(run.model, trained=True),
        "total_parameters": _count(run.model, trained=False),
        "seconds": finished.seconds,
        "images_per_s": len(history) * len(splits.train) / finished.seconds,
        "peak_memory_mib": max(row.peak_memory_mib for row in history),
    }


def _count(model: AdapterModel, *, trained: bool) -> int:
    """Parameters of the model without timm's own classifier, which it does not use."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad or not trained) and not name.startswith(_unused(model))
    )


def _unused(model: AdapterModel) -> tuple[str, ...]:
    return tuple(f"backbone.model.{name}" for name in classifier_keys(model.backbone.model))


def _adapter(run: Run, metrics: dict[str, float]) -> bytes:
    """The checkpoint: the same bytes for the same run, wherever and however fast it was.

    Its provenance names data and weights without their folders, and no time or memory.
    """
    config = run.config.model_dump(mode="json")
    data = PurePath(run.config.data).name
    config |= {"data": data, "weights": PurePath(run.config.weights).name, "data_root": None}
    provenance = Provenance(
        method=run.method.name,
        data=f"{data[:512]} sha256:{run.images.digest}",
        metrics={name: float(v) for name, v in metrics.items() if name not in _OF_THE_MACHINE},
        libraries={"python": platform.python_version()} | {n: version(n) for n in _LIBRARIES},
        config=config,
    )
    model = run.model.to("cpu")
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format)
    return make_checkpoint(model, run.images.splits.class_names, provenance).data


def _baseline(run: Run) -> bytes:
    """The weights of backbone and head, as `AdapterModel` names them."""
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in run.model.state_dict().items()
        if not name.startswith(_unused(run.model))
    }
    # One key: the order of several is not the same in every process.
    about = {"format": "baseline-1", "labels": run.images.splits.class_names}
    return save(tensors, {"protuning": json.dumps(about)})


def _report(
    run: Run, finished: Finished, metrics: dict[str, float], refusal: str | None = None
) -> None:
    config, splits = run.config, run.images.splits
    report = RunReport(
        title=f"{run.method.name} on {PurePath(config.data).name}",
        backbone=config.backbone,
        weights=config.weights,
        method=config.method,
        data=config.data,
        config=config.model_dump(
            exclude_none=True, exclude=set() if run.method.prompts else OF_PROMPTS
        ),
        class_names=splits.class_names,
        train_counts=run.train_counts,
        val_images=len(splits.val),
        history=[row.model_dump() for row in finished.outcome.history],
        best_epoch=finished.outcome.best.epoch,
        evaluation=finished.evaluation,
        test_samples=splits.test,
        test_logits=finished.test_logits,
        trained_parameters=int(metrics["parameters"]),
        total_parameters=int(metrics["total_parameters"]),
        seconds=finished.seconds,
        peak_memory_mib=metrics["peak_memory_mib"],
        adapter=ADAPTER if run.method.servable and not refusal else None,
        refusal=refusal,
        notes=_notes(run),
    )
    try:
        write_report(run.directory.path, report)
    except OSError as error:
        raise RunNotWritten(
            f"The report in {run.directory.path} cannot be written ({error.strerror}). Free some "
            "space, then go on with --resume."
        ) from error


def _notes(run: Run) -> tuple[str, ...]:
    notes = []
    if broken := run.images.broken:
        notes.append(f"Broken images were left out: {len(broken)}, such as {broken[0].name}.")
    if ignored := run.images.splits.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
        notes.append(f"Files that are no images were left out: {kinds}.")
    if not run.method.servable:
        notes.append("This is a baseline to compare with: it changes the shared backbone.")
    return tuple(notes)
