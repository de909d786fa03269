"""The batch queue: by table, fairness over whole runs, and against a plain list of what waits."""

import contextlib
import dataclasses
import itertools
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.batching.queue import BatchQueue
from service.errors import DeadlineExceeded, Overloaded, TooManyImages
from service.types import BatchLimits, TaskKey, WorkItem

IDS = itertools.count()


def item(task="t", images=1, *, tenant="a", key=None, at=0.0, **options):
    """A work item of a task whose adapter is called like the task unless `key` says otherwise."""
    return WorkItem(
        id=next(IDS),
        task=TaskKey(tenant, task),
        segment_key=key or (tenant, task),
        images=images,
        payload=None,
        enqueued_at=at,
        **options,
    )


def queue_of(*items, max_images=8, capacity=100_000, **limits):
    """A queue in which these items wait."""
    queue = BatchQueue(capacity, BatchLimits(max_images, **limits))
    for waiting in items:
        queue.push(waiting)
    return queue


def cut(queue, now=0.0):
    """The next batch for an idle engine as (task, start, stop), segment by segment."""
    batch = queue.next_batch(now, engine_idle=True)
    return [
        [(part.item.task.task, part.start, part.stop) for part in segment.parts]
        for segment in batch.segments
    ]


def images_by(queue, batches, of):
    """How many images each got over so many batches; `of` names the one an item belongs to."""
    served = {}
    for _ in range(batches):
        for segment in queue.next_batch(0.0, engine_idle=True).segments:
            for part in segment.parts:
                name = of(part.item)
                served[name] = served.get(name, 0) + part.images
    return served


def tenant_of(work):
    """The tenant that an item belongs to."""
    return work.task.tenant


def task_of(work):
    """The task that an item belongs to, without its tenant."""
    return work.task.task


def test_items_of_a_task_share_a_segment():
    """However they came in, there is one contiguous segment an adapter, in the order of turns."""
    queue = queue_of(item("x"), item("y", 2), item("x", 2), item("z"), item("y"))
    batch = queue.next_batch(0.0, engine_idle=True)
    assert [(segment.key, segment.images) for segment in batch.segments] == [
        (("a", "x"), 3),
        (("a", "y"), 3),
        (("a", "z"), 1),
    ]
    assert batch.images == 7
    assert (len(queue), queue.images) == (0, 0)


def test_versions_of_a_task_are_segments_of_their_own():
    """A canary's images do not run on the other version's adapter."""
    queue = queue_of(item("x", key="x@1"), item("x", key="x@2"), item("x", key="x@1"))
    batch = queue.next_batch(0.0, engine_idle=True)
    assert [(segment.key, segment.images) for segment in batch.segments] == [("x@1", 2), ("x@2", 1)]


def test_nothing_waiting_is_no_batch():
    """An empty queue has no batch, no deadline, and no time to be asked again."""
    queue = queue_of()
    assert queue.next_batch(0.0, engine_idle=True) is None
    assert queue.ready_at() == queue.next_deadline() == math.inf


def test_a_lone_request_does_not_wait_for_an_idle_engine():
    """The window is for a busy engine; it ends at the time that `ready_at` gives."""
    queue = queue_of(item(at=10.0), item(at=10.2), window=0.5)
    assert queue.ready_at() == 10.5
    assert queue.next_batch(10.4) is None
    assert queue.next_batch(10.5).images == 2
    queue.push(item(at=11.0))
    assert queue.next_batch(11.0, engine_idle=True).images == 1


def test_without_a_window_of_its_own_a_batch_waits_for_most_of_the_one_that_runs():
    """It follows the load: what batches took lately, however many images they had."""
    queue = queue_of(item(at=10.0), window=None)
    assert queue.ready_at() == 10.0, "nothing is known yet"
    for _ in range(100):
        queue.observe(images=4, seconds=0.5)
    assert queue.ready_at() == pytest.approx(10.4)
    for _ in range(100):
        queue.observe(images=1, seconds=0.05)
    assert queue.ready_at() == pytest.approx(10.04, abs=1e-3)


