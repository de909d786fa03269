"""From disk to host memory: checkpoints fetched, checked and folded, off the event loop."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adapters.checkpoint import check_backbone, parse
from adapters.manifest import AdapterRef, BackboneSpec, GoldenProof
from service.cache.lru import LruMap
from service.engines.folded import FoldedAdapter, fold_adapter
from service.errors import CacheTooSmall
from service.metrics import Metrics, Tier


class Checkpoints(Protocol):
    """Where checkpoints come from: `adapters.store.registry.Registry`."""

    async def fetch(self, ref: AdapterRef) -> bytes:
        """A version's checkpoint, its digest verified."""


@dataclass(frozen=True, eq=False)
class HostAdapter:
    """What serving needs of a checkpoint, ready to be copied into the engine."""

    folded: FoldedAdapter
    labels: tuple[str, ...]
    proof: GoldenProof
    golden_logits: Tensor

    @property
    def nbytes(self) -> int:
        """The host memory that it takes."""
        labels = sum(sys.getsizeof(label) for label in self.labels)
        return self.folded.nbytes() + self.golden_logits.nbytes + labels


class HostTier:
    """The adapters that were read lately, by digest, within `capacity` bytes.

    A capacity of 0 keeps none: right where the engine's own memory is the host's.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        backbone: BackboneSpec,
        pool: Executor,
        *,
        capacity: int,
        metrics: Metrics,
    ) -> None:
        self._checkpoints = checkpoints
        self._backbone = backbone
        self._pool = pool
        self._adapters: LruMap[str, HostAdapter] = LruMap(capacity)
        self._metrics = metrics

    def __contains__(self, digest: str) -> bool:
        return digest in self._adapters

    async def get(self, ref: AdapterRef) -> tuple[HostAdapter, Tier]:
        """An adapter, and the tier that it was found in.

        Raises:
            StoreError: see `Registry.fetch`.
            CheckpointError: it cannot be read, or was made for another backbone.
        """
        adapter = self._adapters.get(ref.digest)
        if adapter is not None:
            return adapter, "host"
        data = await self._checkpoints.fetch(ref)
        adapter = await asyncio.get_running_loop().run_in_executor(self._pool, self._reader(data))
        self._keep(ref.digest, adapter)
        return adapter, "disk"

    def _reader(self, data: bytes) -> Callable[[], HostAdapter]:
        return lambda: read_adapter(data, self._backbone)

    def _keep(self, digest: str, adapter: HostAdapter) -> None:
        if self._adapters.evicted_lately(digest):
            self._metrics.thrash("host")
        with suppress(CacheTooSmall):
            for _ in self._adapters.put(digest, adapter, adapter.nbytes):
                self._metrics.evicted("host")
        self._metrics.resident("host", len(self._adapters), self._adapters.used_bytes)


def read_adapter(data: bytes, backbone: BackboneSpec) -> HostAdapter:
    """Check a checkpoint's bytes against the served backbone, and fold it.

    Raises:
        CheckpointError: it cannot be read, or was made for another backbone.
    """
    checkpoint = parse(data)
    check_backbone(checkpoint.manifest, backbone)
    return HostAdapter(
        fold_adapter(checkpoint),
        checkpoint.manifest.labels,
        checkpoint.manifest.proof,
        checkpoint.golden_logits,
    )
