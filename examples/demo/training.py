"""The demo's training: an adapter for a folder of pictures, and a head alone to compare it with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adapters.backbone import load_backbone
from adapters.checkpoint import read
from examples.demo.burst import Ask
from training.config import make_config
from training.directory import ADAPTER, RunDirectory
from training.evaluate import evaluate_adapter, open_adapter_task
from training.methods import settle
from training.progress import ConsoleObserver
from training.run import train

# A few hundred pictures make few updates: small batches and a high rate make the most of them.
_BATCH_SIZE = 16
_LR = 3e-3
_LINES = 4  # of a training's progress


@dataclass(frozen=True)
class Backbone:
    """A timm model and its weights: a path, or "hub"."""

    name: str
    weights: str


@dataclass(frozen=True)
class Trained:
    """A task and its adapter.

    Attributes:
        name: of the task.
        images: its folder, with train/ and test/.
        adapter: the file.
        metrics: of the adapter's run.
        head_top1: accuracy of a head alone on the test images, 0 to 1.
        top1: the adapter's, as `protuning evaluate` measures it.
    """

    name: str
    images: Path
    adapter: Path
    metrics: Mapping[str, float]
    head_top1: float
    top1: float

    def asks(self) -> list[Ask]:
        """The test images as questions, the classes mixed."""
        paths = sorted((self.images / "test").glob("*/*"), key=lambda path: path.name)
        return [Ask(self.name, path, truth=path.parent.name) for path in paths]


def train_task(
    images: Path, runs: Path, backbone: Backbone, epochs: int, console: Console
) -> Trained:
    """Train on a folder of pictures, once with prompts and once the head alone, into `runs`.

    Raises:
        AdapterError: there is no such backbone, or its weights cannot be had.
        TrainingError: see `training.run.train`.
    """
    run = runs / images.name
    options = {"epochs": epochs, "batch_size": _BATCH_SIZE, "lr": _LR}
    metrics = _train({"method": "pro-tuning", **options}, images, run, backbone, console)
    head = _train({"method": "head"}, images, runs / f"{run.name}-head", backbone, console)
    top1 = _evaluate(run / ADAPTER, images, backbone)
    return Trained(run.name, images, run / ADAPTER, metrics, head["test_top1"], top1)


def _train(
    options: Mapping[str, object], images: Path, out: Path, backbone: Backbone, console: Console
) -> dict[str, float]:
    """Run what `protuning train` runs, and print the command that does the same."""
    given = {"backbone": backbone.name, "weights": backbone.weights, **options}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    console.print(f"  protuning train {images} {flags} --out {out}", style="dim", soft_wrap=True)
    config = settle(make_config({"data": str(images), **given}))
    assert config.epochs is not None  # noqa: S101  settled
    observers = [ConsoleObserver(console, config.epochs, lines=_LINES)]
    return train(config, RunDirectory(out), overwrite=True, observers=observers)


def _evaluate(adapter: Path, images: Path, backbone: Backbone) -> float:
    """The same as `protuning evaluate ADAPTER IMAGES`."""
    loaded = load_backbone(backbone.name, backbone.weights)
    return evaluate_adapter(open_adapter_task(read(adapter), loaded, images)).evaluation.top1
