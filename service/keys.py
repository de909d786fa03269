"""The use cases around API keys: who presents this one, create, list, revoke."""

import secrets
import time
from collections.abc import Callable

from service.errors import Unauthenticated, UnknownKey
from service.policies import Policies
from service.tenants import (
    ANYBODY,
    ID_BYTES,
    SECRET_BYTES,
    Key,
    Principal,
    Scope,
    Token,
    identify,
    parse_token,
    token_of,
)

# How long a key that is known stays valid while the store cannot be asked whether it still is.
VALID_UNCONFIRMED_SECONDS = 600.0


class KeyRing:
    """Checks and changes keys.

    Args:
        policies: Has the keys.
        required: Whether a request needs a key even where none has ever been created.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        policies: Policies,
        *,
        required: bool,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._policies = policies
        self._required = required
        self._clock = clock
        self._wall_clock = wall_clock

    @property
    def is_open(self) -> bool:
        """Whether anybody may do anything: it is known that no key was ever created."""
        return self._policies.confirmed_at is not None and not self.are_needed

    @property
    def are_needed(self) -> bool:
        """Whether keys tell here who may do what: strangers may be listening."""
        return self._required or self._policies.has(Key)

    async def authenticate(self, presented: str | None) -> Principal:
        """Who presents a key. Nothing is asked of the store if the key is known.

        Raises:
            Unauthenticated: there is no key, or it opens nothing.
            StoreUnavailable: the store is gone, and the key was never seen, or has not been
                confirmed for ten minutes.
        """
        if self._policies.confirmed_at is None:
            await self._policies.refresh()
        if self.is_open:
            return ANYBODY
        if presented is None:
            raise Unauthenticated(
                "A key is needed. Send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'."
            )
        token = parse_token(presented)
        if self._policies.get(Key, token.id) is None or self._is_unconfirmed():
            await self._policies.refresh()
        return identify(token, self._policies.get(Key, token.id), self._wall_clock())

    async def create(
        self,
        tenant: str,
        scopes: frozenset[Scope],
        *,
        name: str = "",
        expires_at: float | None = None,
    ) -> tuple[Key, Token]:
        """Make a key; the token is nowhere but in what this returns.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        token = token_of(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
        return await self.adopt(token, tenant, scopes, name=name, expires_at=expires_at), token

    async def adopt(
        self,
        token: Token,
        tenant: str,
        scopes: frozenset[Scope],
        *,
        name: str = "",
        expires_at: float | None = None,
    ) -> Key:
        """Make a key of a token from elsewhere; one whose id is known stays as it is.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._policies.refresh()
        known = self._policies.get(Key, token.id)
        if known is not None:
            return known
        key = Key(
            id=token.id,
            tenant=tenant,
            scopes=scopes,
            name=name,
            secret_sha256=token.secret_sha256,
            created_at=self._wall_clock(),
            expires_at=expires_at,
        )
        await self._policies.put(key.id, key)
        return key

    async def keys(self, *, tenant: str | None = None, after: str = "", limit: int) -> list[Key]:
        """All keys or those of a tenant by id, revoked ones too, from the first behind `after`.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        await self._policies.refresh()
        found = [
            key
            for key in self._policies.all(Key).values()
            if key.id > after and tenant in (None, key.tenant)
        ]
        return sorted(found, key=lambda key: key.id)[:limit]

    async def revoke(self, key_id: str) -> Key:
        """End a key for good: at once here, within a watch period elsewhere.

        Raises:
            UnknownKey: there is none with this id.
            StoreUnavailable: the store cannot be reached.
        """
        await self._policies.refresh()
        key = self._policies.get(Key, key_id)
        if key is None:
            raise UnknownKey(f"There is no key {key_id!r}. List the keys to see which there are.")
        if key.revoked_at is None:
            key = key.model_copy(update={"revoked_at": self._wall_clock()})
            await self._policies.put(key.id, key)
        return key

    def _is_unconfirmed(self) -> bool:
        confirmed_at = self._policies.confirmed_at
        return confirmed_at is None or self._clock() - confirmed_at > VALID_UNCONFIRMED_SECONDS
