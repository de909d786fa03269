"""The routes of a release: canary, activate, retire, warm, pin."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, status

from adapters.manifest import TaskId
from adapters.store import index
from service import types
from service.http import schemas
from service.http.audit import audited
from service.http.auth import Administering, Managing
from service.http.inference import unless_gone
from service.http.parameters import Expected, NamedVersion, VersionNumber
from service.http.services import Given, admitted

router = APIRouter(prefix="/tasks/{task}", tags=["releases"], dependencies=[Depends(admitted)])

Wanted = Annotated[
    int, Query(ge=1, le=schemas.LARGEST_VERSION, description="The version that is meant.")
]
Percent = Annotated[float, Query(gt=0, le=100, description="Its share of the requests.")]


@router.post("/canary", dependencies=[audited("canary_started")])
async def start_canary(
    services: Given, tenant: Managing, task: TaskId, version: Wanted, percent: Percent
) -> schemas.Canary:
    """Give a version a share of the requests that name none, or change its share.

    Requests with the same header `X-Canary-Key` go to the same version; others are drawn.
    """
    key = index.TaskKey(tenant=tenant, task=task)
    canary = await services.releases.start_canary(key, version, percent)
    return schemas.Canary(version=canary.version, percent=canary.percent)


@router.delete(
    "/canary", status_code=status.HTTP_204_NO_CONTENT, dependencies=[audited("canary_ended")]
)
async def end_canary(services: Given, tenant: Managing, task: TaskId) -> None:
    """Give all requests to the active version again."""
    await services.releases.end_canary(index.TaskKey(tenant=tenant, task=task))


@router.post("/activate", dependencies=[audited("version_activated")])
async def activate(
    services: Given, tenant: Managing, task: TaskId, version: Wanted, expected: Expected = None
) -> schemas.Activation:
    """Make a version the active one, loaded before it gets its first request."""
    key = index.TaskKey(tenant=tenant, task=task)
    ref = await services.releases.activate(key, version, expected=expected)
    return schemas.Activation(task=ref.task, version=ref.version)


@router.delete(
    "/versions/{version}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=[audited("version_retired")],
)
async def retire(services: Given, tenant: Managing, task: TaskId, version: VersionNumber) -> None:
    """Remove a version that is neither active nor the canary."""
    await services.releases.retire(index.TaskKey(tenant=tenant, task=task), version)


@router.post("/warm", dependencies=[audited("version_loaded")])
async def warm(
    request: Request, services: Given, tenant: Managing, task: TaskId, version: NamedVersion = None
) -> schemas.Activation:
    """Load a version, the active one unless it is named, so that the next request waits not."""
    deadline = time.monotonic() + services.limits.max_timeout_ms / 1_000
    work = services.residency.warm(tenant, task, version, deadline=deadline)
    ref = await unless_gone(request, work)
    return schemas.Activation(task=ref.task, version=ref.version)


@router.post("/pin", status_code=status.HTTP_204_NO_CONTENT, dependencies=[audited("task_pinned")])
async def pin(services: Given, admin: Administering, task: TaskId) -> None:
    """Keep a task of the administrator's tenant in every server's engine."""
    await services.pinning.pin(types.TaskKey(admin.tenant, task))


@router.delete(
    "/pin", status_code=status.HTTP_204_NO_CONTENT, dependencies=[audited("task_unpinned")]
)
async def unpin(services: Given, admin: Administering, task: TaskId) -> None:
    """Let a task leave the engine like any other."""
    await services.pinning.unpin(types.TaskKey(admin.tenant, task))
