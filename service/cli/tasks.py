"""The commands `tasks ...`."""

from typing import TYPE_CHECKING

import typer

from service.cli.connection import DEFAULT_URL, ApiKey, Url, client
from service.cli.output import Json, all_items, show, show_all
from service.cli.parameters import TaskName

if TYPE_CHECKING:
    from service.http.schemas import Task

app = typer.Typer(help="Look at and change the tasks of a server.", no_args_is_help=True)


@app.command("list", epilog="Example: protuning tasks list --json")
def list_tasks(url: Url = DEFAULT_URL, key: ApiKey = None, as_json: Json = False) -> None:  # noqa: FBT002
    """The registered tasks."""
    with client(url, key) as server:
        found = all_items(lambda cursor: server.tasks(cursor=cursor))
    show_all(found, as_json=as_json)


@app.command("show", epilog="Example: protuning tasks show flowers")
def show_task(
    task: TaskName,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """One task."""
    with client(url, key) as server:
        found = server.task(task)
    show(found, as_json=as_json)


@app.command(epilog="Example: protuning tasks versions flowers")
def versions(
    task: TaskName,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """The versions of a task, and which of them requests get."""
    with client(url, key) as server:
        found = all_items(lambda cursor: server.versions(task, cursor=cursor))
        traffic = traffic_of(server.task(task))
    show_all(
        found, as_json=as_json, extra={"traffic": lambda version: traffic.get(version.version)}
    )


@app.command(epilog="Example: protuning tasks rollback flowers")
def rollback(
    task: TaskName,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Serve the version again that was active before."""
    with client(url, key) as server:
        # Asked again after an answer was lost, it would go back one further.
        active = server.rollback(task, expected=server.task(task).active_version)
    show(active, as_json=as_json)


@app.command(epilog="Example: protuning tasks delete flowers")
def delete(task: TaskName, url: Url = DEFAULT_URL, key: ApiKey = None) -> None:
    """Delete a task with all its versions."""
    with client(url, key) as server:
        server.delete(task)
    typer.echo(f"{task} is deleted.")


def traffic_of(task: "Task") -> dict[int, str]:
    """The versions of a task that requests get which name none, and in what part."""
    traffic = {} if task.active_version is None else {task.active_version: "active"}
    if task.canary is not None:
        traffic[task.canary.version] = f"canary, {task.canary.percent:g} %"
    return traffic
