"""What the demo prints: tables that a person reads along."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.demo.burst import Answer, BatchFigures
from examples.demo.server import serve_command
from examples.demo.training import Backbone, Trained
from service.http.schemas import ManyPredictions, Version

SHOWN_ANSWERS = 12


def step(console: Console, title: str) -> None:
    """What comes now."""
    console.print(f"\n[bold]{title}[/bold]")


def folders(console: Console, tasks: Sequence[Path]) -> None:
    """The image folders: how many pictures, of which classes."""
    table = _table("task", "train", "test", "classes", "folder")
    for task in tasks:
        train, test = (len(list((task / split).glob("*/*"))) for split in ("train", "test"))
        classes = ", ".join(sorted(path.name for path in (task / "train").iterdir()))
        table.add_row(task.name, str(train), str(test), classes, str(task))
    console.print(table)


def training(console: Console, trained: Sequence[Trained]) -> None:
    """What was trained, how long it took, and how good it is."""
    table = _table("task", "head alone", "prompts + head", "trained", "of", "file", "seconds")
    for one in trained:
        table.add_row(
            one.name,
            f"{one.head_top1:.1%}",
            f"[bold]{one.top1:.1%}[/bold]",
            f"{one.metrics['parameters']:,.0f}",
            f"{one.metrics['total_parameters']:,.0f}",
            f"{one.adapter.stat().st_size / 1000:,.0f} kB",
            f"{one.metrics['seconds']:.0f}",
        )
    console.print(table)
    console.print(
        "Accuracy on pictures of other hands; each run has a report.md beside its adapter."
    )


def registered(console: Console, version: Version, seconds: float) -> None:
    """A task has come."""
    console.print(
        f"  {version.task}: version {version.version} ({version.digest[:12]}) proved and active "
        f"after {seconds * 1000:,.0f} ms"
    )


def answers(console: Console, trained: Sequence[Trained], answered: Sequence[Answer]) -> None:
    """The first few answers one by one, and the accuracy of all."""
    table = _table("task", "image", "truth", "answer", "score", "batch")
    for answer in answered[:SHOWN_ANSWERS]:
        timing = answer.prediction.timing
        table.add_row(
            answer.ask.task,
            answer.ask.image.name,
            answer.ask.truth,
            answer.label if answer.is_right else f"[red]{answer.label}[/red]",
            f"{answer.score:.0%}",
            f"{timing.batch_images} images of {timing.batch_tasks} tasks",
        )
    console.print(table)
    table = _table("task", "images", "right over HTTP", "protuning evaluate")
    for one in trained:
        own = [answer for answer in answered if answer.ask.task == one.name]
        right = statistics.mean(answer.is_right for answer in own)
        table.add_row(one.name, str(len(own)), f"{right:.1%}", f"{one.top1:.1%}")
    console.print(table)


def traffic(console: Console, answered: Sequence[Answer], figures: BatchFigures) -> None:
    """How the requests shared the backbone, and how long they took."""
    half, most = percentiles([answer.seconds for answer in answered])
    table = _table("requests", "batches", "images a batch", "tasks a batch", "p50", "p95")
    table.add_row(
        str(len(answered)),
        str(figures.batches),
        f"{figures.images:.1f}",
        f"[bold]{figures.tasks:.1f}[/bold]",
        f"{half * 1000:,.0f} ms",
        f"{most * 1000:,.0f} ms",
    )
    console.print(table)


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 95th percentile of two values or more."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[94]


def many(console: Console, image: Path, found: ManyPredictions) -> None:
    """What several tasks see in one picture."""
    console.print(f"{image}:")
    for result in found.results:
        best = result.predictions[0].labels[0]
        console.print(f"  {result.task}: {best.label} ({best.score:.0%})")


def what_now(
    console: Console, folder: Path, backbone: Backbone, trained: Sequence[Trained]
) -> None:
    """Where everything is, and the commands to go on with."""
    step(console, f"The server has stopped; everything is still in {folder}. To go on:")
    serve = " ".join(serve_command(folder / "server", backbone))
    image = trained[0].asks()[0].image
    for line in (
        f".venv/bin/protuning {serve}",
        f".venv/bin/protuning predict {trained[0].name} {image}",
        f"curl -F images=@{image} http://127.0.0.1:8000/tasks/{trained[0].name}/predict",
    ):
        console.print(f"  {line}", soft_wrap=True, highlight=False)
    console.print(
        "While it serves: the page at http://127.0.0.1:8000/, the API at /docs, metrics at /metrics"
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
