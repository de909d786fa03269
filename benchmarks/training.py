"""Training speed and memory of pro-tuning, head retraining and full fine-tuning, side by side.

Each measurement is a real run of `protuning train` in a process of its own, on the same images,
with the methods in turn (A B A B): images/s of an epoch after the first, peak memory of the
process, and for ten epochs the whole training time with what must be computed before. Run it with

    python -m benchmarks.training DATA --backbone deit_small_patch16_224 --out TABLE.json
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

METHODS = ("pro-tuning", "head", "full")
EPOCHS = {"pro-tuning": 3, "head": 10, "full": 3}
LONG_RUN = 10


def run_once(method: str, backbone: str, data: str, options: list[str]) -> dict[str, float]:
    """One training run: `images_per_s`, `epoch_s`, `ten_epochs_s` and `peak_memory_mib`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        epochs = EPOCHS[method]
        command = [sys.executable, "-m", "protuning", "train", data, "--backbone", backbone]
        command += ["--weights", "random", "--method", method, "--epochs", str(epochs)]
        command += ["--augment", "none", "--out", str(out), *options]
        # A random backbone may refuse its proof at the very end; the figures are there by then.
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with (out / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        metrics = json.loads((out / "metrics.json").read_text())
    epoch = statistics.median(float(row["seconds"]) for row in rows[1:])
    trained = sum(float(row["seconds"]) for row in rows)
    before = metrics["seconds"] - trained
    return {
        "images_per_s": statistics.median(float(row["images_per_s"]) for row in rows[1:]),
        "epoch_s": epoch,
        "ten_epochs_s": before + epoch * LONG_RUN,
        "peak_memory_mib": metrics["peak_memory_mib"],
    }


def compare(backbone: str, data: str, rounds: int, options: list[str]) -> dict[str, object]:
    """Medians of `rounds` measurements of each method in turn, and of their ratios to full."""
    taken: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            taken[method].append(run_once(method, backbone, data, options))

    def median(method: str, name: str) -> float:
        return statistics.median(run[name] for run in taken[method])

    def ratio(method: str, name: str) -> float:
        pairs = zip(taken[method], taken["full"], strict=True)
        return statistics.median(ours[name] / full[name] for ours, full in pairs)

    return {
        "backbone": backbone,
        "methods": {m: {name: median(m, name) for name in taken[m][0]} for m in METHODS},
        "pro_tuning_over_full_images_per_s": ratio("pro-tuning", "images_per_s"),
        "head_over_full_in_ten_epochs": 1 / ratio("head", "ten_epochs_s"),
        "pro_tuning_less_memory_mib": median("full", "peak_memory_mib")
        - median("pro-tuning", "peak_memory_mib"),
    }


def main(
    data: Annotated[str, typer.Argument(help="Labelled images, as for `protuning train`.")],
    backbone: Annotated[list[str], typer.Option(help="timm models, one or several.")],
    shots: Annotated[int, typer.Option(help="Training images a class.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Images of one update.")] = 16,
    rounds: Annotated[int, typer.Option(help="Measurements of each method.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Measure every backbone and print one JSON object for each."""
    options = ["--shots", str(shots), "--batch-size", str(batch_size), "--workers", "0"]
    tables = [compare(name, data, rounds, options) for name in backbone]
    for table in tables:
        typer.echo(json.dumps(table))
    if out is not None:
        out.write_text(json.dumps(tables, indent=2))


if __name__ == "__main__":
    typer.run(main)