def test_a_full_batch_does_not_wait():
    """As soon as the images fill a batch it is due, and what is left over waits for its window."""
    queue = queue_of(item(images=5, at=1.0), window=9.0)
    assert queue.next_batch(1.0) is None
    queue.push(item(images=5, at=2.0))
    assert queue.ready_at() == -math.inf
    assert queue.next_batch(2.0).images == 8
    assert queue.ready_at() == 11.0


def test_limits_can_change_while_work_waits():
    """Whoever tunes batches replaces the limits; the next batch keeps the new ones."""
    queue = queue_of(item(images=20), window=9.0)
    queue.limits = BatchLimits(max_images=12)
    assert queue.next_batch(0.0).images == 12
    assert queue.next_batch(0.0).images == 8


def test_a_large_item_is_split_and_lets_others_in():
    """Its images go out in order over several batches, with other tasks in between."""
    queue = queue_of(item("big", 20))
    assert cut(queue) == [[("big", 0, 8)]]
    queue.push(item("small", 2))
    assert cut(queue) == [[("small", 0, 2)], [("big", 8, 14)]]
    assert cut(queue) == [[("big", 14, 20)]]


def test_a_burst_of_a_task_does_not_delay_another():
    """A single image behind a thousand of another task is in the very next batch."""
    queue = queue_of(*(item("burst") for _ in range(1_000)))
    assert cut(queue) == [[("burst", 0, 1)] * 8]
    queue.push(item("lone"))
    assert cut(queue)[0] == [("lone", 0, 1)]


def test_tasks_of_a_tenant_get_the_same():
    """Images are shared evenly, whether they come in large requests or in small ones."""
    queue = queue_of(
        *(item("large", 64) for _ in range(10)), *(item("small") for _ in range(640)), max_images=10
    )
    served = images_by(queue, 64, task_of)
    assert abs(served["large"] - served["small"]) <= 20


def test_tenants_share_by_weight_whatever_the_number_of_their_tasks():
    """Ten tasks of one tenant get what one task of another of equal weight gets."""
    queue = queue_of(
        *(item(f"t{n % 10}", tenant="many") for n in range(1_000)),
        *(item("t0", tenant="one") for _ in range(1_000)),
        *(item("t0", tenant="heavy", weight=2.0) for _ in range(1_000)),
    )
    assert images_by(queue, 100, tenant_of) == {"many": 200, "one": 200, "heavy": 400}


def test_urgent_work_goes_first_and_starves_nobody():
    """A step of priority is worth four times as many images, and the next turn on arrival."""
    queue = queue_of(*(item("slow") for _ in range(1_000)))
    cut(queue)
    for _ in range(1_000):
        queue.push(item("fast", priority=1))
    assert cut(queue)[0][0] == ("fast", 0, 1)
    served = images_by(queue, 50, task_of)
    assert served == {"fast": 320, "slow": 80}


def test_priority_of_a_task_overtakes_its_own_line():
    """An urgent request does not queue behind the task's other requests."""
    queue = queue_of(*(item("x") for _ in range(100)))
    cut(queue)
    urgent = item("x", priority=2)
    queue.push(urgent)
    assert queue.next_batch(0.0, engine_idle=True).segments[0].parts[0].item is urgent


def test_priority_takes_nothing_from_other_tenants():
    """It ranks a tenant's own work only."""
    queue = queue_of(
        *(item(tenant="pushy", priority=3) for _ in range(400)),
        *(item(tenant="modest", priority=-3) for _ in range(400)),
    )
    assert images_by(queue, 50, tenant_of) == {"pushy": 200, "modest": 200}


def test_nobody_starves_under_a_flood():
    """A newcomer is served while ten other tasks are kept full."""
    flood = [f"t{n}" for n in range(10)]
    queue = queue_of(*(item(name) for name in flood for _ in range(50)))
    images_by(queue, 5, task_of)
    queue.push(item("new"))
    for _ in range(11):
        served = images_by(queue, 1, task_of)
        if "new" in served:
            return
        for name, images in served.items():
            queue.push(item(name, images))
    pytest.fail("The newcomer was not served within a round of the tasks.")


