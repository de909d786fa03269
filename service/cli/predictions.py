"""The commands `register` and `predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters import tables
from service.cli.connection import DEFAULT_URL, ApiKey, Url, client
from service.cli.output import Json, show
from service.cli.parameters import TaskName
from service.cli.tasks import traffic_of
from service.types import PRIORITIES

if TYPE_CHECKING:
    from service.http.schemas import Prediction, Task, Version

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
        if not as_json:
            typer.echo(f"{_what_it_is(version)} {_who_gets_it(version, server.task(task))}")


def _what_it_is(version: "Version") -> str:
    if version.renewed_at == version.created_at:
        return f"This is new: version {version.version} of {version.task}."
    since = tables.cell("created_at", version.created_at)
    return f"These bytes are version {version.version} of {version.task} already, since {since}."


def _who_gets_it(version: "Version", task: "Task") -> str:
    part = traffic_of(task).get(version.version)
    if part == "active" and version.version > 1:
        undo = f"protuning tasks rollback {version.task}"
        return f"It is served now (active); {undo} brings the one before it back."
    if part is not None:
        return f"It is served now ({part})."
    return (
        f"It is not served; protuning tasks activate {version.task} {version.version} changes that."
    )


@app.command(epilog="Example: protuning predict flowers,signs rose.jpg daisy.png --top-k 3")
def predict(
    tasks: Annotated[
        str, typer.Argument(metavar="TASK[,TASK...]", help="The tasks' ids, with commas.")
    ],
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 5,
    version: Annotated[
        int | None, typer.Option(help="Not the active version but this, of a single task.")
    ] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="How long a request may take.")] = None,
    priority: Annotated[
        int,
        typer.Option(
            min=PRIORITIES[0], max=PRIORITIES[-1], help="Its rank among your other requests."
        ),
    ] = 0,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What one or several tasks see in JPEG, PNG or WebP files.

    Many files are asked about in several requests, as large as the server takes them.
    """
    from service.cli.asking import ask
    from service.http.schemas import ManyPredictions

    names = tasks.split(",")
    if version is not None and len(names) > 1:
        raise typer.BadParameter("--version is for a single task.")
    with client(url, key) as server:
        options = {"top_k": top_k, "timeout_ms": timeout_ms, "priority": priority}
        answers = ask(server, names, images, version=version, **options)
    if as_json:
        told = answers[0] if len(names) == 1 else ManyPredictions(results=answers)
        typer.echo(told.model_dump_json())
        return
    for answer in answers:
        _print(answer, images)


def _print(answer: "Prediction", images: list[Path]) -> None:
    rows = [
        ("" if rank else path, label.label, f"{label.score:.1%}")
        for path, prediction in zip(images, answer.predictions, strict=True)
        for rank, label in enumerate(prediction.labels)
    ]
    title = f"{answer.task}, version {answer.version}"
    tables.print_rows(["image", "label", "score"], rows, title=title)
