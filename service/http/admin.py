"""The routes of administrators: keys."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from adapters.manifest import TenantId
from service import tenants
from service.http import schemas
from service.http.auth import Administering
from service.http.json_body import described, read_json
from service.http.paging import CURSOR, DEFAULT_LIMIT, Limit
from service.http.services import Given, admitted

router = APIRouter(prefix="/admin", tags=["administration"], dependencies=[Depends(admitted)])

KeyId = Annotated[tenants.KeyId, Path(description="The id of a key, which is no secret.")]
KeyCursor = Annotated[tenants.KeyId | None, Query(description=CURSOR)]
OfTenant = Annotated[TenantId | None, Query(description="Only the keys of this tenant.")]


@router.post("/keys", status_code=status.HTTP_201_CREATED, openapi_extra=described(schemas.NewKey))
async def create_key(
    request: Request, response: Response, services: Given, _admin: Administering
) -> schemas.CreatedKey:
    """Create a key. What has to be presented stands in this answer and nowhere else."""
    wanted = await read_json(request, schemas.NewKey)
    key, token = await services.keys.create(
        wanted.tenant, wanted.scopes, name=wanted.name, expires_at=wanted.expires_at
    )
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


@router.delete("/keys/{key_id}")
async def revoke_key(services: Given, _admin: Administering, key_id: KeyId) -> schemas.Key:
    """Revoke a key: at once on this server, within its watch period on others."""
    return schemas.Key.of(await services.keys.revoke(key_id))
