"""What an index says when it refuses: the same words, whichever index it is."""

from adapters.errors import (
    NoActiveVersion,
    NothingToRollBackTo,
    PointerMoved,
    UnknownTask,
    UnknownVersion,
    VersionInUse,
    VersionNotReady,
)
from adapters.store.index import TaskKey


def unknown_task(key: TaskKey) -> UnknownTask:
    """The tenant has no such task."""
    return UnknownTask(f"There is no task {key.task!r}. Register it first, or check the spelling.")


def unknown_version(key: TaskKey, version: int) -> UnknownVersion:
    """The task has no such version."""
    return UnknownVersion(
        f"Task {key.task!r} has no version {version}. List its versions to see which there are."
    )


def no_active_version(key: TaskKey, fingerprint: str) -> NoActiveVersion:
    """The task has none for this backbone."""
    return NoActiveVersion(
        f"Task {key.task!r} has no active version for backbone {fingerprint[:12]}. Register an "
        "adapter that was trained on this backbone, or wait until its proof has run."
    )


def version_not_ready(key: TaskKey, version: int, state: str) -> VersionNotReady:
    """Its proof has not held yet."""
    return VersionNotReady(
        f"Version {version} of task {key.task!r} is {state}. Only a version whose proof has held "
        "can become active."
    )


def version_in_use(key: TaskKey, version: int) -> VersionInUse:
    """It is active."""
    return VersionInUse(
        f"Version {version} of task {key.task!r} is active. Activate another one first, or "
        "delete the task."
    )


def pointer_moved(key: TaskKey, active: int | None, expected: int | None) -> PointerMoved:
    """Another version than the caller believed is active."""
    return PointerMoved(
        f"Task {key.task!r} has the active version {active}, not {expected}: somebody else has "
        "changed it. Look at the task, then try again."
    )


def nothing_to_roll_back_to(key: TaskKey, expected: int) -> NothingToRollBackTo:
    """No other version was active before."""
    return NothingToRollBackTo(
        f"No version of task {key.task!r} that still exists was active before version "
        f"{expected}. Activate a version by its number."
    )
