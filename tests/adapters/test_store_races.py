"""Registrations against garbage collectors, step by step in every order."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import SimpleNamespace as Some
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.manifest import AdapterRef
from adapters.store.blobs import BlobStore
from adapters.store.index import TaskKey
from adapters.store.registry import GRACE_SECONDS, Registry

KEY = TaskKey(task="flowers")
DATA = b"adapter"
DIGEST = hashlib.sha256(DATA).hexdigest()
REF = AdapterRef(tenant="default", task="flowers", version=1, digest=DIGEST)
MANIFEST = Some(
    backbone=Some(name="", fingerprint="a" * 64), head=Some(classes=1), provenance=Some(method="")
)
Actor = Coroutine[Any, Any, Any]


@dataclass(frozen=True)
class Step:
    """Awaiting it tells whoever drives the coroutine what comes next, and waits for its turn."""

    name: str

    def __await__(self) -> Iterator[str]:
        yield self.name


async def step_through(function: Callable[..., Any], *args: object) -> object:
    """Stands for `asyncio.to_thread`: one step, then the call."""
    await Step(function.__name__)
    return function(*args)


class SteppedIndex:
    """As much of an index as registering and collecting need; every operation is one step."""

    def __init__(self) -> None:
        self.digests: set[str] = set()

    async def register(self, _: TaskKey, digest: str, **__: object) -> None:
        """Know the digest from now on."""
        await Step("register")
        self.digests.add(digest)

    async def referenced_digests(self) -> set[str]:
        """A copy of what is known now."""
        await Step("referenced_digests")
        return set(self.digests)

    async def is_referenced(self, digest: str) -> bool:
        """Whether the digest is known now."""
        await Step("is_referenced")
        return digest in self.digests

    async def forget_verdicts(self, _: str) -> None:
        """There are none."""
        await Step("forget_verdicts")


class World:
    """A registry whose blob store holds one old orphan, and the actors on it."""

    def __init__(self) -> None:
        self.blobs = BlobStore("memory://races", lambda data: hashlib.sha256(data).hexdigest())
        if self.blobs._fs.exists(self.blobs._root):
            self.blobs._fs.rm(self.blobs._root, recursive=True)
        self.registry = Registry(
            self.blobs,
            SteppedIndex(),
            lambda _: Some(digest=DIGEST, manifest=MANIFEST),
            max_bytes=1_000,
        )
        self.blobs.put(DIGEST, DATA)

    def collect(self) -> Actor:
        """A collector for whom everything there now is old."""
        return self.registry.collect_garbage(now=time.time() + GRACE_SECONDS + 60, sure=True)

    def register(self) -> Actor:
        """A registration of the orphan's bytes."""
        return self.registry.register(KEY, DATA, now=0)


@pytest.fixture(autouse=True, scope="module")
def stepped() -> Iterator[None]:
    """Blob operations are steps, too, as long as these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "to_thread", step_through)
        yield


def advance(actor: Actor) -> bool:
    """Let an actor take one step; whether it goes on after that."""
    try:
        actor.send(None)
    except StopIteration:
        return False
    return True


def finish(actor: Actor) -> Any:
    """Let an actor go on to its end."""
    while True:
        try:
            actor.send(None)
        except StopIteration as end:
            return end.value


def advance_to(actor: Actor, step: str) -> None:
    """Let an actor go on until `step` is what it does next."""
    while actor.send(None) != step:
        pass


def play(actors: list[Actor], schedule: list[int]) -> list[tuple[int, int]]:
    """Let actors step by turns; returns, per turn, who could step and who did.

    `schedule` says which of those who are left takes each turn; after its end the first does.
    """
    left, turns = list(actors), []
    while left:
        chosen = schedule[len(turns)] % len(left) if len(turns) < len(schedule) else 0
        turns.append((len(left), chosen))
        if not advance(left[chosen]):
            del left[chosen]
    return turns


def test_every_order_of_one_collector_and_one_registration() -> None:
    """In whatever order their steps fall, the acknowledged version can be fetched."""
    orders, schedules = 0, [[]]
    while schedules:
        schedule = schedules.pop()
        world = World()
        turns = play([world.collect(), world.register()], schedule)
        assert finish(world.registry.fetch(REF)) == DATA, turns
        assert world.blobs.discarded() == set(), turns
        orders += 1
        chosen = [choice for _, choice in turns]
        schedules += [
            [*chosen[:turn], 1]
            for turn, (left, _) in enumerate(turns)
            if turn >= len(schedule) and left > 1
        ]
    assert orders > 300


def test_a_collector_killed_at_any_step() -> None:
    """It dies, the registration having come at any step before; another finishes its work."""
    for killed_after in range(12):
        for registered_after in range(killed_after + 1):
            world = World()
            collector = world.collect()
            alive = True
            for step in range(killed_after):
                if step == registered_after:
                    finish(world.register())
                alive = alive and advance(collector)
            collector.close()
            if registered_after == killed_after:
                finish(world.register())
            assert finish(world.registry.fetch(REF)) == DATA
            finish(world.collect())
            assert finish(world.registry.fetch(REF)) == DATA
            assert world.blobs.discarded() == set()


def test_a_collector_purges_only_what_it_has_discarded() -> None:
    """A blob registered again, and set aside by a second collector, survives the first one."""
    world = World()
    first, second = world.collect(), world.collect()
    advance_to(second, "discard")
    advance_to(first, "purge")
    finish(world.register())
    advance_to(second, "is_referenced")
    finish(first)
    finish(second)
    assert finish(world.registry.fetch(REF)) == DATA


@given(schedule=st.lists(st.integers(0, 3), min_size=40, max_size=60))
@settings(max_examples=500, derandomize=True, deadline=None)
def test_several_collectors_and_registrations(schedule: list[int]) -> None:
    """Two collectors and two registrations in random orders lose nothing either."""
    world = World()
    play([world.collect(), world.register(), world.collect(), world.register()], schedule)
    assert finish(world.registry.fetch(REF)) == DATA
    finish(world.collect())
    assert finish(world.registry.fetch(REF)) == DATA
