"""The commands around a server: `serve`, and its clients `register`, `predict` and `tasks`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table

from adapters.flags import with_flags
from service.settings import Settings

if TYPE_CHECKING:
    from service.client import Client
    from service.http.schemas import Page

app = typer.Typer()
tasks = typer.Typer(help="Look at and change the tasks of a server.", no_args_is_help=True)
app.add_typer(tasks, name="tasks")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Url = Annotated[str, typer.Option(envvar="PROTUNING_URL", help="The server.")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]
DEFAULT_URL = "http://127.0.0.1:8000"
Item = TypeVar("Item", bound=BaseModel)


@app.command(
    epilog="Example: protuning serve --backbone vit_tiny_patch16_224 --weights model.safetensors"
)
@with_flags(Settings)
def serve(**options: Any) -> None:  # noqa: ANN401  the settings have types of their own
    """Serve tasks over HTTP. Every flag is also an environment variable, PROTUNING_PORT say."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise typer.BadParameter(
            "; ".join(
                ": ".join([*map(str, item["loc"]), item["msg"].removeprefix("Value error, ")])
                for item in error.errors(include_url=False, include_input=False)
            )
        ) from error

    from service.bootstrap import serve as serve_until_stopped

    serve_until_stopped(settings)


@app.command(epilog="Example: protuning register flowers runs/flowers/adapter.safetensors")
def register(
    task: TaskName,
    adapter: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    url: Url = DEFAULT_URL,
    as_json: Json = False,  # noqa: FBT002  typer's way of writing a flag
) -> None:
    """Register an adapter as a version of a task; it is served from then on."""
    with _client(url) as client:
        version = client.register(task, adapter)
    _show(version, as_json=as_json)


@app.command(epilog="Example: protuning predict flowers rose.jpg daisy.png --top-k 3")
def predict(
    task: TaskName,
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 5,
    version: Annotated[int | None, typer.Option(help="Not the active version but this.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="How long it may take.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What a task sees in JPEG, PNG or WebP files."""
    with _client(url) as client:
        answer = client.predict(task, images, top_k=top_k, version=version, timeout_ms=timeout_ms)
    if as_json:
        typer.echo(answer.model_dump_json())
        return
    table = Table("image", "label", "score", title=f"{answer.task}, version {answer.version}")
    for path, prediction in zip(images, answer.predictions, strict=True):
        for rank, label in enumerate(prediction.labels):
            table.add_row("" if rank else str(path), label.label, f"{label.score:.1%}")
    Console().print(table)


@tasks.command("list", epilog="Example: protuning tasks list --json")
def list_tasks(url: Url = DEFAULT_URL, as_json: Json = False) -> None:  # noqa: FBT002
    """The registered tasks."""
    with _client(url) as client:
        found = _all_items(lambda cursor: client.tasks(cursor=cursor))
    _show_all(found, as_json=as_json)


@tasks.command(epilog="Example: protuning tasks show flowers")
def show(task: TaskName, url: Url = DEFAULT_URL, as_json: Json = False) -> None:  # noqa: FBT002
    """One task."""
    with _client(url) as client:
        found = client.task(task)
    _show(found, as_json=as_json)


@tasks.command(epilog="Example: protuning tasks versions flowers")
def versions(
    task: TaskName,
    url: Url = DEFAULT_URL,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """The versions of a task."""
    with _client(url) as client:
        found = _all_items(lambda cursor: client.versions(task, cursor=cursor))
    _show_all(found, as_json=as_json)


@tasks.command(epilog="Example: protuning tasks rollback flowers")
def rollback(
    task: TaskName,
    url: Url = DEFAULT_URL,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Serve the version again that was active before."""
    with _client(url) as client:
        active = client.rollback(task)
    _show(active, as_json=as_json)


@tasks.command(epilog="Example: protuning tasks delete flowers")
def delete(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Delete a task with all its versions."""
    with _client(url) as client:
        client.delete(task)
    typer.echo(f"{task} is deleted.")


def _client(url: str) -> "Client":
    from service import logs
    from service.client import Client

    # Retries are reported, but not among what the command prints.
    logs.configure("warning", "text")
    return Client(url)


def _all_items(read: "Callable[[str | None], Page[Item]]") -> list[Item]:
    page = read(None)
    items = list(page.items)
    while page.next_cursor is not None:
        page = read(page.next_cursor)
        items += page.items
    return items


def _show(item: BaseModel, *, as_json: bool) -> None:
    if as_json:
        typer.echo(item.model_dump_json())
        return
    table = Table("field", "value", show_header=False)
    for name, value in item.model_dump(mode="json").items():
        table.add_row(name, _cell(value))
    Console().print(table)


def _show_all(items: Sequence[BaseModel], *, as_json: bool) -> None:
    rows = [item.model_dump(mode="json") for item in items]
    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*map(_cell, row.values()))
        Console().print(table)
    else:
        typer.echo("There are none.")


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
