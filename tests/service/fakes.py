"""What the tests of serving stand on: a slow obvious engine, a loop whose time is set by hand."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import create_autospec

import torch

from adapters.checkpoint import Checkpoint, parse
from adapters.container import digest_of
from adapters.manifest import PromptSpec
from adapters.store.blobs import BlobStore
from adapters.store.registry import Registry
from adapters.store.sqlite import SqliteIndex
from service.admission import Admission
from service.batching.dispatcher import Dispatcher
from service.batching.queue import BatchQueue
from service.cache.adapter_cache import AdapterCache
from service.cache.device_tier import DeviceTier
from service.cache.host_tier import HostTier
from service.cache.resolver import Resolver
from service.canary import Canary
from service.engines.base import Slot
from service.engines.folded import FoldedAdapter, fold_adapter
from service.engines.torch_engine import TorchEngine
from service.errors import EngineFull, UnknownSlot
from service.limits import TenantLimits
from service.manage import Manager
from service.metrics import Metrics
from service.pinning import Pin, Pinning
from service.predict import Predictor
from service.proving import Prover
from service.quotas import Quotas
from service.releases import Releases
from service.residency import Residency
from service.routing import Router
from service.tracing import Tracer
from service.types import BatchLimits
from tests import makers
from tests.service import policy_fakes

BACKBONE = "test_resnet"
PATIENCE = 10.0
# Nothing in these tests takes so long unless it hangs.
HANGS = 20.0


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        super().__init__()

    def time(self) -> float:
        """Seconds, as the test has set them."""
        return self.now


ANYIO_BACKEND = ("asyncio", {"loop_factory": VirtualTimeLoop})


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()


async def advance(seconds: float) -> None:
    """Let time pass, and let everything happen that becomes due."""
    await breathe()
    asyncio.get_running_loop().now += seconds
    await breathe()


async def breathe() -> None:
    """Let every callback run that is ready, and those that they make ready."""
    for _ in range(50):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to make something true."""
    give_up_at = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        # By way of a thread, so that the others get their turn too.
        await asyncio.to_thread(int)


class FakeEngine:
    """Runs whole models, one segment after the other, and does on demand what engines do wrong.

    `models` gives by digest what turns uint8 images [n, H, W, 3] into logits. `gate` holds up
    every batch and `load_gate` every load while they are cleared; adapters named in `poisoned`
    raise, and so does every run while `broken` is set.
    """

    name = "fake"
    dtype = "float32"
    device = "cpu"

    def __init__(self, models, capacity=10**9):
        self.spec = makers.backbone(BACKBONE).spec
        self.models = models
        self.capacity_bytes = capacity
        self.largest_piece = capacity
        self.gate, self.load_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.load_gate.set()
        self.poisoned = set()
        self.broken = None
        self.slots = {}
        self.loads, self.batches = [], []
        self.running = frozenset()
        self.mistakes = []
        self._lock = threading.Lock()

    @property
    def used_bytes(self):
        return sum(self.adapter_bytes(adapter) for adapter in self.slots.values())

    def adapter_bytes(self, adapter):
        return adapter.nbytes()

    def load(self, adapter):
        assert self.load_gate.wait(HANGS)
        with self._lock:
            size = self.adapter_bytes(adapter)
            if self.used_bytes + size > min(self.capacity_bytes, self.largest_piece):
                raise EngineFull("Unload something.")
            self.loads.append(adapter.key)
            slot = Slot(len(self.loads))
            self.slots[slot] = adapter
            return slot

    def unload(self, slot):
        with self._lock:
            if slot in self.running:
                self.mistakes.append(f"{slot} was unloaded under a running batch")
            if slot not in self.slots:
                raise UnknownSlot(f"{slot} is not loaded.")
            del self.slots[slot]

    def run(self, batch):
        slots = frozenset(segment.slot for segment in batch.segments)
        with self._lock:
            self.running = slots
        self.batches.append([segment.stop - segment.start for segment in batch.segments])
        try:
            assert self.gate.wait(HANGS), "the test left the gate closed"
            if self.broken:
                raise self.broken
            return [self._run(batch, segment) for segment in batch.segments]
        finally:
            with self._lock:
                self.running = frozenset()

    def _run(self, batch, segment):
        if segment.slot not in self.slots:
            raise UnknownSlot(f"{segment.slot} is not loaded.")
        key = self.slots[segment.slot].key
        if key in self.poisoned:
            raise RuntimeError("poison")
        rows = torch.arange(len(batch.images)) if batch.rows is None else batch.rows
        return self.models[key](batch.images[rows[segment.start : segment.stop]])

    def warm_up(self, batch_sizes):
        """Nothing to warm."""


