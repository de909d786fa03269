"""Which server a command asks, with which key."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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


def client(url: str, key: str | None) -> "Client":
    """A client of the server at `url`."""
    from service import logs
    from service.client import Client

    # Retries are reported, but not among what the command prints.
    logs.configure("warning", "text")
    return Client(url, key=key)
