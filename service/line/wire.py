"""What is said on the line about predictions: how questions, answers and errors are written."""

from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from adapters import errors as adapter_errors
from service import errors as service_errors
from service.errors import LineBroken
from service.line.frames import Message
from service.predict import Label, Prediction, Timing
from service.types import Allowance

_ROOTS = (service_errors.ServiceError, adapter_errors.AdapterError)
_OURS = {
    name: kind
    for module in (service_errors, adapter_errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, _ROOTS)
}


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Question:
    """What `Predictor.predict` or, with several tasks, `predict_many` is asked.

    Args:
        id: Of the question, on its line.
        start: The place of the first image in the shared memory.
        images: How many there are.
        deadline: In seconds of the system's monotonic clock, which all processes share.
    """

    id: int
    tenant: str
    tasks: tuple[str, ...]
    start: int
    images: int
    deadline: float
    version: int | None
    top_k: int
    priority: int
    canary_key: str | None
    decode_seconds: float


def prediction_of(message: Message) -> Prediction:
    """A prediction as it was, from what JSON made of it."""
    labels = tuple(tuple(Label(**label) for label in image) for image in message.pop("labels"))
    fields = {**_revived(message), "labels": labels, "timing": Timing(**message["timing"])}
    return Prediction(**fields)


def error_message(error: Exception) -> Message:
    """An error as it is sent: those of our trees with all their fields."""
    fields = vars(error) if isinstance(error, _ROOTS) else {}
    return {"class": type(error).__name__, "text": str(error), "fields": fields}


def error_of(message: Message) -> Exception:
    """The error again, with its text and its fields; its cause stays in the other process's log."""
    kind: Any = _OURS.get(message["class"])
    if kind is None:
        return LineBroken(f"The engine process failed: {message['text']}")
    error: Exception = kind.__new__(kind, message["text"])
    vars(error).update(_revived(message["fields"]))
    return error


def _revived(fields: Message) -> Message:
    if "allowances" not in fields:
        return fields
    return fields | {"allowances": tuple(Allowance(**each) for each in fields["allowances"])}
