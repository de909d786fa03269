"""The JSON that goes over the wire, for the routes and for the client alike."""

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from adapters.manifest import TenantId
from service import tenants
from service.limits import TenantLimits
from service.tenants import DEFAULT_TENANT, KeyName, Scope

# The index counts in 64 bits.
LARGEST_VERSION = 2**63 - 1

Item = TypeVar("Item")


class Wire(BaseModel):
    """Immutable; a client of an older release ignores the fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Readiness(Wire):
    """Whether a server does all of its work, and what keeps it from the rest.

    "down" is said on the operators' own port; elsewhere it is a problem with status 503.
    """

    status: Literal["ready", "degraded", "down"]
    problems: list[str]


class LabelScore(Wire):
    """A class of a task and its probability; `index` is its row in the head."""

    label: str
    index: int
    score: float


class ImagePrediction(Wire):
    """One image's likeliest classes, the likeliest first."""

    labels: list[LabelScore]


class Timing(Wire):
    """Where the time of a prediction went, and with how many others it shared its batch."""

    decode_ms: float
    load_ms: float
    queue_ms: float
    compute_ms: float
    batch_images: int
    batch_tasks: int


class Prediction(Wire):
    """One task's answer: a prediction for each image, in their order."""

    task: str
    version: int
    predictions: list[ImagePrediction]
    timing: Timing


class ManyPredictions(Wire):
    """The answers of several tasks about the same images, in the order of the request."""

    results: list[Prediction]


class Canary(Wire):
    """A version that gets a share of the requests that name none."""

    version: int
    percent: float


class Task(Wire):
    """A registered task. `active_version` is the one that is served here, if there is one."""

    task: str
    active_version: int | None
    canary: Canary | None = None
    pinned: bool = False
    created_at: float


class Version(Wire):
    """One immutable version of a task. `size` is in bytes, times are seconds since the epoch.

    `renewed_at` is when the same bytes were last registered: first at `created_at`.
    """

    task: str
    version: int
    digest: str
    state: Literal["pending", "ready", "failed"]
    size: int
    metadata: dict[str, JsonValue]
    created_at: float
    renewed_at: float


class Page(Wire, Generic[Item]):
    """A piece of a list; `next_cursor` asks for what follows it, None at its end."""

    items: list[Item]
    next_cursor: str | None


class Activation(Wire):
    """Which version of a task is the active one now."""

    task: str
    version: int


class NewKey(BaseModel):
    """What a key is to be; `expires_at` is in seconds since the epoch, None for never."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    tenant: TenantId = DEFAULT_TENANT
    scopes: Annotated[
        frozenset[Scope],
        # One that is named twice is meant once.
        Field(min_length=1, strict=False, json_schema_extra={"uniqueItems": False}),
    ] = frozenset({"predict"})
    name: KeyName = ""
    expires_at: float | None = None


class Key(Wire):
    """A key, which only its `id` names. Times are seconds since the epoch, None for never."""

    id: str
    tenant: str
    scopes: list[Scope]
    name: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    @classmethod
    def of(cls, key: tenants.Key) -> Self:
        """What is told of a key."""
        return cls(**_told_of(key))


class CreatedKey(Key):
    """A key and, this once, what has to be presented: it is kept nowhere."""

    key: str

    @classmethod
    def with_token(cls, key: tenants.Key, token: tenants.Token) -> Self:
        """What is told of a key to whoever has made it."""
        return cls(**_told_of(key), key=str(token))


def _told_of(key: tenants.Key) -> dict[str, Any]:
    return key.model_dump(exclude={"scopes", "secret_sha256"}) | {"scopes": sorted(key.scopes)}


class TenantOverrides(TenantLimits):
    """What is to hold for a tenant instead of the server's defaults; null is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Tenant(Wire):
    """A tenant: what holds for it, which of that was set for it alone, and what it has stored."""

    tenant: str
    limits: TenantLimits
    overridden: list[str]
    tasks: int
    stored_bytes: int


class ProblemDocument(Wire):
    """An error (RFC 9457). `type` is stable, `detail` says how to mend it."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    request_id: str
