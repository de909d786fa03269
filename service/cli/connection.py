"""Which server a command asks, with which key."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

    from service.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(envvar="PROTUNING_URL", help="The server.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="PROTUNING_API_KEY",
        help="The API key; in the environment other users of the machine do not see it.",
        show_default=False,
    ),
]


@contextmanager
def client(url: str, key: str | None) -> "Iterator[Client]":
    """A client of the server at `url`; what it reports and refuses is put for a command line."""
    import stamina.instrumentation

    from service.calls import Refused
    from service.client import Client

    stamina.instrumentation.set_on_retry_hooks([_tell_of_retry])
    try:
        with Client(url, key=key) as server:
            yield server
    except Refused as error:
        if error.problem.status != HTTPStatus.UNAUTHORIZED or key is not None:
            raise
        raise error.with_detail(
            "A key is needed. Set PROTUNING_API_KEY, or pass it with --key."
        ) from error


def _tell_of_retry(details: "RetryDetails") -> None:
    typer.echo(f"Trying again in {details.wait_for:.0f} s: {details.caused_by}", err=True)
