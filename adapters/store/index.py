"""The index's records and protocol: which tasks there are, their versions, which one is active."""

from typing import Annotated, Literal, Protocol

from pydantic import Field, JsonValue

from adapters.manifest import AdapterRef, Frozen, Sha256, TaskId, TenantId

ProofState = Literal["ready", "failed"]
VersionState = Literal["pending", ProofState]
ChangeKind = Literal["registered", ProofState, "activated", "retired", "deleted"]
VersionNumber = Annotated[int, Field(ge=1)]

# Most events that an index keeps, and most activations of a task that `rollback` can walk back.
KEPT_CHANGES = 10_000
KEPT_ACTIVATIONS = 100


class TaskKey(Frozen):
    """The name of a task; ids are per tenant."""

    tenant: TenantId = "default"
    task: TaskId


class Task(Frozen):
    """A registered task. `active` gives the active version for each backbone fingerprint."""

    key: TaskKey
    created_at: float
    active: dict[Sha256, VersionNumber]


class Version(Frozen):
    """One immutable version of a task. Times are seconds since the epoch, `size` is in bytes.

    It is `pending` until a server has replayed its proof. `renewed_at` is when the same
    checkpoint was last registered; `metadata` is a little JSON for listings.
    """

    key: TaskKey
    version: VersionNumber
    digest: Sha256
    fingerprint: Sha256
    size: Annotated[int, Field(ge=0)]
    state: VersionState
    metadata: dict[str, JsonValue]
    created_at: float
    renewed_at: float

    @property
    def ref(self) -> AdapterRef:
        """What the serving path needs of it."""
        return AdapterRef(
            tenant=self.key.tenant, task=self.key.task, version=self.version, digest=self.digest
        )


class Usage(Frozen):
    """What a tenant has in the store; `stored_bytes` is the size of all versions together."""

    tasks: int
    stored_bytes: int


class ChangeEvent(Frozen):
    """Something that happened to a task. `sequence` grows by one with every event."""

    sequence: Annotated[int, Field(ge=1)]
    kind: ChangeKind
    key: TaskKey
    version: VersionNumber | None
    at: float


class Replay(Frozen):
    """The circumstances of one replay of a golden proof: its verdict is the same everywhere.

    `engine` names all that computes: the kind of engine and of device, and their releases.
    """

    digest: Sha256
    fingerprint: Sha256
    engine: str
    dtype: str


class Verdict(Frozen):
    """How a replay ended; `detail` says why it failed."""

    passed: bool
    detail: str
    at: float


class TaskDump(Frozen):
    """All that an index knows of one task, to be put into another index.

    A deleted task has no `created_at`, no versions and no history; its counter stays. `history`
    has by fingerprint the activations that `rollback` walks back, the active version last.
    """

    key: TaskKey
    created_at: float | None
    last_version: Annotated[int, Field(ge=0)]
    versions: tuple[Version, ...]
    history: dict[Sha256, tuple[VersionNumber, ...]]


