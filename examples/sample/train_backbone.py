"""The recipe of the sample backbone: `python -m examples.sample.train_backbone`.

timm's test_resnet, from random weights, learns to tell the digits 0 to 4 and how they are turned.
It takes about 10 minutes of one core. docs/sample-backbone.md says what the result is for.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file

from examples.painting import paint, scanned_digits
from examples.sample import NAME, WEIGHTS
from training.config import make_config
from training.directory import MODEL, RunDirectory
from training.progress import ConsoleObserver
from training.run import train

SEED = 0

_TURNS = (0, 90, 180, 270)
# They look much the same when they stand on their heads.
_SYMMETRIC = (0, 1)
_TRAIN_SHARE = 0.85
_BACKBONE = "backbone.model."


def train_backbone(weights: Path, folder: Path, epochs: int) -> dict[str, float]:
    """Paint the pictures, train on them, and write `weights`; pictures and run are in `folder`.

    Returns:
        The run's metrics, `test_top1` among them.

    Raises:
        TrainingError: see `training.run.train`.
    """
    write_pictures(folder / "pictures")
    config = make_config(
        {
            "data": str(folder / "pictures"),
            "backbone": NAME,
            "method": "scratch",
            "epochs": epochs,
            "batch_size": 64,
            "lr": 4e-3,
            "augment": "light",
            "device": "cpu",
            "seed": SEED,
        }
    )
    directory = RunDirectory(folder / "run")
    metrics = train(config, directory, observers=[ConsoleObserver(Console(), epochs)])
    save_backbone(directory.file(MODEL), weights)
    return metrics


def write_pictures(folder: Path) -> None:
    """Write every scan of 0 to 4 in four turns, as FOLDER/train|test/CLASS/IMAGE."""
    rng = np.random.default_rng(SEED)
    scans = scanned_digits()
    for digit in range(5):
        for number, scan in enumerate(scans[digit]):
            split = "train" if number < _TRAIN_SHARE * len(scans[digit]) else "test"
            for turn in _TURNS:
                shown = turn % 180 if digit in _SYMMETRIC else turn
                path = folder / split / f"{digit}-turned-{shown}" / f"{number:03}-{turn}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                paint(scan, turn, rng).save(path)


def save_backbone(model: Path, weights: Path) -> None:
    """Write the backbone out of a run's model under timm's names, in half precision.

    Half the bytes; loaded as float32, the values and so the fingerprint are the same everywhere.
    """
    state = {
        name.removeprefix(_BACKBONE): values.to(torch.float16)
        for name, values in load_file(model).items()
        if name.startswith(_BACKBONE) and not name.endswith("num_batches_tracked")
    }
    save_file(state, weights)


def main(
    weights: Annotated[Path, typer.Option(help="The file to write.")] = WEIGHTS,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 16,
) -> None:
    """Train the sample backbone."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = train_backbone(weights, Path(folder), epochs)
    typer.echo(f"{weights}: test top-1 {metrics['test_top1']:.2%}")


if __name__ == "__main__":
    typer.run(main)
