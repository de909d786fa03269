"""How commands print what they were told: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from service.http.schemas import Page

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Item = TypeVar("Item", bound=BaseModel)


def all_items(read: "Callable[[str | None], Page[Item]]") -> list[Item]:
    """The items of all pages; `read` gives the one at a cursor."""
    page = read(None)
    items = list(page.items)
    while page.next_cursor is not None:
        page = read(page.next_cursor)
        items += page.items
    return items


def show(item: BaseModel, *, as_json: bool) -> None:
    """Print one item."""
    if as_json:
        typer.echo(item.model_dump_json())
        return
    table = Table("field", "value", show_header=False)
    for name, value in item.model_dump(mode="json").items():
        table.add_row(name, _cell(value))
    Console().print(table)


def show_all(items: Sequence[BaseModel], *, as_json: bool) -> None:
    """Print a list of items of one kind."""
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
