"""The tree of errors that serving a request can end in.

ServiceError
├── Unauthenticated         no key was presented, or one that opens nothing
├── Forbidden               the key lacks the scope
├── UnknownKey              there is no key with this id
├── InvalidKeyFile          the bootstrap key file cannot be read or made, or holds no key
├── AddressUnavailable      the address cannot be listened on
├── LogUnavailable          a log file cannot be written
├── OpenDoor                an address that others reach is to be served without keys
├── TaskNotFound            the tenant has no such task, or not that version of it
├── BackboneConflict        the task exists, but not for the backbone that is served
├── AdapterLoadFailed       the adapter could not be loaded or proved; `cause` names why
├── EngineFailed            the engine raised while it ran the request's images
├── QuotaExceeded           the tenant has as many tasks or bytes as it may
├── TooManyImages           the request could never be taken, however empty the server
├── TooManyLabels           the answer would hold more labels, or text of them, than one may
├── DeadlineExceeded        the answer would come later than the client waits
├── RequestCancelled        the client has gone
├── LineBroken              an HTTP process and the engine's do not understand each other
├── WorkerFailed            an HTTP process ended before it served
├── RetryLater              may pass in `retry_after` seconds
│   ├── Overloaded          the server has more work than it can hold
│   ├── RateLimited         the tenant is over its own limit
│   └── ShuttingDown        the server takes no new work
├── EngineError
│   ├── EngineUnavailable   this machine cannot run the engine that is asked for
│   ├── EngineFull          no room in one piece is left for an adapter
│   └── UnknownSlot         the slot's adapter has been unloaded
└── CacheError
    ├── CacheFull           what could make room is in use
    └── CacheTooSmall       the entry could never fit

Every message says what happened and how to mend it. Errors of images, checkpoints and the store
are those of `adapters.errors`. What a client gets to see of either tree is decided in one place,
the HTTP layer: no status code is known here.
"""

from service.types import Allowance


class ServiceError(Exception):
    """Root of everything that `service` raises on purpose."""


class Unauthenticated(ServiceError):
    """No key was presented, or one that is unknown, revoked or expired."""


class Forbidden(ServiceError):
    """The key is known, but lacks the scope for this."""


class UnknownKey(ServiceError):
    """There is no key with this id."""


class InvalidKeyFile(ServiceError):
    """The bootstrap key file cannot be read or made, or holds no key."""


class AddressUnavailable(ServiceError):
    """The server cannot listen on its address, most often because another one does."""


class LogUnavailable(ServiceError):
    """A log file cannot be written."""


class OpenDoor(ServiceError):
    """An address that others can reach is to be served although there are no keys."""


class TaskNotFound(ServiceError):
    """The tenant has no such task, or not that version; another tenant's tasks count as none."""


class BackboneConflict(ServiceError):
    """The task has no version for the backbone that is served."""


class AdapterLoadFailed(ServiceError):
    """An adapter could not be loaded or proved.

    Args:
        message: What happened and how to mend it.
        cause: The name of the error behind it ("CorruptBlob", "ProofFailed"): stable, so that
            logs and metrics can group by it.
    """

    def __init__(self, message: str, *, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class EngineFailed(ServiceError):
    """The engine raised while it ran the request's images."""


class QuotaExceeded(ServiceError):
    """The tenant has as many tasks or bytes as it may; waiting does not help."""


class TooManyImages(ServiceError):
    """More images than the queue holds when it is empty; only a smaller request helps."""


class TooManyLabels(ServiceError):
    """The answer would hold more labels than one may; only asking for less helps."""


class DeadlineExceeded(ServiceError):
    """The deadline passed before the answer was there."""


class RequestCancelled(ServiceError):
    """The client has gone, so nobody waits for the answer."""


class LineBroken(ServiceError):
    """The server failed between two of its processes."""


class WorkerFailed(ServiceError):
    """An HTTP process ended before it was ready to serve."""


class RetryLater(ServiceError):
    """The same request may pass later.

    Args:
        message: What happened and how to mend it.
        retry_after: Seconds after which it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(RetryLater):
    """The server has more work than it can hold."""


class RateLimited(RetryLater):
    """The tenant is over its own limit.

    Args:
        message: What happened and how to mend it.
        retry_after: Seconds after which it is worth trying again.
        allowances: What is left of the limit.
    """

    def __init__(
        self, message: str, *, retry_after: float, allowances: tuple[Allowance, ...] = ()
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.allowances = allowances


class ShuttingDown(RetryLater):
    """The server finishes what it has and takes no new work."""


class EngineError(ServiceError):
    """An engine refused; what it raises while it runs becomes `EngineFailed`."""


class EngineUnavailable(EngineError):
    """This machine cannot run the engine that is asked for; the message says what it lacks."""


class EngineFull(EngineError):
    """No room in one piece is left for an adapter; unloading others makes some."""


class UnknownSlot(EngineError):
    """The slot's adapter has been unloaded."""


class CacheError(ServiceError):
    """A tier of the adapter cache could not take an entry."""


class CacheFull(CacheError):
    """Too much of the tier is pinned; room comes back as leases end."""


class CacheTooSmall(CacheError):
    """The entry is larger than the whole tier."""
