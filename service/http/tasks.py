"""The routes about tasks and their versions."""

from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, status
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from adapters.manifest import TaskId
from adapters.store import index
from service import types
from service.errors import RequestCancelled
from service.http import schemas
from service.http.audit import audited, tell
from service.http.auth import Managing, Reading
from service.http.bodies import MULTIPART
from service.http.errors import InvalidRequest, UnsupportedContentType
from service.http.multipart import Part, read_parts
from service.http.openapi import BINARY
from service.http.paging import CURSOR, DEFAULT_LIMIT, Limit
from service.http.parameters import Expected, VersionNumber
from service.http.services import Given, Services, admitted

TASK_FIELD = "task_id"
CHECKPOINT_FIELD = "checkpoint"
ACTIVATE_FIELD = "activate"
_FIELDS = (TASK_FIELD, CHECKPOINT_FIELD)
_ALL_FIELDS = (*_FIELDS, ACTIVATE_FIELD)
_TRUTH = {b"true": True, b"false": False}

router = APIRouter(tags=["tasks"], dependencies=[Depends(admitted)])

TaskCursor = Annotated[TaskId | None, Query(description=CURSOR)]
VersionCursor = Annotated[
    int | None,
    Query(ge=0, le=schemas.LARGEST_VERSION, description=CURSOR),
]

_TASK_ID: TypeAdapter[TaskId] = TypeAdapter(TaskId)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": list(_FIELDS),
                    "additionalProperties": False,
                    "properties": {
                        TASK_FIELD: TypeAdapter(TaskId).json_schema(),
                        CHECKPOINT_FIELD: {"type": "string", "format": "binary"},
                        ACTIVATE_FIELD: {"type": "boolean", "default": True},
                    },
                }
            }
        },
    }
}


@router.post(
    "/tasks",
    status_code=status.HTTP_201_CREATED,
    openapi_extra=_BODY,
    dependencies=[audited("version_registered")],
)
async def register(
    request: Request, response: Response, services: Given, tenant: Managing
) -> schemas.Version:
    """Register a checkpoint as a version of a task: in the answer it is proved and active.

    With `activate` false it is proved only, to be tried as a canary or made active later.
    """
    fields = await _read_form(request)
    key = index.TaskKey(tenant=tenant, task=_task_id(fields[TASK_FIELD]))
    activate = _TRUTH.get(fields.get(ACTIVATE_FIELD, b"true"))
    if activate is None:
        raise InvalidRequest(f"{ACTIVATE_FIELD} is neither true nor false. Send one of them.")
    tell(request, task=key.task, size=len(fields[CHECKPOINT_FIELD]), activate=activate)
    version = await services.manager.register(key, fields[CHECKPOINT_FIELD], activate=activate)
    tell(request, version=version.version, digest=version.digest)
    response.headers["Location"] = f"/tasks/{key.task}/versions/{version.version}/checkpoint"
    return _version(version)


@router.get("/tasks")
async def list_tasks(
    services: Given, tenant: Reading, limit: Limit = DEFAULT_LIMIT, cursor: TaskCursor = None
) -> schemas.Page[schemas.Task]:
    """The tasks by name."""
    found = await services.manager.tasks(tenant, after=cursor or "", limit=limit + 1)
    return schemas.Page(
        items=[_task(task, services) for task in found[:limit]],
        next_cursor=found[limit - 1].key.task if len(found) > limit else None,
    )


@router.get("/tasks/{task}")
async def show_task(services: Given, tenant: Reading, task: TaskId) -> schemas.Task:
    """One task."""
    found = await services.manager.task(index.TaskKey(tenant=tenant, task=task))
    return _task(found, services)


@router.delete(
    "/tasks/{task}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[audited("task_deleted")]
)
async def delete_task(services: Given, tenant: Managing, task: TaskId) -> None:
    """Delete a task with all its versions. Requests in flight are still answered."""
    await services.manager.delete(index.TaskKey(tenant=tenant, task=task))


