"""Who asks: the key of a request becomes a principal, and each route says which scope it needs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.http.services import GivenFront
from service.keys import KeyRing
from service.tenants import Principal, Scope

_bearer = HTTPBearer(auto_error=False, description="A key, as `protuning keys create` gives it.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


async def authenticated(
    request: Request,
    services: GivenFront,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Principal:
    """Whoever holds the request's key; see `identify`."""
    return await _identify(request, services.keys, bearer, header)


async def identify(request: Request, keys: KeyRing) -> Principal:
    """Whoever holds a request's key; from now on its log line names them.

    Raises:
        Unauthenticated: there is no key, or it opens nothing.
        StoreUnavailable: the key was never seen, and the store cannot be asked.
    """
    return await _identify(request, keys, await _bearer(request), await _header(request))


async def _identify(
    request: Request,
    keys: KeyRing,
    bearer: HTTPAuthorizationCredentials | None,
    header: str | None,
) -> Principal:
    principal = await keys.authenticate(header if bearer is None else bearer.credentials)
    request.state.principal = principal
    return principal


def _having(*scopes: Scope) -> Callable[[Principal], Awaitable[Principal]]:
    async def require(principal: Annotated[Principal, Depends(authenticated)]) -> Principal:
        principal.require(*scopes)
        return principal

    return require


def _tenant_of(*scopes: Scope) -> Callable[[Principal], Awaitable[str]]:
    async def tenant(principal: Annotated[Principal, Depends(_having(*scopes))]) -> str:
        return principal.tenant

    return tenant


async def _taken_in(
    front: GivenFront, principal: Annotated[Principal, Depends(_having("predict"))]
) -> AsyncIterator[str]:
    """Hold a place before the body is read, so that a flood costs nobody its decoding."""
    with front.admission.admit(principal.tenant):
        yield principal.tenant


# The tenant of a request that predicts, changes tasks, or looks at them.
Predicting = Annotated[str, Depends(_taken_in)]
Managing = Annotated[str, Depends(_tenant_of("manage"))]
Reading = Annotated[str, Depends(_tenant_of("predict", "manage"))]
Administering = Annotated[Principal, Depends(_having("admin"))]
