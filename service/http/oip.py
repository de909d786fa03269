"""The Open Inference Protocol v2 about the server and its models: a task is a model."""

import time
from importlib.metadata import version as version_of
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Request

from adapters.errors import UnknownVersion
from adapters.manifest import TaskId
from adapters.store import index
from service.cache.adapter_cache import AdapterState
from service.errors import BackboneConflict, TaskNotFound
from service.http import oip_schemas as wire
from service.http.audit import audited
from service.http.auth import Managing, Reading
from service.http.inference import unless_gone
from service.http.json_body import read_small
from service.http.oip_body import parse_json
from service.http.oip_tensors import inputs_of
from service.http.openapi import body_of, referred
from service.http.schemas import LARGEST_VERSION
from service.http.services import Given, Services, admitted

PLATFORM = "protuning"
EXTENSIONS = ["classification", "binary_tensor_data", "model_repository"]
# Of versions and of tasks: the protocol has no pages.
MAX_LISTED = 1_000
TAG = "Open Inference Protocol"

router = APIRouter(prefix="/v2", tags=[TAG])
models = APIRouter(prefix="/v2", tags=[TAG], dependencies=[Depends(admitted)])

VersionNumber = Annotated[int, Path(ge=1, le=LARGEST_VERSION)]


@router.get("")
async def server_metadata() -> wire.ServerMetadata:
    """What this server is."""
    return wire.ServerMetadata(
        name="protuning", version=version_of("protuning"), extensions=EXTENSIONS
    )


@router.get("/health/live")
async def server_live() -> wire.Live:
    """The process answers."""
    return wire.Live()


@router.get("/health/ready")
async def server_ready(services: Given) -> wire.Ready:
    """Requests would be served."""
    services.drain.check_ready()
    await services.check()
    return wire.Ready()


@models.get("/models/{task}")
async def model_metadata(services: Given, tenant: Reading, task: TaskId) -> wire.ModelMetadata:
    """What a task takes and gives, by its active version."""
    return await _metadata(services, index.TaskKey(tenant=tenant, task=task), None)


@models.get("/models/{task}/versions/{version}")
async def version_metadata(
    services: Given, tenant: Reading, task: TaskId, version: VersionNumber
) -> wire.ModelMetadata:
    """What a version of a task takes and gives."""
    return await _metadata(services, index.TaskKey(tenant=tenant, task=task), version)


@models.get("/models/{task}/ready")
async def model_ready(services: Given, tenant: Reading, task: TaskId) -> wire.ModelReady:
    """A request to the task would be served; one that is not loaded is loaded by it."""
    return await _ready(services, tenant, task, None)


@models.get("/models/{task}/versions/{version}/ready")
async def version_ready(
    services: Given, tenant: Reading, task: TaskId, version: VersionNumber
) -> wire.ModelReady:
    """A request to the version would be served."""
    return await _ready(services, tenant, task, version)


@models.post(
    "/repository/index",
    openapi_extra=body_of(required=False, json=referred(wire.RepositoryRequest)),
)
async def repository_index(
    request: Request, services: Given, tenant: Reading
) -> list[wire.RepositoryEntry]:
    """The tasks by name, the first 1,000 of them, and whether they are in the engine."""
    body = await read_small(request)
    wanted = parse_json(body, wire.RepositoryRequest) if body else wire.RepositoryRequest()
    tasks = await services.manager.tasks(tenant, limit=MAX_LISTED)
    entries = [await _entry(services, task) for task in tasks]
    return [entry for entry in entries if entry.state == "READY" or not wanted.ready]


@models.post(
    "/repository/models/{task}/load",
    openapi_extra=body_of(required=False, json=referred(wire.LoadRequest)),
    dependencies=[audited("version_loaded")],
)
async def load_model(
    request: Request, services: Given, tenant: Managing, task: TaskId
) -> wire.RepositoryEntry:
    """Have a task's active version in the engine, so that the next request waits for nothing."""
    await _require_plain(request)
    deadline = time.monotonic() + services.limits.max_timeout_ms / 1_000
    work = services.residency.warm(tenant, task, deadline=deadline)
    ref = await unless_gone(request, work)
    return _described(ref.task, ref.version, "device")


@models.post(
    "/repository/models/{task}/unload",
    openapi_extra=body_of(required=False, json=referred(wire.LoadRequest)),
    dependencies=[audited("version_unloaded")],
)
async def unload_model(
    request: Request, services: Given, tenant: Managing, task: TaskId
) -> wire.RepositoryEntry:
    """Free a task's place in the engine once its requests are answered. It stays registered."""
    await _require_plain(request)
    ref = await services.residency.unload(tenant, task)
    return _described(ref.task, ref.version, "disk")


async def _metadata(
    services: Services, key: index.TaskKey, number: int | None
) -> wire.ModelMetadata:
    if number is None:
        number = (await services.manager.task(key)).active.get(services.fingerprint)
    if number is None:
        raise BackboneConflict(
            f"Task {key.task!r} has no version for the backbone that is served here. Register one."
        )
    version = await _version(services, key, number)
    found = await services.manager.versions(key, limit=MAX_LISTED)
    here = [each for each in found if each.fingerprint == services.fingerprint]
    classes = version.metadata.get("classes")
    shape = [-1, classes if isinstance(classes, int) else -1]
    return wire.ModelMetadata(
        name=key.task,
        versions=[str(each.version) for each in here],
        platform=PLATFORM,
        inputs=inputs_of(services.images.preprocessing),
        outputs=[
            wire.TensorMetadata(name="probabilities", datatype="FP32", shape=shape),
            wire.TensorMetadata(name="logits", datatype="FP32", shape=shape),
        ],
    )


async def _version(services: Services, key: index.TaskKey, number: int) -> index.Version:
    found = await services.manager.versions(key, after=number - 1, limit=1)
    if not found or found[0].version != number:
        raise UnknownVersion(f"Task {key.task!r} has no version {number}. List its versions.")
    return found[0]


async def _ready(
    services: Services, tenant: str, task: str, version: int | None
) -> wire.ModelReady:
    services.drain.check_ready()
    found = await services.residency.where(tenant, task, version)
    return wire.ModelReady(name=task, version=str(found.ref.version))


async def _entry(services: Services, task: index.Task) -> wire.RepositoryEntry:
    try:
        found = await services.residency.where(task.key.tenant, task.key.task)
    except (BackboneConflict, TaskNotFound) as error:
        return wire.RepositoryEntry(
            name=task.key.task, version=None, state="UNAVAILABLE", reason=str(error)
        )
    return _described(task.key.task, found.ref.version, found.state)


def _described(task: str, version: int, state: AdapterState) -> wire.RepositoryEntry:
    def entry(
        word: Literal["READY", "LOADING", "UNAVAILABLE"], reason: str
    ) -> wire.RepositoryEntry:
        return wire.RepositoryEntry(name=task, version=str(version), state=word, reason=reason)

    match state:
        case "device":
            return entry("READY", "")
        case "host" | "disk":
            return entry("UNAVAILABLE", "It is not loaded. Load it, or let a request do so.")
        case "failed":
            return entry("UNAVAILABLE", "Its load has failed. Try again a little later.")
        case step:
            return entry("LOADING", step)


async def _require_plain(request: Request) -> None:
    """Refuse Triton's requests that bring a model along: here models are registered."""
    if body := await read_small(request):
        parse_json(body, wire.LoadRequest)
