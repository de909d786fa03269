"""What stands behind the routes in their tests: small, in memory, and told what to do."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np

from adapters.errors import (
    NothingToRollBackTo,
    PointerMoved,
    UnknownTask,
    UnknownVersion,
    VersionInUse,
)
from adapters.manifest import Preprocessing
from adapters.preprocess import ImageLimits
from adapters.store.index import Task, TaskKey, Usage, Version
from service import types
from service.admission import Admission
from service.canary import Canary
from service.errors import TaskNotFound
from service.http.app import create_app
from service.http.drain import Drain
from service.http.middleware import BodyLimits
from service.http.server import DrainingServer
from service.http.services import RequestLimits, Services
from service.images import ImageReader
from service.metrics import PrometheusMetrics
from service.predict import Label, Prediction, Timing
from service.residency import Residence
from service.tracing import Tracer
from service.types import Allowance
from tests.service import policy_fakes

FINGERPRINT = "f" * 64
SMALL = Preprocessing(
    height=8,
    width=8,
    crop_pct=1.0,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


class FakePredictor:
    """Knows the tasks "flowers" and "birds"; the one label of an image is its mean pixel.

    `error` is raised instead of an answer; while `gate` is closed, predictions wait before it.
    """

    def __init__(self):
        self.error: Exception | None = None
        self.allowances: tuple[Allowance, ...] = ()
        self.gate: threading.Event | None = None
        self.waiting = threading.Event()
        self.cancelled = threading.Event()
        self.asked: list[dict[str, object]] = []

    async def predict(
        self,
        tenant,
        task,
        images,
        *,
        deadline,
        version=None,
        top_k=5,
        priority=0,
        logits=False,
        canary_key=None,
        decode_seconds=0.0,
    ):
        """One answer."""
        self.asked.append(
            {
                "images": images,
                "tenant": tenant,
                "task": task,
                "deadline": deadline,
                "version": version,
                "top_k": top_k,
                "priority": priority,
                "canary_key": canary_key,
            }
        )
        await self._wait()
        if self.error is not None:
            raise self.error
        if task not in {"flowers", "birds"}:
            raise TaskNotFound(f"There is no task {task!r}. Register it.")
        assert images.shape[1:] == ((8, 8, 3) if images.dtype == np.uint8 else (3, 8, 8))
        labels = tuple((Label(str(round(image.mean())), 0, 1.0),) for image in images)
        timing = Timing(1e3 * decode_seconds, 1.0, 2.0, 3.0, len(images), 1)
        scores = np.array([[image.mean()] for image in images], np.float32) if logits else None
        return Prediction(task, version or 3, labels, timing, scores, self.allowances)

    async def predict_many(self, tenant, tasks, images, **options):
        """One answer for each task."""
        return [await self.predict(tenant, task, images, **options) for task in tasks]

    async def _wait(self):
        self.waiting.set()
        try:
            while self.gate is not None and not self.gate.is_set():
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class FakeResidency:
    """Has the active versions of the tasks that a manager knows, in the engine where warmed."""

    def __init__(self, manager):
        self.manager = manager
        self.warmed: set[TaskKey] = set()

    async def where(self, tenant, task, version=None):
        """In the engine or on disk."""
        key = TaskKey(tenant=tenant, task=task)
        try:
            active = (await self.manager.task(key)).active[FINGERPRINT]
            found = self.manager.versions_of[key][(version or active) - 1]
        except (UnknownTask, IndexError) as error:
            raise TaskNotFound(f"There is no {task!r} {version}.") from error
        return Residence(found.ref, "device" if key in self.warmed else "disk")

    async def warm(self, tenant, task, version=None, *, deadline):
        """At once."""
        assert deadline > 0
        residence = await self.where(tenant, task, version)
        self.warmed.add(TaskKey(tenant=tenant, task=task))
        return residence.ref

    async def unload(self, tenant, task, version=None):
        """At once."""
        residence = await self.where(tenant, task, version)
        self.warmed.discard(TaskKey(tenant=tenant, task=task))
        return residence.ref


class FakeManager:
    """Tasks in a dictionary; every registered version is ready and active."""

    def __init__(self):
        self.error: Exception | None = None
        self.versions_of: dict[TaskKey, list[Version]] = {}
        self.checkpoints: dict[tuple[TaskKey, int], bytes] = {}
        self.downloads = 0
        self.active: dict[TaskKey, int] = {}

    async def register(self, key, data, *, activate=True):
        """The next version."""
        if self.error is not None:
            raise self.error
        versions = self.versions_of.setdefault(key, [])
        version = Version(
            key=key,
            version=len(versions) + 1,
            digest="d" * 64,
            fingerprint=FINGERPRINT,
            size=len(data),
            state="ready",
            metadata={"classes": 4},
            created_at=1.0,
            renewed_at=1.0,
        )
        versions.append(version)
        self.checkpoints[key, version.version] = data
        if activate:
            self.active[key] = version.version
        return version

    async def tasks(self, tenant, *, after="", limit):
        """By name."""
        if self.error is not None:
            raise self.error
        keys = sorted(self.versions_of, key=lambda key: key.task)
        mine = [key for key in keys if key.tenant == tenant and key.task > after]
        return [self._task(key) for key in mine[:limit]]

    async def task(self, key):
        """One."""
        self._require(key)
        return self._task(key)

    async def versions(self, key, *, after=0, limit):
        """By number."""
        self._require(key)
        return [each for each in self.versions_of[key] if each.version > after][:limit]

    async def usage(self, tenant):
        """Counted."""
        versions = [
            version
            for key, versions in self.versions_of.items()
            if key.tenant == tenant
            for version in versions
        ]
        return Usage(
            tasks=sum(key.tenant == tenant for key in self.versions_of),
            stored_bytes=sum(version.size for version in versions),
        )

    async def checkpoint(self, key, version):
        """The bytes."""
        self._require(key)
        if (key, version) not in self.checkpoints:
            raise UnknownVersion(f"{key.task} has no version {version}. List its versions.")
        self.downloads += 1
        return self.checkpoints[key, version]

    async def rollback(self, key, *, expected=None):
        """One back."""
        self._require(key)
        if expected not in {None, self.active[key]}:
            raise PointerMoved(f"Version {self.active[key]} is active. Look again.")
        if self.active[key] == 1:
            raise NothingToRollBackTo(f"No other version of {key.task} was active. Register one.")
        self.active[key] -= 1
        return self.versions_of[key][self.active[key] - 1].ref

    async def delete(self, key):
        """All of it."""
        self._require(key)
        del self.versions_of[key]

    def _task(self, key):
        return Task(key=key, created_at=1.0, active={FINGERPRINT: self.active.get(key, 1)})

    def _require(self, key):
        if key not in self.versions_of:
            raise UnknownTask(f"There is no task {key.task!r}. Register it.")


class FakeReleases:
    """Moves the pointers of a manager's tasks."""

    def __init__(self, manager):
        self.manager = manager
        self.canaries: dict[TaskKey, Canary] = {}

    def canary(self, key):
        """What was started."""
        return self.canaries.get(key)

    async def start_canary(self, key, version, percent):
        """At once."""
        await self._require(key, version)
        self.canaries[key] = Canary(version=version, percent=percent)
        return self.canaries[key]

    async def end_canary(self, key):
        """At once."""
        await self.manager.task(key)
        self.canaries.pop(key, None)

    async def activate(self, key, version, *, expected=None):
        """At once."""
        found = await self._require(key, version)
        if expected not in {None, self.manager.active[key]}:
            raise PointerMoved("Another version is active. Look again.")
        self.manager.active[key] = version
        return found.ref

    async def retire(self, key, version):
        """The last one only."""
        await self._require(key, version)
        if self.manager.active[key] == version:
            raise VersionInUse("It is active. Activate another one.")
        self.manager.versions_of[key].pop()

    async def _require(self, key, version):
        versions = await self.manager.versions(key, limit=1_000)
        if version > len(versions):
            raise UnknownVersion(f"{key.task} has no version {version}. List its versions.")
        return versions[version - 1]