class RealEngine(TorchEngine):
    """The torch engine with room for so many adapters; its gates are always open."""

    def __init__(self, adapters: int) -> None:
        size = fold_adapter(makers.checkpoint(BACKBONE)).nbytes()
        super().__init__(makers.backbone(BACKBONE), capacity_bytes=adapters * (size + 2_000))
        self.gate, self.load_gate = threading.Event(), threading.Event()
        self.mistakes: list[str] = []


def folded(key: str, size: int = 10) -> FoldedAdapter:
    """An adapter of `size` values that only its name tells apart."""
    values = torch.zeros(size)
    return FoldedAdapter(key, PromptSpec(), values, torch.zeros(0, 1), torch.zeros(0))


def checkpoints(count: int) -> list[Checkpoint]:
    """Different small checkpoints."""
    return [makers.checkpoint(BACKBONE, classes=4, seed=seed) for seed in range(count)]


def predictions_of(made: list[Checkpoint]) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What a fake engine computes for them: the one-task path of `adapters.model`."""
    backbone = makers.backbone(BACKBONE)
    return {each.digest: each.model(backbone).predict for each in made}


def quiet_metrics() -> Metrics:
    """Metrics that remember how they were called."""
    return create_autospec(Metrics, instance=True)


@dataclass
class Service:
    """The whole service below HTTP, on one engine."""

    engine: FakeEngine | RealEngine
    index: SqliteIndex
    blobs: BlobStore
    registry: Registry
    queue: BatchQueue
    dispatcher: Dispatcher
    host: HostTier
    device: DeviceTier
    prover: Prover
    cache: AdapterCache
    resolver: Resolver
    predictor: Predictor
    manager: Manager
    releases: Releases
    pinning: Pinning
    residency: Residency
    quotas: Quotas
    metrics: Metrics


@contextlib.asynccontextmanager
async def service(
    directory: Path,
    engine: FakeEngine | RealEngine,
    *,
    loaders: int = 4,
    host_bytes: int = 10**9,
    max_images: int = 16,
    in_flight: int = 1_000,
    proofs: bool = True,
    limits: TenantLimits = policy_fakes.UNLIMITED,
    draw: Callable[[], float] = lambda: 0.5,
) -> AsyncIterator[Service]:
    """A service whose store lies in `directory`; at the end nothing of it is left running."""
    metrics = quiet_metrics()
    index = SqliteIndex(directory / "index.db")
    blobs = BlobStore(str(directory / "store"), digest_of)
    registry = Registry(blobs, index, parse, max_bytes=10**7)
    queue = BatchQueue(1_000, BatchLimits(max_images))
    dispatcher = Dispatcher(engine, queue, metrics)
    pool = ThreadPoolExecutor(loaders)
    host = HostTier(registry, engine.spec, pool, capacity=host_bytes, metrics=metrics)
    device = DeviceTier(engine, pool, patience=PATIENCE, metrics=metrics)
    prover = Prover(engine, dispatcher, index, metrics=metrics)
    if not proofs:
        prover.prove = create_autospec(prover.prove)
    cache = AdapterCache(host, device, prover, loaders=loaders, hold_off=5.0, metrics=metrics)
    resolver = Resolver(index, engine.spec.fingerprint, capacity=100)
    quotas = policy_fakes.quotas(defaults=limits)
    fingerprint = engine.spec.fingerprint
    policies = policy_fakes.policies(None, Canary, Pin)
    router = Router(resolver, policies, fingerprint, draw=draw)
    predictor = Predictor(
        router, cache, dispatcher, Admission(in_flight), quotas, metrics, Tracer()
    )
    pinning = Pinning(policies, resolver, cache)
    manager = Manager(registry, index, cache, resolver, router, pinning, quotas, fingerprint)
    releases = Releases(index, cache, resolver, router, fingerprint)
    residency = Residency(resolver, cache)
    try:
        yield Service(
            engine, index, blobs, registry, queue, dispatcher, host, device, prover, cache,
            resolver, predictor, manager, releases, pinning, residency, quotas,
            metrics,
        )  # fmt: skip
    finally:
        pinning.close()
        engine.gate.set()
        engine.load_gate.set()
        await dispatcher.close(HANGS)
        await cache.close(HANGS)
        pool.shutdown()
        await index.close()
    assert engine.mistakes == []
