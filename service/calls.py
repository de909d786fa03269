"""What the clients can ask of a server: each request, and how its answer is read.

ClientError
├── Refused         the server answered with a problem; `kind` is stable
├── Unreachable     no answer came
└── StrangeAnswer   an answer came that no protuning server gives
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from service.errors import ServiceError
from service.http.schemas import (
    Activation,
    Canary,
    CreatedKey,
    Key,
    ManyPredictions,
    NewKey,
    Page,
    Prediction,
    ProblemDocument,
    Task,
    Tenant,
    TenantOverrides,
    Version,
)

LONGEST_RETRY_AFTER = 60.0

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
Image = bytes | Path


class ClientError(ServiceError):
    """The server did not do what was asked."""


class Refused(ClientError):
    """The server answered with a problem.

    Args:
        problem: What it said.
        retry_after: Seconds after which it is worth trying again, None where it did not say.
    """

    def __init__(self, problem: ProblemDocument, retry_after: float | None) -> None:
        super().__init__(f"{problem.detail} (status {problem.status}, {problem.request_id})")
        self.problem = problem
        self.retry_after = retry_after

    @property
    def kind(self) -> str:
        """The stable end of the problem's type, such as "unknown-task"."""
        return self.problem.type.rpartition(":")[2]

    def with_detail(self, detail: str) -> "Refused":
        """The same refusal in other words, for somebody who knows more than the server did."""
        return Refused(self.problem.model_copy(update={"detail": detail}), self.retry_after)


class Unreachable(ClientError):
    """No answer came."""


class StrangeAnswer(ClientError):
    """An answer came that no protuning server gives, but maybe a proxy in front of one.

    Args:
        message: Who answered how.
        status: Its HTTP status.
        retry_after: See `Refused`.
    """

    def __init__(self, message: str, *, status: int, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, Any]] | None = None
    json: BaseModel | None = None
    predicts: bool = False

    @property
    def changes_nothing(self) -> bool:
        """Whether it can be sent again although nobody knows what became of it."""
        return self.predicts or self.method == "GET"

    def options(self) -> dict[str, Any]:
        """The arguments of httpx's `request`."""
        params = {name: value for name, value in self.params.items() if value is not None}
        options = {"method": self.method, "url": self.path, "params": params, "files": self.files}
        if self.json is not None:
            options["json"] = self.json.model_dump(mode="json", exclude_unset=True)
        return options

    def result(self, response: httpx.Response) -> T:
        """What the answer says.

        Raises:
            Refused: it is a problem.
            StrangeAnswer: it is something else than was asked for.
        """
        try:
            if response.is_success:
                return self.read(response)
            problem = ProblemDocument.model_validate_json(response.content)
        except ValidationError as error:
            raise StrangeAnswer(
                f"{response.url} answered with status {response.status_code}, but not as protuning "
                "does. Check that the URL is that of a protuning server of this release, and what "
                "stands in front of it.",
                status=response.status_code,
                retry_after=_retry_after(response),
            ) from error
        raise Refused(problem, _retry_after(response))


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, which the header gives as such or as a date; never longer than a minute."""
    text = response.headers.get("Retry-After", "")
    try:
        seconds = (
            float(text)
            if text.isdigit()
            else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        )
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _model(model: type[Model]) -> Callable[[httpx.Response], Model]:
    return lambda response: model.model_validate_json(response.content)


def _content(response: httpx.Response) -> bytes:
    return response.content


def _nothing(_response: httpx.Response) -> None:
    return None


def _at(*parts: object) -> str:
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def _bytes(file: Image) -> bytes:
    if isinstance(file, Path):
        return file.read_bytes()
    if isinstance(file, bytes):
        return file
    raise TypeError(f"A {type(file).__name__} is no file: give bytes, or Path(...) for a name.")


def _image_files(images: Sequence[Image]) -> list[tuple[str, Any]]:
    if isinstance(images, bytes | str | Path):
        raise TypeError("The images are a list: write [image] for a single one.")
    if not len(images):
        raise ValueError("There are no images. Give at least one.")
    return [("images", ("image", _bytes(image))) for image in images]


def predict(
    task: str,
    images: Sequence[Image],
    *,
    top_k: int | None = None,
    version: int | None = None,
    timeout_ms: int | None = None,
    priority: int | None = None,
) -> Call[Prediction]:
    """What a task sees in each of some JPEG, PNG or WebP files: a list of bytes and of paths.

    `priority` ranks the request among the same tenant's.

    Raises:
        TypeError: it is not such a list.
        ValueError: it is empty.
    """
    params = {"top_k": top_k, "version": version, "timeout_ms": timeout_ms, "priority": priority}
    path = _at("tasks", task, "predict")
    files = _image_files(images)
    return Call("POST", path, _model(Prediction), params, files, predicts=True)


def predict_many(
    tasks: Sequence[str],
    images: Sequence[Image],
    *,
    top_k: int | None = None,
    timeout_ms: int | None = None,
    priority: int | None = None,
) -> Call[ManyPredictions]:
    """What each of several tasks sees in the same images; see `predict`.

    Raises:
        TypeError: tasks or images are not a list.
        ValueError: one of the lists is empty.
    """
    if isinstance(tasks, str):
        raise TypeError("The tasks are a list: write [task] for a single one.")
    if not tasks:
        raise ValueError("There are no tasks. Name at least one.")
    params = {
        "tasks": ",".join(tasks),
        "top_k": top_k,
        "timeout_ms": timeout_ms,
        "priority": priority,
    }
    files = _image_files(images)
    return Call("POST", "/predict", _model(ManyPredictions), params, files, predicts=True)


def register(task: str, checkpoint: Image, *, activate: bool = True) -> Call[Version]:
    """Register a checkpoint as a version of a task: proved and, unless told not to, active.

    Raises:
        TypeError: the checkpoint is neither bytes nor a path.
    """
    files: list[tuple[str, Any]] = [
        ("task_id", (None, task)),
        ("checkpoint", ("adapter.safetensors", _bytes(checkpoint))),
    ]
    if not activate:
        files.append(("activate", (None, "false")))
    return Call("POST", "/tasks", _model(Version), files=files)


def tasks(*, limit: int | None = None, cursor: str | None = None) -> Call[Page[Task]]:
    """A page of the registered tasks, by name."""
    return Call("GET", "/tasks", _model(Page[Task]), {"limit": limit, "cursor": cursor})


def task(task: str) -> Call[Task]:
    """One task."""
    return Call("GET", _at("tasks", task), _model(Task))


def versions(
    task: str, *, limit: int | None = None, cursor: str | None = None
) -> Call[Page[Version]]:
    """A page of a task's versions, by number."""
    params = {"limit": limit, "cursor": cursor}
    return Call("GET", _at("tasks", task, "versions"), _model(Page[Version]), params)


