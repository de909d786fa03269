"""Training speed and memory of pro-tuning, head retraining and full fine-tuning, side by side.

Each measurement is a real training run in a process of its own, on the same images, the methods
in turn (A B A B): images/s of an epoch after the first, peak memory of the process, and for ten
epochs the whole training time with what must be computed before. On a CPU it is one thread, and its
own CPU time counts: other processes of the machine change little. Run it with

    python -m benchmarks.training DATA --backbone deit_small_patch16_224 --out TABLE.json
"""

import csv
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

METHODS = ("pro-tuning", "head", "full")
EPOCHS = {"pro-tuning": 3, "head": 10, "full": 3}
LONG_RUN = 10

Figures = dict[str, float]
Options = dict[str, object]


def run_once(method: str, options: Options) -> Figures:
    """One training run: `images_per_s`, `epoch_s`, `ten_epochs_s` and `peak_memory_mib`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh,
    ):
        fresh.submit(_train, method, options, folder).result()
        with Path(folder, "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        metrics = json.loads(Path(folder, "metrics.json").read_text())
    epoch = statistics.median(float(row["seconds"]) for row in rows[1:])
    before = metrics["seconds"] - sum(float(row["seconds"]) for row in rows)
    return {
        "images_per_s": statistics.median(float(row["images_per_s"]) for row in rows[1:]),
        "epoch_s": epoch,
        "ten_epochs_s": before + epoch * LONG_RUN,
        "peak_memory_mib": metrics["peak_memory_mib"],
    }


def _train(method: str, options: Options, folder: str) -> None:
    # Imported here: the peak memory of this process is to be the training's alone.
    import torch

    from adapters.errors import ProofInsensitive
    from training.config import make_config
    from training.directory import RunDirectory
    from training.run import train

    clock = time.perf_counter
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        clock = time.process_time
    config = {"weights": "random", "augment": "none", "workers": 0, "val_fraction": 0.0}
    config |= {"method": method, "epochs": EPOCHS[method], **options}
    # A random backbone may refuse its proof at the very end; the figures are there by then.
    with suppress(ProofInsensitive):
        train(make_config(config), RunDirectory(Path(folder)), clock=clock)


def compare(options: Options, rounds: int) -> dict[str, object]:
    """Medians of `rounds` measurements of each method in turn, and of their ratios to full."""
    taken: dict[str, list[Figures]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            taken[method].append(run_once(method, options))

    def median(method: str, name: str) -> float:
        return statistics.median(run[name] for run in taken[method])

    def ratio(method: str, name: str) -> float:
        pairs = zip(taken[method], taken["full"], strict=True)
        return statistics.median(ours[name] / full[name] for ours, full in pairs)

    return {
        "backbone": options["backbone"],
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
    options = {"data": data, "shots": shots, "batch_size": batch_size}
    tables = [compare({"backbone": name, **options}, rounds) for name in backbone]
    for table in tables:
        typer.echo(json.dumps(table))
    if out is not None:
        out.write_text(json.dumps(tables, indent=2))


if __name__ == "__main__":
    typer.run(main)
