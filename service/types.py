"""What the serving path passes on: task keys, work items, batches of segments, allowances."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

PRIORITIES = range(-3, 4)

Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True)
class TaskKey:
    """The primary key of a task: ids are per tenant."""

    tenant: str
    task: str


@dataclass(frozen=True, slots=True)
class WorkItem(Generic[Payload]):
    """The images of one request for one adapter version, ready to run.

    Args:
        id: Unique among everything that waits.
        task: Whose work it is; the fair queue takes turns by it.
        segment_key: The adapter version in the engine (its slot, say). Items with equal keys
            share a segment of a batch.
        images: How many images `payload` holds, at least 1.
        payload: What the engine's side makes of them; nobody on the way looks inside.
        enqueued_at: Monotonic seconds at which it is handed to the queue.
        deadline: Monotonic seconds from which on nobody wants the answer.
        priority: One of `PRIORITIES`; it ranks work within its tenant only.
        weight: The tenant's share of the engine, relative to the other tenants'.

    Raises:
        ValueError: no images, an unknown priority, or a weight that is not positive and finite.
    """

    id: int
    task: TaskKey
    segment_key: Hashable
    images: int
    payload: Payload
    enqueued_at: float
    deadline: float = math.inf
    priority: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"A work item has at least 1 image, not {self.images}.")
        if self.priority not in PRIORITIES:
            raise ValueError(
                f"Priority {self.priority} is unknown; take one from {PRIORITIES[0]} to "
                f"{PRIORITIES[-1]}."
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(f"A weight is positive and finite, not {self.weight}.")


@dataclass(frozen=True, slots=True)
class Part(Generic[Payload]):
    """Images `start` to `stop` (exclusive) of a work item: all of them, unless it was split."""

    item: WorkItem[Payload]
    start: int
    stop: int

    @property
    def images(self) -> int:
        """How many images these are."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Segment(Generic[Payload]):
    """A contiguous run of images of one adapter version in a batch."""

    key: Hashable
    parts: tuple[Part[Payload], ...]

    @property
    def images(self) -> int:
        """How many images the run is long."""
        return sum(part.images for part in self.parts)


@dataclass(frozen=True, slots=True)
class Batch(Generic[Payload]):
    """One pass through the backbone: the images of the segments, one after the other."""

    segments: tuple[Segment[Payload], ...]

    @property
    def images(self) -> int:
        """How many images pass the backbone together."""
        return sum(segment.images for segment in self.segments)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How batches are cut.

    Args:
        max_images: Most images in a batch.
        window: Seconds that work may wait for company while the engine is busy anyway; None has
            it follow the load: most of what a batch takes.

    Raises:
        ValueError: a limit that no batch could keep.
    """

    max_images: int
    window: float | None = 0.0

    def __post_init__(self) -> None:
        if self.max_images < 1 or not (self.window is None or self.window >= 0):
            raise ValueError("A batch takes at least 1 image and waits at least 0 seconds.")


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far a tenant has used up a rate: `remaining` of `quota` in `window` seconds.

    `reset` is in how many seconds the whole quota is there again if nothing more is used.
    """

    name: str
    quota: int
    window: int
    remaining: int
    reset: float
