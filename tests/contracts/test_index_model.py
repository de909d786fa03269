"""Every index against a model of plain lists, through random operations."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from adapters.errors import (
    AdapterError,
    NothingToRollBackTo,
    PointerMoved,
    UnknownTask,
    UnknownVersion,
    VersionInUse,
    VersionNotReady,
)
from adapters.store.index import ProofState, TaskKey
from adapters.store.opening import open_index

T = TypeVar("T")
RESNET, SWIN = "a" * 64, "b" * 64


class ModelTask:
    """A task as plain lists: what the index is compared with."""

    def __init__(self) -> None:
        self.last_version = 0
        self.live = False
        self.versions: dict[int, tuple[int, str, str]] = {}  # checkpoint, fingerprint, state
        self.history: dict[str, list[int]] = {RESNET: [], SWIN: []}

    def active(self, fingerprint: str) -> int | None:
        """The version on top of the history."""
        return self.history[fingerprint][-1] if self.history[fingerprint] else None


TASKS = [TaskKey(task="a"), TaskKey(task="b"), TaskKey(tenant="acme", task="a")]


def digest(number: int) -> str:
    """A digest for each number."""
    return f"{number:064x}"


keys = st.sampled_from(TASKS)
checkpoints = st.integers(1, 4)
numbers = st.integers(1, 5)
fingerprints = st.sampled_from([RESNET, SWIN])


class IndexMachine(RuleBasedStateMachine):
    """Random operations on an index and on a model; both always give the same."""

    new_index_url: Callable[[Path], str]

    @initialize()
    def open(self) -> None:
        """A fresh index and a fresh model."""
        self.directory = tempfile.TemporaryDirectory()
        self.index = open_index(self.new_index_url(Path(self.directory.name)))
        self.runner = asyncio.Runner()
        self.model = {key: ModelTask() for key in TASKS}

    def teardown(self) -> None:
        """Close what `open` opened."""
        if hasattr(self, "runner"):
            self.runner.run(self.index.close())
            self.runner.close()
            self.directory.cleanup()

    def outcome(self, operation: Coroutine[Any, Any, T]) -> T | type[AdapterError]:
        """What an operation returns, or the class of what it raises."""
        try:
            return self.runner.run(operation)
        except AdapterError as error:
            return type(error)

    @rule(key=keys, checkpoint=checkpoints)
    def register(self, key: TaskKey, checkpoint: int) -> None:
        """The known checkpoint keeps its number, a new one gets the next."""
        task = self.model[key]
        known = [n for n, (held, _, _) in task.versions.items() if held == checkpoint]
        fingerprint = RESNET if checkpoint % 2 else SWIN
        if not known:
            task.live = True
            task.last_version += 1
            task.versions[task.last_version] = (checkpoint, fingerprint, "pending")
        version = self.outcome(
            self.index.register(
                key, digest(checkpoint), fingerprint=fingerprint, size=1, metadata={}, now=0
            )
        )
        assert version.version == (known or [task.last_version])[0]

    @rule(key=keys, number=numbers, state=st.sampled_from(["ready", "ready", "failed"]))
    def set_state(self, key: TaskKey, number: int, state: ProofState) -> None:
        """Ready stays, everything else follows."""
        outcome = self.outcome(self.index.set_state(key, number, state, now=0))
        if missing := self.missing(key, number):
            assert outcome is missing
            return
        checkpoint, fingerprint, before = self.model[key].versions[number]
        after = "ready" if before == "ready" else state
        self.model[key].versions[number] = (checkpoint, fingerprint, after)

    @rule(key=keys, number=numbers, expected=st.none() | numbers, guess=st.booleans())
    def activate(self, key: TaskKey, number: int, expected: int | None, guess: bool) -> None:
        """The history grows where version, state and expectation allow it."""
        task = self.model[key]
        fingerprint = task.versions[number][1] if number in task.versions else RESNET
        expected = expected if guess else task.active(fingerprint)
        outcome = self.outcome(self.index.activate(key, number, expected=expected, now=0))
        if missing := self.missing(key, number):
            assert outcome is missing
        elif task.versions[number][2] != "ready":
            assert outcome is VersionNotReady
        elif number != task.active(fingerprint) and expected != task.active(fingerprint):
            assert outcome is PointerMoved
        else:
            assert outcome is None
            if number != task.active(fingerprint):
                task.history[fingerprint].append(number)

    @rule(key=keys, fingerprint=fingerprints, wrong=st.sampled_from([0, 0, 0, 1]))
    def rollback(self, key: TaskKey, fingerprint: str, wrong: int) -> None:
        """The history shrinks to the newest other version, which was told before."""
        task = self.model[key]
        expected = (task.active(fingerprint) or 0) + wrong
        target = self.outcome(self.index.rollback_target(key, fingerprint, expected=expected))
        outcome = self.outcome(self.index.rollback(key, fingerprint, expected=expected, now=0))
        assert outcome == target
        history = list(task.history[fingerprint])
        while history and history[-1] == expected:
            history.pop()
        if not task.live:
            assert outcome is UnknownTask
        elif task.active(fingerprint) != expected:
            assert outcome is PointerMoved
        elif not history:
            assert outcome is NothingToRollBackTo
        else:
            assert outcome.version == history[-1]
            task.history[fingerprint] = history

    @rule(key=keys, number=numbers)
    def retire(self, key: TaskKey, number: int) -> None:
        """The version leaves list and history, unless it is active."""
        task = self.model[key]
        outcome = self.outcome(self.index.retire(key, number, now=0))
        if missing := self.missing(key, number):
            assert outcome is missing
        elif number in (task.active(RESNET), task.active(SWIN)):
            assert outcome is VersionInUse
        else:
            assert outcome is None
            del task.versions[number]
            for history in task.history.values():
                history[:] = [version for version in history if version != number]

    @rule(key=keys)
    def delete_task(self, key: TaskKey) -> None:
        """Only the counter stays."""
        outcome = self.outcome(self.index.delete_task(key, now=0))
        assert outcome is (None if self.model[key].live else UnknownTask)
        last_version, self.model[key] = self.model[key].last_version, ModelTask()
        self.model[key].last_version = last_version

    def missing(self, key: TaskKey, number: int) -> type[AdapterError] | None:
        """What an operation on this version must raise, if anything."""
        if not self.model[key].live:
            return UnknownTask
        return None if number in self.model[key].versions else UnknownVersion

    @invariant()
    def agrees(self) -> None:
        """Listings, pointers and references are the model's."""
        for tenant in ("default", "acme"):
            listed = self.outcome(self.index.list_tasks(tenant, limit=9))
            live = [key for key in TASKS if key.tenant == tenant and self.model[key].live]
            assert [task.key for task in listed] == live
        for key, task in self.model.items():
            self.agrees_on(key, task)
        held = {digest(v[0]) for task in self.model.values() for v in task.versions.values()}
        assert self.outcome(self.index.referenced_digests()) == held

    def agrees_on(self, key: TaskKey, task: ModelTask) -> None:
        """One task's versions and pointers are the model's."""
        versions = self.outcome(self.index.list_versions(key, limit=99))
        if not task.live:
            assert versions is UnknownTask
            return
        assert task.versions == {
            v.version: (int(v.digest, 16), v.fingerprint, v.state) for v in versions
        }
        active = {f: task.active(f) for f in (RESNET, SWIN) if task.active(f)}
        assert self.outcome(self.index.get_task(key)).active == active
        for fingerprint in (RESNET, SWIN):
            found = self.outcome(self.index.resolve(key, fingerprint))
            number = getattr(found, "version", None)
            assert number == active.get(fingerprint)


def test_an_index_is_its_model(new_index_url: Callable[[Path], str]) -> None:
    """Whatever is done in whatever order, the index says what a few plain lists say."""
    machine = type("Machine", (IndexMachine,), {"new_index_url": staticmethod(new_index_url)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
