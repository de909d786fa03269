"""Thousands of distinct valid tasks in a store, made fast, and a server over them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.backbone import StagedBackbone
from adapters.checkpoint import GOLDEN_LOGITS, Checkpoint, make_checkpoint, parse
from adapters.container import digest_of, pack
from adapters.head import head_spec
from adapters.manifest import BackboneSpec, Provenance
from adapters.model import Adapter, AdapterModel
from adapters.prompt import prompt_spec
from adapters.store.blobs import BlobStore
from adapters.store.index import Index, Replay, TaskKey, Verdict
from adapters.store.opening import open_index
from adapters.store.registry import Registry
from service import logs
from service.bootstrap import open_services
from service.heap import settled_heap
from service.http.services import Services
from service.settings import Settings

MOST_BYTES = 256 * 2**20
LOADERS = 4
FOREVER = 60.0


def task_name(number: int) -> str:
    """The name of a task."""
    return f"t{number:06d}"


def first_checkpoint(backbone: StagedBackbone, classes: int) -> Checkpoint:
    """An adapter in which every value matters, with its golden proof."""
    adapter = Adapter(prompt_spec(backbone.spec), head_spec(backbone.spec, classes), backbone.spec)
    generator = torch.Generator().manual_seed(0)
    for name, values in adapter.state_dict().items():
        if values.is_floating_point():
            values.copy_(_random(name, values, generator))
    labels = tuple(f"class {number}" for number in range(classes))
    provenance = Provenance(method="pro-tuning", data="random")
    return make_checkpoint(AdapterModel(backbone, adapter).eval(), labels, provenance)


def _random(name: str, values: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.empty_like(values).uniform_(-1, 1, generator=generator)
    if "bn" in name and name.endswith(("weight", "running_var")):
        return 1 + 0.5 * noise
    fan_in = max(1, values[0].numel()) if values.ndim > 1 else 1
    return noise * (3 / fan_in) ** 0.5


def variant(first: Checkpoint, number: int) -> bytes:
    """Another valid adapter: other biases of the head move the golden logits by just as much."""
    generator = torch.Generator().manual_seed(number)
    shift = 0.1 * torch.randn(first.manifest.head.classes, generator=generator)
    state = {**first.state, "head.bias": first.state["head.bias"] + shift}
    return pack(
        {**state, GOLDEN_LOGITS: first.golden_logits + shift}, first.manifest.model_dump_json()
    )


async def fill(
    registry: Registry, index: Index, first: Checkpoint, tasks: range, replay: Replay
) -> None:
    """Register tasks as if another server had proved them."""
    limit = asyncio.Semaphore(LOADERS)

    async def add(number: int) -> None:
        async with limit:
            key = TaskKey(task=task_name(number))
            data = await asyncio.to_thread(variant, first, number)
            version = await registry.register(key, data, now=0)
            verdict = Verdict(passed=True, detail="", at=0)
            circumstances = replay.model_copy(update={"digest": version.digest})
            await index.put_verdict(circumstances, verdict)
            await index.set_state(key, version.version, "ready", now=0)
            await index.activate(key, version.version, expected=None, now=0)

    await asyncio.gather(*map(add, tasks))


@asynccontextmanager
async def serving(
    directory: Path, backbone: BackboneSpec, **settings: object
) -> AsyncIterator[Services]:
    """A whole server over the store in `directory`, but for HTTP."""
    given: dict[str, Any] = {
        "backbone": backbone.name,
        "index": _index_url(directory),
        "store": str(directory / "blobs"),
        "host_cache_bytes": 0,
        "queue_images": 100_000,
        "requests_in_flight": 100_000,
        "load_patience": FOREVER,
        **settings,
    }
    logs.configure("warning", "text")
    async with open_services(Settings(**given)) as services:
        with settled_heap():
            yield services


def store(directory: Path) -> tuple[Index, Registry]:
    """The embedded store in a directory."""
    index = open_index(_index_url(directory))
    blobs = BlobStore(str(directory / "blobs"), digest_of)
    return index, Registry(blobs, index, parse, max_bytes=MOST_BYTES)


def _index_url(directory: Path) -> str:
    return f"sqlite:///{directory}/index.db"