def test_expired_work_is_returned_once_and_never_served():
    """Also when a batch is cut first: `next_deadline` then says that there is some to fetch."""
    late, other, endless = item(deadline=5.0), item(deadline=7.0), item()
    queue = queue_of(late, other, endless)
    assert queue.next_deadline() == 5.0
    assert queue.expire(4.9) == []
    batch = queue.next_batch(5.0, engine_idle=True)
    assert [part.item for part in batch.segments[0].parts] == [other, endless]
    assert queue.next_deadline() == -math.inf
    assert queue.expire(5.0) == [late]
    assert queue.expire(99.0) == []
    assert queue.next_deadline() == math.inf


def test_work_that_comes_too_late_is_refused():
    """A deadline that has passed on arrival never takes a place."""
    queue = queue_of()
    with pytest.raises(DeadlineExceeded, match="Allow more time"):
        queue.push(item(at=5.0, deadline=5.0))
    assert len(queue) == 0


@pytest.mark.parametrize("leave", ["cancel", "expire"])
def test_the_rest_of_a_split_item_can_leave(leave):
    """What is in a batch already is gone, the rest takes no more room."""
    big = item(images=20, deadline=5.0)
    queue = queue_of(big, item("other"))
    queue.next_batch(0.0)
    if leave == "cancel":
        assert queue.cancel(big.id)
    else:
        assert queue.expire(5.0) == [big]
    assert queue.images == 1
    assert cut(queue) == [[("other", 0, 1)]]


def test_cancelled_work_leaves_its_neighbours_alone():
    """It is never served, and cancelling what does not wait says so."""
    first, second, third = item(), item(), item()
    queue = queue_of(first, second, third)
    assert queue.cancel(second.id)
    assert not queue.cancel(second.id)
    batch = queue.next_batch(0.0, engine_idle=True)
    assert [part.item for part in batch.segments[0].parts] == [first, third]
    assert not queue.cancel(first.id)


def fill(queue, tenant):
    """Push single images of a tenant until it is refused; how many there was room for."""
    before = len(queue)
    with contextlib.suppress(Overloaded):
        while True:
            queue.push(item(tenant=tenant))
    return len(queue) - before


def test_a_flooding_tenant_leaves_room_for_others():
    """The first takes half of the places, each next one half of what it finds."""
    queue = queue_of(capacity=1_000)
    assert [fill(queue, tenant) for tenant in "abc"] == [500, 250, 125]
    queue.push(item(tenant="newcomer", images=64))


def test_two_flooding_tenants_end_with_a_third_each():
    """While both keep pushing and work is served, the places even out."""
    queue = queue_of(capacity=999, max_images=50)
    for _ in range(100):
        fill(queue, "b")
        fill(queue, "a")
        queue.next_batch(0.0)
    held = [queue._tenants[tenant].images for tenant in "ab"]
    assert held == pytest.approx([333, 333], abs=50)


def test_a_request_may_be_as_large_as_the_queue():
    """But not larger: that is no matter of waiting."""
    queue = queue_of(capacity=10)
    with pytest.raises(TooManyImages, match="several requests"):
        queue.push(item(images=11))
    queue.push(item(images=10))
    assert queue.images == 10


@pytest.mark.parametrize(
    ("observed", "images", "retry_after"),
    [
        ([], 40, 1.0),
        ([(100, 1.0)], 40, 0.4),
        ([(100, 1.0)], 1, 0.1),
        ([(1, 1_000.0)], 40, 60.0),
        ([(100, 1.0), (10, 1.0)], 40, 40 * 1.9 / 100),
    ],
)
def test_overload_says_when_to_come_back(observed, images, retry_after):
    """The missing places by the measured throughput, within bounds; a second if unmeasured."""
    queue = queue_of(item(images=60), item("x", 40, tenant="b"), capacity=100)
    for images_done, seconds in observed:
        queue.observe(images_done, seconds)
    with pytest.raises(Overloaded, match="Try again in") as caught:
        queue.push(item(images=images, tenant="c"))
    assert caught.value.retry_after == pytest.approx(retry_after)
    assert queue.images == 100


def test_an_id_waits_once():
    """A second item with the id of one that waits is a mistake."""
    twice = item()
    queue = queue_of(twice)
    with pytest.raises(ValueError, match="waits already"):
        queue.push(twice)


