"""The commands `register` and `predict`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.cli.connection import DEFAULT_URL, ApiKey, Url, client
from service.cli.output import Json, show
from service.cli.parameters import TaskName

app = typer.Typer()


@app.command(epilog="Example: protuning register flowers runs/flowers/adapter.safetensors")
def register(
    task: TaskName,
    adapter: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    activate: Annotated[bool, typer.Option(help="Make it the active version.")] = True,  # noqa: FBT002
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002  typer's way of writing a flag
) -> None:
    """Register an adapter as a version of a task; unless told not to, it is served from then on."""
    with client(url, key) as server:
        version = server.register(task, adapter, activate=activate)
    show(version, as_json=as_json)


@app.command(epilog="Example: protuning predict flowers rose.jpg daisy.png --top-k 3")
def predict(
    task: TaskName,
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 5,
    version: Annotated[int | None, typer.Option(help="Not the active version but this.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="How long it may take.")] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What a task sees in JPEG, PNG or WebP files."""
    with client(url, key) as server:
        answer = server.predict(task, images, top_k=top_k, version=version, timeout_ms=timeout_ms)
    if as_json:
        typer.echo(answer.model_dump_json())
        return
    table = Table("image", "label", "score", title=f"{answer.task}, version {answer.version}")
    for path, prediction in zip(images, answer.predictions, strict=True):
        for rank, label in enumerate(prediction.labels):
            table.add_row("" if rank else str(path), label.label, f"{label.score:.1%}")
    Console().print(table)
