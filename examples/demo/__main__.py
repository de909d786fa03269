"""`make demo`, or `python -m examples.demo`: the whole way from pictures to answers over HTTP."""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapters.backbone.loading import HUB
from adapters.errors import AdapterError
from examples.demo import show
from examples.demo.burst import AT_ONCE, Answer, ask_all, batch_figures
from examples.demo.server import ServerFailed, running_server
from examples.demo.training import Backbone, Trained, train_task
from examples.make_images import COUNTS, Split, make_images
from examples.sample import NAME, WEIGHTS
from service.calls import ClientError
from service.client import Client
from training.errors import TrainingError

FOLDER = Path("var/demo")
EPOCHS = 16


def run_demo(
    folder: Path,
    backbone: Backbone,
    epochs: int,
    console: Console,
    counts: Mapping[Split, int] = COUNTS,
) -> tuple[list[Trained], list[Answer]]:
    """Everything in order; what it makes stays in `folder`.

    Args:
        folder: For the images, the runs, and the server's index, store and log.
        backbone: That every task shares.
        epochs: Of each adapter's training.
        console: Where a person reads along.
        counts: Pictures of each task.

    Returns:
        The tasks, and the server's answer to every test image.

    Raises:
        AdapterError, TrainingError: see `train_task`.
        ServerFailed: the server does not start, or does not stop well.
        ClientError: the server refuses something.
    """
    show.step(console, "1. Three small tasks: folders of pictures, one folder a class")
    tasks = make_images(folder / "images", counts)
    show.folders(console, tasks)
    show.step(console, f"2. An adapter for each task on {backbone.name}, which stays as it is")
    trained = [train_task(task, folder / "runs", backbone, epochs, console) for task in tasks]
    show.training(console, trained)
    show.step(console, "3. One server, one backbone in memory; the tasks come while it runs")
    with running_server(folder / "server", backbone) as url:
        console.print(f"  serving {backbone.name} at {url}")
        register(url, trained, console)
        answers = burst(url, trained, console)
        one_for_all(url, trained, console)
    show.what_now(console, folder, backbone, trained)
    return trained, answers


def burst(url: str, trained: list[Trained], console: Console) -> list[Answer]:
    """Ask about the test images of all tasks, each request another task than the one before."""
    asks = [ask for asks in zip(*(one.asks() for one in trained), strict=True) for ask in asks]
    show.step(console, f"4. {len(asks)} requests, {AT_ONCE} at a time, of all tasks in turn")
    answers = asyncio.run(ask_all(url, asks))
    show.answers(console, trained, answers)
    show.traffic(console, answers, batch_figures(url))
    return answers


def register(url: str, trained: list[Trained], console: Console) -> None:
    """Give the server each adapter; a 201 says that it is proved and active."""
    with Client(url) as client:
        for one in trained:
            began = time.perf_counter()
            version = client.register(one.name, one.adapter)
            show.registered(console, version, time.perf_counter() - began)


def one_for_all(url: str, trained: list[Trained], console: Console) -> None:
    """Ask all tasks about the same picture: it is decoded once and passes the first stage once."""
    show.step(console, "5. One picture through all tasks, in one request")
    image = trained[0].asks()[0].image
    with Client(url) as client:
        found = client.predict_many([one.name for one in trained], [image], top_k=1)
    show.many(console, image, found)


def main(
    backbone: Annotated[str, typer.Option(help="A timm model, such as resnet50.")] = NAME,
    weights: Annotated[
        str | None,
        typer.Option(help="A safetensors file or hub; else the sample's own file, or hub."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each adapter's training.")] = EPOCHS,
) -> None:
    """Train three small adapters, serve them together, and show what happened."""
    source = weights or (str(WEIGHTS) if backbone == NAME else HUB)
    try:
        run_demo(FOLDER, Backbone(backbone, source), epochs, Console())
    except (AdapterError, TrainingError, ServerFailed, ClientError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