class FakePinning:
    """Knows what was pinned."""

    def __init__(self, manager):
        self.manager = manager
        self.pinned: set[types.TaskKey] = set()

    def is_pinned(self, task):
        """What was asked for."""
        return task in self.pinned

    async def pin(self, task):
        """At once."""
        await self.manager.task(TaskKey(tenant=task.tenant, task=task.task))
        self.pinned.add(task)

    async def unpin(self, task):
        """At once."""
        self.pinned.discard(task)


async def _fine():
    return []


@contextmanager
def services(**changes: object) -> Iterator[Services]:
    """Everything behind the routes, with small limits; `changes` replace fields."""
    images = ImageReader(
        SMALL, ImageLimits(max_bytes=2**20, max_pixels=1_000_000), decoders=2, max_waiting=64
    )
    body = BodyLimits(max_bytes=4 * 2**20, max_buffered_bytes=16 * 2**20, timeout=30.0)
    manager = FakeManager()
    built = Services(
        predictor=FakePredictor(),
        manager=manager,
        releases=FakeReleases(manager),
        pinning=FakePinning(manager),
        residency=FakeResidency(manager),
        keys=policy_fakes.key_ring(),
        admission=Admission(512),
        quotas=policy_fakes.quotas(),
        images=images,
        metrics=PrometheusMetrics(),
        tracer=Tracer(),
        has_own_ops_port=False,
        drain=Drain(),
        check=_fine,
        limits=RequestLimits(body, images=8, timeout_ms=5_000, max_timeout_ms=20_000),
        fingerprint=FINGERPRINT,
    )
    try:
        yield replace(built, **changes)
    finally:
        images.close()


def client(behind: Services, **options: object) -> httpx.AsyncClient:
    """A client of the routes within this process; what they do not catch reaches the test."""
    transport = httpx.ASGITransport(create_app(behind))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", **options)


class _TellingServer(DrainingServer):
    """Says when it listens, and when it has ended."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.has_started = threading.Event()
        self.has_ended = threading.Event()

    async def startup(self, sockets=None):
        """See DrainingServer."""
        await super().startup(sockets)
        self.has_started.set()

    def run(self, sockets=None):
        """See DrainingServer."""
        try:
            super().run(sockets)
        finally:
            self.has_ended.set()


@contextmanager
def live(behind: Services, timeout: float = 20.0, delay: float = 0.0) -> Iterator[_TellingServer]:
    """A real server on a free port of the loopback, in a thread of its own."""
    server = _TellingServer(
        create_app(behind), behind.drain, host="127.0.0.1", port=0, delay=delay, timeout=timeout
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.has_started.wait(20)
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def connect(server: DrainingServer) -> socket.socket:
    """A bare connection to a server."""
    url = httpx.URL(server.address)
    return socket.create_connection((url.host, url.port), timeout=20)
