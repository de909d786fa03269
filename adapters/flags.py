"""Command-line flags made from a pydantic model's fields, so that the two cannot drift apart."""

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

F = TypeVar("F", bound=Callable[..., None])


def with_flags(model: type[BaseModel], *, argument: str | None = None) -> Callable[[F], F]:
    """Give a command with `**options` one flag for each field of `model`.

    Fields that the command line does not give are None. The field `argument` is a positional
    argument instead of a flag. The command's own parameters come after the fields.
    """

    def decorate(command: F) -> F:
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        fields = [
            _parameter(name, field, positional=name == argument)
            for name, field in model.model_fields.items()
        ]
        command.__signature__ = inspect.Signature([*fields, *own])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(name: str, field: FieldInfo, *, positional: bool) -> inspect.Parameter:
    kind = _plain(field.annotation) | None
    info = typer.Argument(help=field.description, show_default=False) if positional else None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, info or _option(name, field)],
    )


def _option(name: str, field: FieldInfo) -> Any:  # noqa: ANN401  typer's own types are private
    words = name.replace("_", "-")
    flag = f"--{words}/--no-{words}" if field.annotation is bool else f"--{words}"
    default = _default(field)
    if isinstance(default, bool):
        default = words if default else f"no-{words}"
    shown = "" if default is None else f" [default: {default}]"
    return typer.Option(flag, help=f"{field.description}{shown}", show_default=False)


def _default(field: FieldInfo) -> object:
    """What holds where nothing is given, with ~ for the home directory; None for nothing."""
    if field.is_required():
        return None
    try:
        default = field.get_default(call_default_factory=True, validated_data={})
        home = str(Path.home())
    except RuntimeError:
        # A user without a home, as containers have them: only defaults that lie there need one.
        return None if field.default_factory else field.default
    if isinstance(default, str | Path) and home != "/":
        return str(default).replace(home, "~")
    return default


def _plain(annotation: Any) -> Any:  # noqa: ANN401  a type expression
    """The type without bounds and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(annotation) if part is not type(None))
        return _plain(kind)
    return annotation