def test_an_id_that_has_left_may_come_again():
    """The new item has its own deadline, and the one before hides nobody else's."""
    first, other = item(deadline=5.0), item(deadline=7.0)
    queue = queue_of(first, other)
    queue.cancel(first.id)
    again = dataclasses.replace(first, deadline=9.0)
    queue.push(again)
    assert queue.expire(5.0) == []
    assert queue.expire(7.0) == [other]
    assert queue.expire(9.0) == [again]


@pytest.mark.parametrize(
    "options", [{"images": 0}, {"priority": 4}, {"weight": 0.0}, {"weight": math.inf}]
)
def test_items_that_make_no_sense_are_refused(options):
    """No images, an unknown priority, a weight without meaning."""
    with pytest.raises(ValueError, match=r"not|unknown"):
        item(**options)


@pytest.mark.parametrize("limits", [{"max_images": 0}, {"window": -1.0}])
def test_limits_that_no_batch_can_keep_are_refused(limits):
    """A batch has images, and no negative waiting time."""
    with pytest.raises(ValueError, match="A batch takes at least 1"):
        BatchLimits(**({"max_images": 1} | limits))


def test_stale_deadlines_do_not_pile_up():
    """Ten thousand cancelled requests leave nothing behind, though an earlier deadline waits."""
    queue = queue_of(item(deadline=1.0))
    for _ in range(10_000):
        short = item(deadline=2.0)
        queue.push(short)
        queue.cancel(short.id)
    assert len(queue._deadlines) < 100