class Index(Protocol):
    """Tasks, versions and active pointers, shared by any number of servers.

    Every method is atomic and durable when it returns. A task that was deleted keeps only its
    version counter, so that a number never comes back. The active version is per backbone
    fingerprint; the ones before it are remembered for `rollback`. `now` is in seconds since the
    epoch. Any method can raise StoreUnavailable (and, when it writes, StoreFull); nothing is
    half done then.
    """

    async def register(
        self,
        key: TaskKey,
        digest: str,
        *,
        fingerprint: str,
        size: int,
        metadata: dict[str, JsonValue],
        now: float,
    ) -> Version:
        """Add a pending version, and the task where it is new.

        A digest that the task has already is renewed: same number, same state.
        """

    async def set_state(self, key: TaskKey, version: int, state: ProofState, *, now: float) -> None:
        """Record how a version's proof ended.

        A ready version stays ready: one server has proved it, and another's failure is that
        server's own (see `put_verdict`).

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
        """

    async def activate(
        self, key: TaskKey, version: int, *, expected: int | None, now: float
    ) -> None:
        """Make a ready version the active one for its fingerprint.

        `expected` is the version that the caller believes to be active (None: none). Activating
        the active version changes nothing.

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
            VersionNotReady: its proof has not held yet.
            PointerMoved: another version than `expected` is active.
        """

    async def rollback(
        self, key: TaskKey, fingerprint: str, *, expected: int, now: float
    ) -> AdapterRef:
        """Make the version that was active before `expected` the active one again.

        Raises:
            UnknownTask: there is no such task.
            PointerMoved: another version than `expected` is active.
            NothingToRollBackTo: no other version was active before, or all are retired.
        """

    async def rollback_target(self, key: TaskKey, fingerprint: str, *, expected: int) -> AdapterRef:
        """The version that `rollback` would make active now.

        Raises: as `rollback` does.
        """

    async def retire(self, key: TaskKey, version: int, *, now: float) -> None:
        """Remove a version that is not active.

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
            VersionInUse: it is active.
        """

    async def delete_task(self, key: TaskKey, *, now: float) -> None:
        """Remove a task with its versions and pointers.

        Raises:
            UnknownTask: there is no such task.
        """

    async def resolve(self, key: TaskKey, fingerprint: str) -> AdapterRef:
        """The active version for a backbone: one cheap read.

        Raises:
            UnknownTask: there is no such task.
            NoActiveVersion: the task has none for this backbone.
        """

    async def get_task(self, key: TaskKey) -> Task:
        """One task.

        Raises:
            UnknownTask: there is no such task.
        """

    async def get_version(self, key: TaskKey, version: int) -> Version:
        """One version.

        Raises:
            UnknownTask: there is no such task.
            UnknownVersion: the task has no such version.
        """

    async def list_tasks(self, tenant: str, *, after: str = "", limit: int) -> list[Task]:
        """A tenant's tasks in the order of their names, from the first one behind `after`."""

    async def list_versions(self, key: TaskKey, *, after: int = 0, limit: int) -> list[Version]:
        """A task's versions in the order of their numbers, from the first one above `after`.

        Raises:
            UnknownTask: there is no such task.
        """

    async def list_pending(self, fingerprint: str, *, limit: int) -> list[Version]:
        """Versions for a backbone that wait for a server to prove them, the oldest first."""

    async def usage(self, tenant: str) -> Usage:
        """What a tenant has, 0 where nobody knows it."""

    async def last_change(self) -> int:
        """The sequence number of the newest event, 0 before the first."""

    async def changes(self, since: int, *, limit: int) -> list[ChangeEvent]:
        """The events after sequence number `since`, in order.

        Old events are trimmed. Where the first one is not `since + 1`, or `last_change` is less
        than `since` (an index restored from a backup), read everything anew.
        """

    async def wait_for_change(self, since: int, *, timeout: float) -> None:
        """Return soon after an event behind `since`, and in any case after `timeout` seconds.

        It may return early, and it may miss an event: it saves reads, and replaces none.
        """

    async def warnings(self) -> list[str]:
        """What an operator should know about how the index is set up, one sentence each."""

    async def referenced_digests(self) -> set[str]:
        """The digests of all versions."""

    async def is_referenced(self, digest: str) -> bool:
        """Whether any version has this digest."""

    async def put_verdict(self, replay: Replay, verdict: Verdict) -> None:
        """Remember how a replay ended, in place of an earlier verdict."""

    async def get_verdict(self, replay: Replay) -> Verdict | None:
        """How a replay ended, None where nobody has run it."""

    async def forget_verdicts(self, digest: str) -> None:
        """Drop the verdicts about a blob that is gone."""

    async def verdicts(self, digest: str) -> dict[Replay, Verdict]:
        """All verdicts about a blob."""

    async def dump(self, after: TaskKey | None, *, limit: int) -> list[TaskDump]:
        """Tasks of all tenants, deleted ones too, in an order of their own, behind `after`."""

    async def restore(self, task: TaskDump, *, now: float) -> None:
        """Make a task what a dump says, whatever it was; servers hear of it as of one change."""

    async def close(self) -> None:
        """Let the current operations end, then free all resources."""
