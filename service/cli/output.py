"""How commands print what they were told: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel

from adapters import tables

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
    else:
        tables.print_fields(item.model_dump(mode="json"))


def show_all(
    items: Sequence[Item], *, as_json: bool, extra: Mapping[str, Callable[[Item], object]] = {}
) -> None:
    """Print a list of items of one kind, for people with columns `extra` made of each item."""
    rows = [item.model_dump(mode="json") for item in items]
    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        tables.print_list(
            [*rows[0], *extra],
            [
                [*row.values(), *(told_of(item) for told_of in extra.values())]
                for item, row in zip(items, rows, strict=True)
            ],
        )
    else:
        typer.echo("There are none.")