def lines_run(action):
    """How many lines of Python an action runs: a measure of work that no clock disturbs."""
    count = 0

    def trace(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def lines_by_operation(size):
    """Lines that each operation runs with so many items waiting; expiry's per item expired."""
    items = [item(f"t{n % 50}", tenant=f"u{n % 7}", deadline=10.0 + n) for n in range(size)]
    queue = queue_of(*items, capacity=10**7, max_images=32)
    return {
        "push": lines_run(lambda: queue.push(item("new"))),
        "cancel": lines_run(lambda: queue.cancel(items[size // 2].id)),
        "expire": lines_run(lambda: queue.expire(10.0 + size // 10)) / (size // 10 + 1),
        "next_batch": lines_run(lambda: queue.next_batch(0.0)),
        "next_call": lines_run(lambda: (queue.ready_at(), queue.next_deadline())),
    }


def test_the_work_does_not_grow_with_what_waits():
    """With 100,000 items waiting, every operation runs about as many lines as with 1,000."""
    few, many = lines_by_operation(1_000), lines_by_operation(100_000)
    assert all(many[name] <= 1.2 * lines + 5 for name, lines in few.items()), (few, many)


TENANTS = ("a", "b", "c")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    weights=st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 3.0])] * 3),
    sizes=st.tuples(*[st.lists(st.integers(1, 12), min_size=20, max_size=60)] * 3),
    max_images=st.integers(1, 16),
)
def test_backlogged_tenants_stay_level(weights, sizes, max_images):
    """From any batch to any later one, images by weight differ by at most a part of each."""
    queue = queue_of(max_images=max_images)
    for tenant, weight, images in zip(TENANTS, weights, sizes, strict=True):
        for n, size in enumerate(images):
            queue.push(item(f"t{n % 3}", size, tenant=tenant, weight=weight))
    part = min(12, max_images)
    served, history = dict.fromkeys(TENANTS, 0), []
    while all(queue._tenants.get(tenant) for tenant in TENANTS):
        history.append([served[tenant] / w for tenant, w in zip(TENANTS, weights, strict=True)])
        for tenant, images in images_by(queue, 1, tenant_of).items():
            served[tenant] += images
    for one, other in itertools.combinations(range(3), 2):
        gaps = [levels[one] - levels[other] for levels in history]
        bound = part / weights[one] + part / weights[other]
        assert max(gaps) - min(gaps) <= bound + 1e-9


class QueueAgainstList(RuleBasedStateMachine):
    """The model: a list of [item, images left] in order of arrival, searched from the front."""

    MAX_IMAGES, CAPACITY, WINDOW = 6, 40, 1.0

    def __init__(self):
        super().__init__()
        self.queue = BatchQueue(self.CAPACITY, BatchLimits(self.MAX_IMAGES, self.WINDOW))
        self.now = 0.0
        self.waiting = []
        self.expired = []

    def images(self, tenant=None):
        return sum(left for work, left in self.waiting if tenant in (None, tenant_of(work)))

    def let_expire(self):
        late = [entry for entry in self.waiting if entry[0].deadline <= self.now]
        self.waiting = [entry for entry in self.waiting if entry not in late]
        self.expired += [work for work, _ in late]

    @rule(
        tenant=st.sampled_from("ab"),
        task=st.sampled_from("xyz"),
        version=st.integers(1, 2),
        images=st.integers(1, 15),
        patience=st.sampled_from([0.5, 2.0, math.inf]),
        priority=st.integers(-1, 1),
        weight=st.sampled_from([1.0, 2.0]),
    )
    def push(self, tenant, task, version, images, patience, priority, weight):
        """Take what fits into the places that are free, the tenant's own counted twice."""
        work = item(
            task,
            images,
            tenant=tenant,
            key=(tenant, task, version),
            at=self.now,
            deadline=self.now + patience,
            priority=priority,
            weight=weight,
        )
        if images + self.images(tenant) > self.CAPACITY - self.images():
            with pytest.raises(Overloaded):
                self.queue.push(work)
        else:
            self.queue.push(work)
            self.waiting.append([work, images])

    @rule(seconds=st.sampled_from([0.25, 0.5, 2.0]))
    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        """Take any waiting item out."""
        entry = data.draw(st.sampled_from(self.waiting))
        assert self.queue.cancel(entry[0].id)
        self.waiting.remove(entry)

    @rule()
    def expire(self):
        """Fetch what has expired since the last time."""
        self.let_expire()
        assert sorted(work.id for work in self.queue.expire(self.now)) == sorted(
            work.id for work in self.expired
        )
        self.expired = []

    @rule(engine_idle=st.booleans())
    def next_batch(self, engine_idle):
        """Cut a batch when it is due: full if it can be, each line in order, each image once."""
        self.let_expire()
        due = self.waiting and (
            engine_idle
            or self.images() >= self.MAX_IMAGES
            or self.waiting[0][0].enqueued_at + self.WINDOW <= self.now
        )
        batch = self.queue.next_batch(self.now, engine_idle=engine_idle)
        if not due:
            assert batch is None
            return
        assert batch.images == min(self.MAX_IMAGES, self.images())
        assert len({segment.key for segment in batch.segments}) == len(batch.segments)
        parts = [part for segment in batch.segments for part in segment.parts]
        assert all(part.item.segment_key == s.key for s in batch.segments for part in s.parts)
        for part in sorted(parts, key=lambda part: part.item.id):
            entry = self.first_of_line(part.item)
            assert entry[0] is part.item
            assert part.start == part.item.images - entry[1]
            assert part.start < part.stop <= part.item.images
            entry[1] -= part.images
            if not entry[1]:
                self.waiting.remove(entry)

    def first_of_line(self, work):
        return next(
            entry
            for entry in self.waiting
            if (entry[0].task, entry[0].priority) == (work.task, work.priority)
        )

    @invariant()
    def equal(self):
        """The same items and images wait, and the next deadline is the least of theirs."""
        assert len(self.queue) == len(self.waiting)
        assert self.queue.images == self.images()
        if not self.expired:
            deadlines = [work.deadline for work, _ in self.waiting]
            assert self.queue.next_deadline() == min(deadlines, default=math.inf)

    def teardown(self):
        """Whatever happened, the rest is served, and no trace of it stays."""
        while self.waiting:
            self.next_batch(engine_idle=True)
        self.expire()
        assert not self.queue._lines
        assert not self.queue._tenants
        assert len(self.queue._turns) == 0


TestQueueAgainstList = QueueAgainstList.TestCase
TestQueueAgainstList.settings = settings(
    derandomize=True, deadline=None, max_examples=100, stateful_step_count=40
)
