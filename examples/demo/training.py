"""The demo's training: an adapter for a folder of pictures, and a head alone to compare it with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adapters.backbone import load_backbone
from adapters.checkpoint import read
from examples.demo.burst import Ask
from training.config import MethodName, make_config
from training.directory import ADAPTER, RunDirectory
from training.evaluate import evaluate_adapter, open_adapter_task
from training.run import train


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
    name = images.name
    with console.status(f"{name}: prompt blocks and head"):
        metrics = _train("pro-tuning", images, runs / name, backbone, epochs)
    with console.status(f"{name}: the head alone, to compare"):
        head = _train("head", images, runs / f"{name}-head", backbone, None)
    adapter = runs / name / ADAPTER
    top1 = _evaluate(adapter, images, backbone)
    return Trained(name, images, adapter, metrics, head["test_top1"], top1)


def _train(
    method: MethodName, images: Path, out: Path, backbone: Backbone, epochs: int | None
) -> dict[str, float]:
    """The same as `protuning train IMAGES --out OUT ...`."""
    options: dict[str, object] = {
        "data": str(images),
        "backbone": backbone.name,
        "weights": backbone.weights,
        "method": method,
        "epochs": epochs,
    }
    return train(make_config(options), RunDirectory(out), overwrite=True)


def _evaluate(adapter: Path, images: Path, backbone: Backbone) -> float:
    """The same as `protuning evaluate ADAPTER IMAGES`."""
    loaded = load_backbone(backbone.name, backbone.weights)
    return evaluate_adapter(open_adapter_task(read(adapter), loaded, images)).evaluation.top1