@router.post("/tasks/{task}/rollback", dependencies=[audited("version_rolled_back")])
async def rollback(
    request: Request, services: Given, tenant: Managing, task: TaskId, expected: Expected = None
) -> schemas.Activation:
    """Make the version that was active before the active one again, loaded before it is."""
    key = index.TaskKey(tenant=tenant, task=task)
    ref = await services.manager.rollback(key, expected=expected)
    tell(request, version=ref.version)
    return schemas.Activation(task=ref.task, version=ref.version)


@router.get("/tasks/{task}/versions")
async def list_versions(
    services: Given,
    tenant: Reading,
    task: TaskId,
    limit: Limit = DEFAULT_LIMIT,
    cursor: VersionCursor = None,
) -> schemas.Page[schemas.Version]:
    """A task's versions by number."""
    key = index.TaskKey(tenant=tenant, task=task)
    found = await services.manager.versions(key, after=cursor or 0, limit=limit + 1)
    return schemas.Page(
        items=[_version(version) for version in found[:limit]],
        next_cursor=str(found[limit - 1].version) if len(found) > limit else None,
    )


@router.get(
    "/tasks/{task}/versions/{version}/checkpoint",
    response_class=Response,
    responses={200: {"content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def download(
    services: Given, tenant: Managing, task: TaskId, version: VersionNumber
) -> Response:
    """A version's checkpoint, as it was registered."""
    key = index.TaskKey(tenant=tenant, task=task)
    data = await services.manager.checkpoint(key, version)
    name = f"{task}-{version}.safetensors"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=BINARY, headers=headers)


async def _read_form(request: Request) -> dict[str, bytes]:
    """The fields of a registration, each of them once."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != MULTIPART:
        raise UnsupportedContentType(
            f"Register with {MULTIPART}: the fields {TASK_FIELD!r} and {CHECKPOINT_FIELD!r}."
        )
    fields: dict[str, bytes] = {}
    try:
        async with aclosing(read_parts(request.stream(), content_type)) as parts:
            async for part in parts:
                _require_wanted(part, fields)
                fields[part.name] = bytes(part.data)
    except ClientDisconnect as error:
        raise RequestCancelled("The client left before its body was whole.") from error
    if missing := [name for name in _FIELDS if name not in fields]:
        raise InvalidRequest(f"The form lacks the field {missing[0]!r}. Send it as well.")
    return fields


def _require_wanted(part: Part, fields: dict[str, bytes]) -> None:
    if part.name not in _ALL_FIELDS or part.name in fields:
        raise InvalidRequest(
            f"The form's field {part.name[:100]!r} is not wanted, or not twice. Send "
            f"{TASK_FIELD!r} and {CHECKPOINT_FIELD!r}, each once."
        )


def _task_id(text: bytes) -> str:
    try:
        return _TASK_ID.validate_python(text.decode("ascii", "replace"))
    except ValidationError as error:
        raise InvalidRequest(
            f"{TASK_FIELD} is not a task id: 1 to 64 of a-z, 0-9, dot, underscore and hyphen, the "
            "first a letter or digit."
        ) from error


def _task(task: index.Task, services: Services) -> schemas.Task:
    canary = services.releases.canary(task.key)
    return schemas.Task(
        task=task.key.task,
        active_version=task.active.get(services.fingerprint),
        canary=canary and schemas.Canary(version=canary.version, percent=canary.percent),
        pinned=services.pinning.is_pinned(types.TaskKey(task.key.tenant, task.key.task)),
        created_at=task.created_at,
    )


def _version(version: index.Version) -> schemas.Version:
    return schemas.Version(
        task=version.key.task,
        version=version.version,
        digest=version.digest,
        state=version.state,
        size=version.size,
        metadata=version.metadata,
        created_at=version.created_at,
        renewed_at=version.renewed_at,
    )
