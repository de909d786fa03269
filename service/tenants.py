"""Who may do what: keys, their scopes, and how a presented key is checked. Pure."""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from adapters.manifest import Sha256, TenantId
from service.errors import Forbidden, Unauthenticated

Scope = Literal["predict", "manage", "admin"]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
KeyName = Annotated[str, Field(max_length=128)]

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
DEFAULT_TENANT = "default"
SECRET_BYTES = 32
ID_BYTES = 8
# 43 characters of URL-safe base64 are 32 bytes.
_TOKEN = re.compile(r"pt_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NO_SECRET = hashlib.sha256(b"").hexdigest()


class Policy(BaseModel):
    """A record that operators have laid down; what a newer release added to it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: ClassVar[str]


class Key(Policy):
    """An API key without its secret, of which only the SHA-256 is kept.

    The secret is 256 random bits, so a slow hash would add nothing: there is no dictionary to try.
    Times are seconds since the epoch.
    """

    kind = "key"

    id: KeyId
    tenant: TenantId
    scopes: frozenset[Scope]
    name: KeyName = ""
    secret_sha256: Sha256
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Token:
    """A key as its holder presents it: the id, which is no secret, and the secret."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"pt_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"Token({self.id})"

    @property
    def secret_sha256(self) -> str:
        """What is stored of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a tenant by one of its keys, or anybody where no key is needed (`key_id` None)."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None

    def require(self, *scopes: Scope) -> None:
        """Return if one of `scopes` is there.

        Raises:
            Forbidden: none is.
        """
        if self.scopes.isdisjoint(scopes):
            raise Forbidden(
                f"Key {self.key_id} lacks the scope {' or '.join(sorted(scopes))}. Use another "
                "key, or have an administrator create one."
            )


ANYBODY = Principal(DEFAULT_TENANT, SCOPES, None)


def token_of(random_bytes: bytes) -> Token:
    """The token that ID_BYTES + SECRET_BYTES random bytes make."""
    secret = base64.urlsafe_b64encode(random_bytes[ID_BYTES:]).rstrip(b"=").decode()
    return Token(random_bytes[:ID_BYTES].hex(), secret)


def parse_token(text: str) -> Token:
    """Read a presented key.

    Raises:
        Unauthenticated: it does not look like one.
    """
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise _unknown_key()
    return Token(match[1], match[2])


def identify(token: Token, key: Key | None, now: float) -> Principal:
    """Who presents a token, given the key with its id, if there is one.

    Unknown, wrong, revoked and expired keys are told apart by nothing, not even by time.

    Raises:
        Unauthenticated: the token opens nothing.
    """
    expected = _NO_SECRET if key is None else key.secret_sha256
    is_right = hmac.compare_digest(token.secret_sha256, expected)
    if key is None or not (is_right and key.is_valid(now)):
        raise _unknown_key()
    return Principal(key.tenant, key.scopes, key.id)


def _unknown_key() -> Unauthenticated:
    return Unauthenticated(
        "The key is unknown, revoked or expired. Check that it is whole, or have an "
        "administrator create another one."
    )
