"""What `train` and `evaluate` say at their end: readable figures, files, what to do next."""

import shlex
from collections.abc import Callable, Iterator, Mapping

from training.config import TrainConfig
from training.directory import ADAPTER, MODEL, REPORT, RunDirectory
from training.methods import METHODS


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _nats(loss: float) -> str:
    return f"{loss:.4f}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


_SHOWN: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "test_top1": ("test top-1", _percent),
    "test_top5": ("test top-5", _percent),
    "test_loss": ("test loss", _nats),
    "val_top1": ("validation top-1", _percent),
    "val_loss": ("validation loss", _nats),
    "best_epoch": ("best epoch", _count),
    "epochs": ("epochs", _count),
    "classes": ("classes", _count),
    "train_images": ("training images", _count),
    "val_images": ("validation images", _count),
    "test_images": ("test images", _count),
    "parameters": ("trained parameters", _count),
    "total_parameters": ("all parameters", _count),
    "seconds": ("training time", lambda seconds: f"{seconds:,.1f} s"),
    "images_per_s": ("training images a second", _count),
    "peak_memory_mib": ("peak memory", lambda size: f"{size:,.0f} MiB"),
    "top1": ("top-1", _percent),
    "top5": ("top-5", _percent),
    "loss": ("loss", _nats),
    "images": ("images", _count),
    "corruption_top1": ("top-1 under corruptions", _percent),
}


def readable(figures: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The names and values of single figures as people read them; tables are left out."""
    for key, value in figures.items():
        if isinstance(value, int | float):
            name, write = _SHOWN[key]
            yield name, write(value)


def next_steps(config: TrainConfig, directory: RunDirectory) -> str:
    """Where a finished run's files are, and how its adapter is served."""
    report = f"report   {directory.file(REPORT)}\n"
    if not METHODS[config.method].servable:
        return f"{report}weights  {directory.file(MODEL)} (a baseline, which cannot be served)"
    adapter = str(directory.file(ADAPTER))
    commands = (
        ("protuning", "serve", "--backbone", config.backbone, "--weights", config.weights),
        ("protuning", "register", "NAME", adapter),
    )
    serving = "\n".join(f"  {shlex.join(command)}" for command in commands)
    return f"{report}adapter  {adapter}\nServe it, under a NAME of your choice:\n{serving}"
