"""The command `serve`."""

from typing import Any

import typer
from pydantic import ValidationError

from adapters.flags import with_flags
from service.cli.parameters import wrong_parameter
from service.settings import Settings

app = typer.Typer()


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
        raise wrong_parameter(error) from error

    from service.heap import prefer_huge_pages

    prefer_huge_pages()
    from service.serve import serve as serve_until_stopped

    serve_until_stopped(settings)
