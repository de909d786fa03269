"""Leases on adapters: one load for all who wait, and no eviction under those who run."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import structlog

from adapters.manifest import AdapterRef
from service.cache.device_tier import DeviceTier, Resident
from service.cache.hold_off import HoldOff
from service.cache.host_tier import HostTier
from service.engines.base import Slot
from service.errors import AdapterLoadFailed, RetryLater, ShuttingDown
from service.metrics import Metrics, Tier
from service.proving import Prover

LoadStep = Literal["queued", "reading", "placing", "proving"]
AdapterState = Tier | LoadStep | Literal["failed"]
SHUTDOWN_RETRY_AFTER = 2.0

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Lease:
    """The right to run an adapter version: until `release` it stays in its slot.

    Attributes:
        slot: where the engine has it.
        labels: of its classes.
        tier: where it was found.
        load_seconds: how long its holder waited for it.
    """

    slot: Slot
    labels: tuple[str, ...]
    tier: Tier
    load_seconds: float
    _release: Callable[[], None] | None = field(repr=False)

    def release(self) -> None:
        """End the lease; ending it again changes nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()


@dataclass(slots=True, eq=False)
class _Load:
    """An adapter on its way. It stays pinned until the last of its waiters has got its lease."""

    ref: AdapterRef
    started_at: float
    step: LoadStep = "queued"
    tier: Tier = "disk"
    waiters: int = 0
    holds_pin: bool = False
    task: asyncio.Task[Resident] = field(init=False)


class AdapterCache:
    """Adapters by digest: in a slot of the engine, in host memory, on disk.

    A load runs as a task of its own, so a waiter that is cancelled takes nobody along, and a
    request for an adapter that has a slot waits for nothing at all. Waiting for a load is bounded
    by the caller's own timeout.

    Args:
        host: Reads checkpoints.
        device: Has the slots.
        prover: Has the last word before an adapter is leased.
        loaders: How many loads run at the same time.
        hold_off: Seconds for which a failed load is not tried again.
        metrics: Told of every load.
    """

    def __init__(
        self,
        host: HostTier,
        device: DeviceTier,
        prover: Prover,
        *,
        loaders: int,
        hold_off: float,
        metrics: Metrics,
    ) -> None:
        self._host = host
        self._device = device
        self._prover = prover
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._loaders = asyncio.Semaphore(loaders)
        self._loads: dict[str, _Load] = {}
        self._failures = HoldOff(hold_off)
        self._closing = False

    async def acquire(self, ref: AdapterRef) -> Lease:
        """Lease an adapter version, loading and proving it first where it has no slot.

        Raises:
            AdapterLoadFailed: it could not be loaded or proved, now or a moment ago.
            Overloaded: there was no room for it, or for its proof.
            ShuttingDown: no more adapters are loaded.
        """
        now = self._loop.time()
        load = self._loads.get(ref.digest)
        if load is None:
            resident = self._device.get(ref.digest)
            if resident is not None:
                return self._lease(resident, "device", now)
            load = self._start(ref)
        load.waiters += 1
        try:
            await asyncio.wait({load.task})
            return self._lease(_resident(load, ref), load.tier, now)
        finally:
            load.waiters -= 1
            self._settle(load)

    def state(self, digest: str) -> AdapterState:
        """Where an adapter is, or how far its load has come."""
        if digest in self._loads:
            return self._loads[digest].step
        if digest in self._device:
            return "device"
        if self._failures.get(digest, self._loop.time()) is not None:
            return "failed"
        return "host" if digest in self._host else "disk"

    def holds_any(self) -> bool:
        """Whether there is an adapter that could be served without the store."""
        return len(self._device) > 0

    def dismiss(self, digest: str) -> None:
        """Free an adapter's slot once its leases have ended, unless it is wanted again before."""
        self._device.dismiss(digest)

    def forgive(self, digest: str) -> None:
        """Forget that a load has failed: its cause may have been mended."""
        self._failures.forget(digest)

    async def close(self, grace: float) -> None:
        """Start no more loads and end those under way; call it after the dispatcher's `close`."""
        self._closing = True
        tasks = {load.task for load in self._loads.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)

    def _start(self, ref: AdapterRef) -> _Load:
        now = self._loop.time()
        if self._closing:
            raise _shutting_down()
        error = self._failures.get(ref.digest, now)
        if error is not None:
            raise _load_failed(ref, error) from error
        load = self._loads[ref.digest] = _Load(ref, now)
        load.task = self._loop.create_task(self._bring(load))
        load.task.add_done_callback(partial(self._finish, load))
        return load

    async def _bring(self, load: _Load) -> Resident:
        async with self._loaders:
            load.step = "reading"
            adapter, load.tier = await self._host.get(load.ref)
            load.step = "placing"
            resident = await self._device.place(adapter)
            load.step = "proving"
            try:
                await self._prover.prove(adapter, resident.slot)
            except BaseException:
                self._device.drop(resident)
                raise
            load.holds_pin = True
            return resident

    def _finish(self, load: _Load, task: asyncio.Task[Resident]) -> None:
        """As soon as a load has ended, before any waiter hears of it."""
        del self._loads[load.ref.digest]
        self._settle(load)
        if task.cancelled():
            return
        now, error = self._loop.time(), task.exception()
        outcome = "ok" if error is None else type(error).__name__
        self._metrics.load(load.tier, outcome, now - load.started_at)
        if error is not None and not isinstance(error, RetryLater):
            self._failures.add(load.ref.digest, error, now)
            log.warning(
                "adapter_load_failed", task=load.ref.task, version=load.ref.version, exc_info=error
            )

    def _settle(self, load: _Load) -> None:
        if load.holds_pin and load.task.done() and not load.waiters:
            load.holds_pin = False
            self._device.unpin(load.task.result())

    def _lease(self, resident: Resident, tier: Tier, since: float) -> Lease:
        self._device.pin(resident)
        release = partial(self._device.unpin, resident)
        return Lease(resident.slot, resident.labels, tier, self._loop.time() - since, release)


def _resident(load: _Load, ref: AdapterRef) -> Resident:
    """What an ended load has brought for `ref`: every waiter gets an exception of its own."""
    if load.task.cancelled():
        raise _shutting_down()
    error = load.task.exception()
    if error is None:
        return load.task.result()
    if isinstance(error, RetryLater):
        raise type(error)(str(error), retry_after=error.retry_after) from error
    raise _load_failed(ref, error) from error


def _load_failed(ref: AdapterRef, error: BaseException) -> AdapterLoadFailed:
    # What the error itself says may name paths, or another tenant: that is for the log.
    cause = type(error).__name__
    return AdapterLoadFailed(
        f"Version {ref.version} of task {ref.task!r} could not be loaded ({cause}). Try again a "
        "little later; if it stays so, register the adapter again.",
        cause=cause,
    )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "The server is about to stop and loads no more adapters. Try again: another one may "
        "answer.",
        retry_after=SHUTDOWN_RETRY_AFTER,
    )
