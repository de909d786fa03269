"""Tables for people, in which nothing is cut off and nothing speaks to the terminal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wider than any table: a file or a pipe has no edge.
_UNBOUNDED = 1_000_000
_NUMBER = re.compile(r"[0-9][0-9.,]*%?")


def print_fields(values: Mapping[str, object], title: str | None = None) -> None:
    """Print one thing: a row for each of its fields, those of nested ones as `outer.inner`."""
    table = Table(title=title and _text(title), show_header=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in _flat(values):
        table.add_row(_text(name), _text(cell(name, value)))
    _print(table)


def print_rows(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None
) -> None:
    """Print things of one kind: a row for each, a value in each of its columns."""
    _print(_table_of(columns, rows, title))


def print_list(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print things with many columns: like `print_rows`, or one by one where that is too wide."""
    table = _table_of(columns, rows)
    console = _console()
    unbounded = console.options.update(max_width=_UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        _print(table)
        return
    for row in rows:
        print_fields(dict(zip(columns, row, strict=True)))


def _table_of(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None
) -> Table:
    cells = [[cell(*each) for each in zip(columns, row, strict=True)] for row in rows]
    table = Table(title=title and _text(title))
    for name, values in zip(columns, zip(*cells, strict=True), strict=True):
        is_number = all(_NUMBER.fullmatch(text) for text in values)
        table.add_column(name, overflow="fold", justify="right" if is_number else "left")
    for texts in cells:
        table.add_row(*map(_text, texts))
    return table


def printable(text: str) -> str:
    """Text as a terminal may have it: what is neither visible nor a new line as an escape.

    Checkpoints and servers say what they like, also what would repaint or rename a terminal.
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def _text(value: str) -> Text:
    """It is no markup, either."""
    return Text(printable(value))


def cell(name: str, value: object) -> str:
    """A value in words; one whose name ends in `_at` is seconds since the epoch."""
    if isinstance(value, Mapping):
        return ", ".join(f"{inner} {cell(inner, each) or 'none'}" for inner, each in value.items())
    if isinstance(value, list):
        is_nested = any(isinstance(each, Mapping | list) for each in value)
        return ("\n" if is_nested else ", ").join(cell("", each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and name.endswith("_at"):
        return _time(value)
    return "" if value is None else _plain(value)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError):
        return f"{seconds:g}"


def _flat(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, value


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_UNBOUNDED)


def _print(table: Table) -> None:
    _console().print(table)
