"""Command-line flags made from the fields of `TrainConfig`, so that the two cannot drift apart."""

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from training.config import TrainConfig

F = TypeVar("F", bound=Callable[..., None])
_POSITIONAL = "data"


def with_config_flags(command: F) -> F:
    """Give a command with `**options` one flag for each field; those not given are None.

    The field `data` is a positional argument.
    """
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    fields = [_parameter(name, field) for name, field in TrainConfig.model_fields.items()]
    command.__signature__ = inspect.Signature([*fields, *own])  # type: ignore[attr-defined]
    return command


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind = _plain(field.annotation) | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, _typer_info(name, field)],
    )


def _typer_info(name: str, field: FieldInfo) -> Any:  # noqa: ANN401  typer's own types are private
    if name == _POSITIONAL:
        return typer.Argument(help=field.description, show_default=False)
    words = name.replace("_", "-")
    flag = f"--{words}/--no-{words}" if field.annotation is bool else f"--{words}"
    default = "" if field.is_required() or field.default is None else f" [{field.default}]"
    return typer.Option(flag, help=f"{field.description}{default}", show_default=False)


def _plain(annotation: Any) -> Any:  # noqa: ANN401  a type expression
    """The type without bounds and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(annotation) if part is not type(None))
        return _plain(kind)
    return annotation
