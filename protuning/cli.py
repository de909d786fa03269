"""The command `protuning`: the commands of all parts, and how their errors reach a person."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

import adapters.cli
import adapters.store.cli
import benchmarks.cli
import service.cli
import training.cli
from adapters.errors import AdapterError
from adapters.tables import printable
from service.errors import AddressUnavailable, ServiceError
from training.errors import TrainingError

app = typer.Typer(
    help="One frozen vision backbone in memory, a thousand Pro-tuning tasks on it.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    # Frames around the help leave a column too narrow for a path, and take [words] for markup.
    rich_markup_mode=None,
)
app.add_typer(adapters.cli.app)
app.add_typer(adapters.store.cli.app)
app.add_typer(training.cli.app)
app.add_typer(service.cli.app)
app.add_typer(benchmarks.cli.app)


def _print_version(asked: bool) -> None:  # noqa: FBT001  typer's callback signature
    if asked:
        typer.echo(f"protuning {version('protuning')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool | None,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = None,
) -> None:
    """Options before any command."""


def main() -> None:
    """Run the command line: 0 done, 1 and 2 refused with a message, 130 stopped by Ctrl-C.

    It is 1 where the same command may do in another moment: its address was taken.
    """
    try:
        app()
    except (AdapterError, TrainingError, ServiceError) as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(1 if isinstance(error, AddressUnavailable) else 2)
    except KeyboardInterrupt:
        sys.exit(130)
