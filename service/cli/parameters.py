"""What a command's parameters have in common."""

from typing import Annotated

import typer
from pydantic import ValidationError

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]


def wrong_parameter(error: ValidationError) -> typer.BadParameter:
    """What a model refused, as a command says it."""
    return typer.BadParameter(
        "; ".join(
            ": ".join([*map(str, item["loc"]), item["msg"].removeprefix("Value error, ")])
            for item in error.errors(include_url=False, include_input=False)
        )
    )
