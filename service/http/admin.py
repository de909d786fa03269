"""The routes of administrators: keys, and the limits of tenants."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from adapters.manifest import TenantId
from service import tenants
from service.http import schemas
from service.http.audit import audited, tell
from service.http.auth import Administering
from service.http.errors import InvalidRequest
from service.http.json_body import described, read_json
from service.http.paging import CURSOR, DEFAULT_LIMIT, Limit
from service.http.services import Given, Services, admitted

router = APIRouter(prefix="/admin", tags=["administration"], dependencies=[Depends(admitted)])

KeyId = Annotated[tenants.KeyId, Path(description="The id of a key, which is no secret.")]
KeyCursor = Annotated[tenants.KeyId | None, Query(description=CURSOR)]
TenantCursor = Annotated[TenantId | None, Query(description=CURSOR)]
OfTenant = Annotated[TenantId | None, Query(description="Only the keys of this tenant.")]


@router.post(
    "/keys",
    status_code=status.HTTP_201_CREATED,
    openapi_extra=described(schemas.NewKey),
    dependencies=[audited("key_created")],
)
async def create_key(
    request: Request, response: Response, services: Given, _admin: Administering
) -> schemas.CreatedKey:
    """Create a key. What has to be presented stands in this answer and nowhere else."""
    wanted = await read_json(request, schemas.NewKey)
    if services.keys.is_open and "admin" not in wanted.scopes:
        raise InvalidRequest(
            "The first key closes the server to everybody who has none, and this one could not "
            "create another: give it the scope admin too, or create an administrator's key first."
        )
    key, token = await services.keys.create(
        wanted.tenant, wanted.scopes, name=wanted.name, expires_at=wanted.expires_at
    )
    tell(request, created=key.id, of=key.tenant, scopes=sorted(key.scopes))
    response.headers["Cache-Control"] = "no-store"
    return schemas.CreatedKey.with_token(key, token)


@router.get("/keys")
async def list_keys(
    services: Given,
    _admin: Administering,
    tenant: OfTenant = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: KeyCursor = None,
) -> schemas.Page[schemas.Key]:
    """The keys by id; revoked and expired ones too."""
    found = await services.keys.keys(tenant=tenant, after=cursor or "", limit=limit + 1)
    return schemas.Page(
        items=[schemas.Key.of(key) for key in found[:limit]],
        next_cursor=found[limit - 1].id if len(found) > limit else None,
    )


@router.delete("/keys/{key_id}", dependencies=[audited("key_revoked")])
async def revoke_key(services: Given, _admin: Administering, key_id: KeyId) -> schemas.Key:
    """Revoke a key: at once on this server, within its watch period on others."""
    return schemas.Key.of(await services.keys.revoke(key_id))


@router.get("/tenants")
async def list_tenants(
    services: Given,
    _admin: Administering,
    limit: Limit = DEFAULT_LIMIT,
    cursor: TenantCursor = None,
) -> schemas.Page[schemas.Tenant]:
    """The tenants for which limits were set, by name."""
    names = sorted(name for name in services.quotas.overridden() if name > (cursor or ""))
    return schemas.Page(
        items=[await _tenant(services, name) for name in names[:limit]],
        next_cursor=names[limit - 1] if len(names) > limit else None,
    )


@router.get("/tenants/{tenant}")
async def show_tenant(services: Given, _admin: Administering, tenant: TenantId) -> schemas.Tenant:
    """What holds for a tenant, which need not have anything yet."""
    return await _tenant(services, tenant)


@router.put(
    "/tenants/{tenant}",
    openapi_extra=described(schemas.TenantOverrides),
    dependencies=[audited("tenant_limited")],
)
async def limit_tenant(
    request: Request, services: Given, _admin: Administering, tenant: TenantId
) -> schemas.Tenant:
    """Set limits for a tenant: those in the body; for all others the defaults hold again."""
    overrides = await read_json(request, schemas.TenantOverrides)
    tell(request, limits=overrides.model_dump(exclude_unset=True))
    await services.quotas.override(tenant, overrides)
    return await _tenant(services, tenant)


@router.delete("/tenants/{tenant}", dependencies=[audited("tenant_reset")])
async def reset_tenant(services: Given, _admin: Administering, tenant: TenantId) -> schemas.Tenant:
    """Let the defaults hold for a tenant."""
    await services.quotas.reset(tenant)
    return await _tenant(services, tenant)


async def _tenant(services: Services, tenant: str) -> schemas.Tenant:
    usage = await services.manager.usage(tenant)
    overrides = services.quotas.overridden().get(tenant)
    return schemas.Tenant(
        tenant=tenant,
        limits=services.quotas.limits(tenant),
        overridden=sorted(overrides.model_fields_set) if overrides else [],
        tasks=usage.tasks,
        stored_bytes=usage.stored_bytes,
    )
