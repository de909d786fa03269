"""The bounded, fair queue from which batches are cut: pure, with time as an argument.

Who is next: tenants take turns by weight; within a tenant its lines do, a line being one task at
one priority; a line is first in, first out. A step of priority is worth a fourfold weight among
the tenant's own lines: urgent work goes first when it arrives, and yet starves nobody. The unit
of every account is the image.

A work item is split wherever a batch ends, so batches are as full as the waiting work allows and
a request may be larger than a batch.

Who may come in: an item whose tenant would then hold no more images than places are free before
it. One flooding tenant thus fills half of the queue, two fill a third each, and a newcomer
finds room.

`push` and `cancel` cost O(log items), `next_batch` O(parts x log lines) for the parts it returns,
`expire` O(log items) for each item it returns, all amortised: nothing scans what waits.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic

from service.batching.fairness import FairShare
from service.errors import DeadlineExceeded, Overloaded, TooManyImages
from service.types import Batch, BatchLimits, Part, Payload, Segment, TaskKey, WorkItem

# What a step of an item's priority is worth in its line's weight among those of its tenant.
LINE_PRIORITY_STEP = 4.0
UNMEASURED_RETRY_AFTER = 1.0
RETRY_AFTER_BOUNDS = (0.1, 60.0)
THROUGHPUT_MEMORY = 0.9
# The share of a batch's time for which the next one may wait: the rest is for making it ready.
ADAPTIVE_WINDOW = 0.8

_Line = tuple[TaskKey, int]


def _line_of(item: WorkItem[Payload]) -> _Line:
    return item.task, item.priority


@dataclass(slots=True)
class _Waiting(Generic[Payload]):
    """A work item of which the first `taken` images are in batches already."""

    item: WorkItem[Payload]
    taken: int = 0

    @property
    def left(self) -> int:
        return self.item.images - self.taken

    def take(self, room: int) -> Part[Payload]:
        start = self.taken
        self.taken += min(self.left, room)
        return Part(self.item, start, self.taken)


@dataclass(slots=True)
class _Tenant:
    """What one tenant has waiting, and the turns among its lines."""

    images: int = 0
    turns: FairShare[_Line] = field(default_factory=FairShare)


class _Draft(Generic[Payload]):
    """A batch in the making."""

    def __init__(self, limits: BatchLimits) -> None:
        self.room = limits.max_images
        self._parts: dict[Hashable, list[Part[Payload]]] = {}

    def add(self, part: Part[Payload]) -> None:
        self._parts.setdefault(part.item.segment_key, []).append(part)
        self.room -= part.images

    def batch(self) -> Batch[Payload]:
        return Batch(tuple(Segment(key, tuple(parts)) for key, parts in self._parts.items()))


class BatchQueue(Generic[Payload]):
    """Work that could run at once, in the order in which it will.

    Whoever cuts batches calls `next_batch` and `expire` on every event, and again at `ready_at`
    (while the engine could take a batch) and at `next_deadline`. `limits` may be replaced between
    any two calls.

    Args:
        capacity: Most images that wait at a time; one tenant alone gets half of them.
        limits: How batches are cut.
    """

    def __init__(self, capacity: int, limits: BatchLimits) -> None:
        self.limits = limits
        self._capacity = capacity
        self._images = 0
        self._waiting: OrderedDict[int, _Waiting[Payload]] = OrderedDict()
        self._lines: dict[_Line, OrderedDict[int, _Waiting[Payload]]] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._turns: FairShare[str] = FairShare()
        # Entries of items that have left are dropped when they come up, or when most are such.
        self._deadlines: list[tuple[float, int]] = []
        self._expired: list[WorkItem[Payload]] = []
        self._recent_images = 0.0
        self._recent_seconds = 0.0
        self._recent_batches = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def images(self) -> int:
        """How many images wait."""
        return self._images

    def push(self, item: WorkItem[Payload]) -> None:
        """Let an item wait for its turn.

        Raises:
            DeadlineExceeded: it comes too late already.
            TooManyImages: more than the whole queue holds.
            Overloaded: no room for this tenant now; `retry_after` says when there should be.
            ValueError: an item with this id waits already.
        """
        if item.id in self._waiting:
            raise ValueError(f"Work item {item.id} waits already.")
        if item.deadline <= item.enqueued_at:
            raise DeadlineExceeded("The deadline passed before the queue. Allow more time.")
        self._admit(item)
        line, waiting = _line_of(item), _Waiting(item)
        self._waiting[item.id] = waiting
        self._lines.setdefault(line, OrderedDict())[item.id] = waiting
        tenant = self._tenants.setdefault(item.task.tenant, _Tenant())
        tenant.images += item.images
        tenant.turns.join(line, LINE_PRIORITY_STEP**item.priority)
        self._turns.join(item.task.tenant, item.weight)
        self._images += item.images
        self._remember_deadline(item)

    def cancel(self, item_id: int) -> bool:
        """Drop what still waits of an item; false where nothing does."""
        waiting = self._waiting.get(item_id)
        if waiting is not None:
            self._remove(waiting)
        return waiting is not None

    def expire(self, now: float) -> list[WorkItem[Payload]]:
        """Drop and return the items whose deadline has passed, each exactly once."""
        self._collect_expired(now)
        expired, self._expired = self._expired, []
        return expired

    def next_batch(self, now: float, *, engine_idle: bool = False) -> Batch[Payload] | None:
        """Cut the next batch if it is due; nothing in it has expired.

        An idle engine gets whatever waits. A busy one is given time: its next batch is due when
        it is full, or when its oldest item has waited for the window.
        """
        self._collect_expired(now)
        if not (self._waiting and (engine_idle or self.ready_at() <= now)):
            return None
        draft: _Draft[Payload] = _Draft(self.limits)
        while self._waiting and draft.room:
            draft.add(self._take(self._head_in_turn(), draft.room))
        return draft.batch()

    def ready_at(self) -> float:
        """When a batch for a busy engine is due: infinity if nothing waits."""
        if not self._waiting:
            return math.inf
        if self._images >= self.limits.max_images:
            return -math.inf
        return next(iter(self._waiting.values())).item.enqueued_at + self._window()

    def next_deadline(self) -> float:
        """When `expire` has something to return: infinity if nothing has a deadline."""
        if self._expired:
            return -math.inf
        first = self._first_to_expire()
        return math.inf if first is None else first.item.deadline

    def observe(self, images: int, seconds: float) -> None:
        """Learn from a finished batch how fast the engine is, for `retry_after`."""
        self._recent_images = self._recent_images * THROUGHPUT_MEMORY + images
        self._recent_seconds = self._recent_seconds * THROUGHPUT_MEMORY + seconds
        self._recent_batches = self._recent_batches * THROUGHPUT_MEMORY + 1

    def _window(self) -> float:
        """What waits for a busy engine loses nothing as long as its batch is cut in time."""
        if self.limits.window is not None:
            return self.limits.window
        seconds_per_batch = self._recent_seconds / max(self._recent_batches, 1.0)
        return ADAPTIVE_WINDOW * seconds_per_batch

    def _admit(self, item: WorkItem[Payload]) -> None:
        if item.images > self._capacity:
            raise TooManyImages(
                f"{item.images} images are more than the {self._capacity} that can wait at a "
                "time. Send them in several requests."
            )
        tenant = self._tenants.get(item.task.tenant)
        held = tenant.images if tenant else 0
        missing = held + item.images - (self._capacity - self._images)
        if missing > 0:
            retry_after = self._seconds_for(missing)
            raise Overloaded(
                f"The queue has no room for {item.images} more images while {held} of yours wait. "
                f"Try again in {retry_after:.1f} s.",
                retry_after=retry_after,
            )

    def _seconds_for(self, missing: int) -> float:
        """How long `missing` places take: each image served, whoever's, frees one at least."""
        if self._recent_images == 0:
            return UNMEASURED_RETRY_AFTER
        shortest, longest = RETRY_AFTER_BOUNDS
        seconds = missing * self._recent_seconds / self._recent_images
        return min(max(seconds, shortest), longest)

    def _remember_deadline(self, item: WorkItem[Payload]) -> None:
        heapq.heappush(self._deadlines, (item.deadline, item.id))
        if len(self._deadlines) > 2 * len(self._waiting) + 64:
            self._deadlines = [(w.item.deadline, w.item.id) for w in self._waiting.values()]
            heapq.heapify(self._deadlines)

    def _first_to_expire(self) -> _Waiting[Payload] | None:
        while self._deadlines:
            deadline, item_id = self._deadlines[0]
            waiting = self._waiting.get(item_id)
            if waiting is not None and waiting.item.deadline == deadline:
                return waiting
            heapq.heappop(self._deadlines)
        return None

    def _collect_expired(self, now: float) -> None:
        while (first := self._first_to_expire()) is not None and first.item.deadline <= now:
            self._expired.append(first.item)
            self._remove(first)

    def _head_in_turn(self) -> _Waiting[Payload]:
        line = self._tenants[self._turns.turn()].turns.turn()
        return next(iter(self._lines[line].values()))

    def _take(self, waiting: _Waiting[Payload], room: int) -> Part[Payload]:
        part = waiting.take(room)
        tenant = self._tenants[part.item.task.tenant]
        self._images -= part.images
        tenant.images -= part.images
        tenant.turns.charge(_line_of(part.item), part.images)
        self._turns.charge(part.item.task.tenant, part.images)
        if waiting.left == 0:
            self._remove(waiting)
        return part

    def _remove(self, waiting: _Waiting[Payload]) -> None:
        name, line = waiting.item.task.tenant, _line_of(waiting.item)
        tenant = self._tenants[name]
        self._images -= waiting.left
        tenant.images -= waiting.left
        del self._waiting[waiting.item.id]
        del self._lines[line][waiting.item.id]
        if not self._lines[line]:
            del self._lines[line]
            tenant.turns.leave(line)
        if not tenant.turns:
            del self._tenants[name]
            self._turns.leave(name)