def checkpoint(task: str, version: int) -> Call[bytes]:
    """A version's checkpoint, as it was registered."""
    return Call("GET", _at("tasks", task, "versions", version, "checkpoint"), _content)


def rollback(task: str, *, expected: int | None = None) -> Call[Activation]:
    """Make the version that was active before the active one again.

    With the version that is `expected` to be active now, a rollback whose answer was lost is not
    done twice.
    """
    path = _at("tasks", task, "rollback")
    return Call("POST", path, _model(Activation), {"expected": expected})


def start_canary(task: str, version: int, percent: float) -> Call[Canary]:
    """Give a version a share of the requests that name none."""
    params = {"version": version, "percent": percent}
    return Call("POST", _at("tasks", task, "canary"), _model(Canary), params)


def end_canary(task: str) -> Call[None]:
    """Give all requests to the active version again."""
    return Call("DELETE", _at("tasks", task, "canary"), _nothing)


def activate(task: str, version: int) -> Call[Activation]:
    """Make a version the active one."""
    return Call("POST", _at("tasks", task, "activate"), _model(Activation), {"version": version})


def retire(task: str, version: int) -> Call[None]:
    """Remove a version that is neither active nor the canary."""
    return Call("DELETE", _at("tasks", task, "versions", version), _nothing)


def warm(task: str, *, version: int | None = None) -> Call[Activation]:
    """Load a version, the active one unless it is named."""
    return Call("POST", _at("tasks", task, "warm"), _model(Activation), {"version": version})


def pin(task: str) -> Call[None]:
    """Keep a task in the engine of every server."""
    return Call("POST", _at("tasks", task, "pin"), _nothing)


def unpin(task: str) -> Call[None]:
    """Let a task leave the engine like any other."""
    return Call("DELETE", _at("tasks", task, "pin"), _nothing)


def delete(task: str) -> Call[None]:
    """Delete a task with all its versions."""
    return Call("DELETE", _at("tasks", task), _nothing)


def create_key(wanted: NewKey) -> Call[CreatedKey]:
    """Create a key."""
    return Call("POST", "/admin/keys", _model(CreatedKey), json=wanted)


def keys(
    *, tenant: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[Page[Key]]:
    """A page of the keys, by id."""
    params = {"tenant": tenant, "limit": limit, "cursor": cursor}
    return Call("GET", "/admin/keys", _model(Page[Key]), params)


def revoke_key(key_id: str) -> Call[Key]:
    """Revoke a key."""
    return Call("DELETE", _at("admin", "keys", key_id), _model(Key))


def tenants(*, limit: int | None = None, cursor: str | None = None) -> Call[Page[Tenant]]:
    """A page of the tenants for which limits were set, by name."""
    params = {"limit": limit, "cursor": cursor}
    return Call("GET", "/admin/tenants", _model(Page[Tenant]), params)


def tenant(name: str) -> Call[Tenant]:
    """What holds for a tenant, and what it has stored."""
    return Call("GET", _at("admin", "tenants", name), _model(Tenant))


def limit_tenant(name: str, limits: TenantOverrides) -> Call[Tenant]:
    """Set limits for a tenant: for all that `limits` does not set the defaults hold."""
    return Call("PUT", _at("admin", "tenants", name), _model(Tenant), json=limits)


def reset_tenant(name: str) -> Call[Tenant]:
    """Let the server's defaults hold for a tenant."""
    return Call("DELETE", _at("admin", "tenants", name), _model(Tenant))
