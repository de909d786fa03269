"""The commands `tasks ...` of a release: canary, activate, retire, warm, pin."""

from typing import Annotated

import typer

from service.cli.connection import DEFAULT_URL, ApiKey, Url, client
from service.cli.output import Json, show
from service.cli.parameters import TaskName

app = typer.Typer()
VersionNumber = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its number.")]


@app.command(epilog="Example: protuning tasks canary flowers 3 --percent 10")
def canary(
    task: TaskName,
    version: Annotated[int | None, typer.Argument(min=1, help="Its number.")] = None,
    percent: Annotated[float, typer.Option(min=0, max=100, help="Its share; 0 ends it.")] = 10.0,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Give a version a share of the requests that name none; without VERSION, end that."""
    with client(url, key) as server:
        if version is None or percent <= 0:
            server.end_canary(task)
            typer.echo(f"{task} has no canary.", err=True)
        else:
            show(server.start_canary(task, version, percent), as_json=as_json)


@app.command(epilog="Example: protuning tasks activate flowers 3")
def activate(
    task: TaskName,
    version: VersionNumber,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Make a version the active one; if it was the canary, it is one no more."""
    with client(url, key) as server:
        show(server.activate(task, version), as_json=as_json)


@app.command(epilog="Example: protuning tasks retire flowers 1")
def retire(
    task: TaskName, version: VersionNumber, url: Url = DEFAULT_URL, key: ApiKey = None
) -> None:
    """Remove a version that is neither active nor the canary."""
    with client(url, key) as server:
        server.retire(task, version)
    typer.echo(f"Version {version} of {task} is retired.")


@app.command(epilog="Example: protuning tasks warm flowers")
def warm(
    task: TaskName,
    version: Annotated[int | None, typer.Option(help="Not the active version but this.")] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Load a version into the server's engine, so that the next request waits for nothing."""
    with client(url, key) as server:
        show(server.warm(task, version=version), as_json=as_json)


@app.command(epilog="Example: protuning tasks pin flowers")
def pin(
    task: TaskName,
    off: Annotated[bool, typer.Option("--off", help="Pin it no more.")] = False,  # noqa: FBT002
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
) -> None:
    """Keep a task in the engine of every server (needs an administrator's key)."""
    with client(url, key) as server:
        if off:
            server.unpin(task)
        else:
            server.pin(task)
    typer.echo(f"{task} is {'no more ' if off else ''}pinned.")
