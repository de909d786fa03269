"""Command-line flags made from the fields of `Settings`, so that the two cannot drift apart."""

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from service.settings import Settings

F = TypeVar("F", bound=Callable[..., None])


def with_settings_flags(command: F) -> F:
    """Give a command with `**options` one flag for each setting; those not given are None."""
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(name, field) for name, field in Settings.model_fields.items()]
    )
    return command


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    default = "" if field.default_factory or field.default is None else f" [{field.default}]"
    option = typer.Option(
        f"--{name.replace('_', '-')}", help=f"{field.description}{default}", show_default=False
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_plain(field.annotation) | None, option],
    )


def _plain(annotation: Any) -> Any:  # noqa: ANN401  a type expression
    """The type without bounds and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(annotation) if part is not type(None))
        return _plain(kind)
    return annotation
