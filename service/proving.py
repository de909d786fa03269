"""The golden proof, replayed by the engine that will serve: the last step before ready."""

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version

import structlog
import torch
from torch import Tensor

from adapters.errors import ProofFailed, StoreUnavailable
from adapters.proof import check_logits, golden_batch
from adapters.store.index import Index, Replay, Verdict
from service.batching.dispatcher import Dispatcher, Job
from service.cache.host_tier import HostAdapter
from service.engines.base import Engine, Slot
from service.errors import EngineFailed
from service.metrics import Metrics
from service.types import TaskKey

# No tenant can be called so. Under load all proofs together get a quarter of a tenant's share.
PROOFS = TaskKey("(proofs)", "(proofs)")
PROOF_WEIGHT = 0.25

log = structlog.get_logger(__name__)


def replay_of(digest: str, engine: Engine) -> Replay:
    """What a verdict on this engine counts for: the same code on the same kind of device."""
    device = engine.device.partition(":")[0]
    return Replay(
        digest=digest,
        fingerprint=engine.spec.fingerprint,
        engine=f"{engine.name} {device} {version('protuning')} torch-{torch.__version__}",
        dtype=engine.dtype,
    )


class Prover:
    """Replays golden inputs as ordinary work of low weight, once per digest and circumstances.

    A verdict that holds is kept in the index for all servers alike; one that does not is kept for
    people to read, and the next load tries again. While the index cannot be reached proofs are
    replayed rather than believed.

    Args:
        engine: The one that serves.
        dispatcher: Its queue: a proof runs in mixed batches, as requests do.
        index: Keeps the verdicts.
        metrics: Told of proofs that fail.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        dispatcher: Dispatcher,
        index: Index,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._index = index
        self._metrics = metrics
        self._clock = clock

    async def prove(self, adapter: HostAdapter, slot: Slot) -> None:
        """Return if the adapter's proof holds here. The engine has left the slot by then.

        Raises:
            ProofFailed: the logits are others than training's, or the engine raised.
            Overloaded: the queue has no room for the golden inputs.
            ShuttingDown: no more work is taken.
        """
        replay = replay_of(adapter.folded.key, self._engine)
        if await self._has_passed(replay):
            return
        try:
            logits = await self._replay(adapter, slot)
            check_logits(adapter.proof, adapter.golden_logits, logits, self._engine.dtype)
        except ProofFailed as error:
            self._metrics.proof_failed()
            await self._remember(replay, passed=False, detail=str(error))
            raise
        await self._remember(replay, passed=True)

    async def _replay(self, adapter: HostAdapter, slot: Slot) -> Tensor:
        preprocessing = self._engine.spec.preprocessing
        images = await asyncio.to_thread(golden_batch, adapter.proof, preprocessing)
        is_free = asyncio.Event()
        job = Job(PROOFS, slot, images, is_free.set, weight=PROOF_WEIGHT)
        try:
            return (await self._dispatcher.submit(job)).logits
        except EngineFailed as error:
            raise ProofFailed(
                f"The engine could not run the golden inputs ({error.__cause__}). Train the "
                "adapter again with another prompt configuration, or report this."
            ) from error
        finally:
            await is_free.wait()

    async def _has_passed(self, replay: Replay) -> bool:
        try:
            verdict = await self._index.get_verdict(replay)
        except StoreUnavailable as error:
            log.warning("verdict_unknown", digest=replay.digest, exc_info=error)
            return False
        return verdict is not None and verdict.passed

    async def _remember(self, replay: Replay, *, passed: bool, detail: str = "") -> None:
        verdict = Verdict(passed=passed, detail=detail, at=self._clock())
        try:
            await self._index.put_verdict(replay, verdict)
        except StoreUnavailable as error:
            log.warning("verdict_not_kept", digest=replay.digest, exc_info=error)
