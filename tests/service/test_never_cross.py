"""Fifty tasks over HTTP with room for twelve of them: every answer is that of the task asked."""

import asyncio
import random

import httpx
import pytest
import torch
from safetensors.torch import save_file

from adapters.checkpoint import make_checkpoint
from adapters.manifest import Provenance
from service.bootstrap import open_services
from service.client import AsyncClient
from service.engines.folded import fold_adapter
from service.http.app import create_app
from service.settings import Settings
from tests import makers

pytestmark = pytest.mark.anyio

BACKBONE = "test_resnet"
TASKS, ROOM, AT_ONCE = 50, 12, 24
HANGS_MS = 600_000
CONFIGS = ({}, {"sites": "none"}, {"kernel_size": 3}, {"blocks": 2})
PICTURES = [makers.encode(makers.picture(40, 40, seed), "JPEG") for seed in range(8)]


def naming(number):
    """A checkpoint that always answers the number of its task, in words of its own."""
    model = makers.model(BACKBONE, TASKS, number, **CONFIGS[number % len(CONFIGS)])
    with torch.no_grad():
        model.adapter.head.bias[number] += 50
    labels = tuple(f"task {number} says {other}" for other in range(TASKS))
    return make_checkpoint(model, labels, Provenance(method="pro-tuning", data="none"))


def settings(directory, checkpoints):
    """A server whose engine has room for a few of the adapters."""
    largest = max(fold_adapter(each).nbytes() for each in checkpoints[: len(CONFIGS)])
    return Settings(
        backbone=BACKBONE,
        weights=str(directory / "weights.safetensors"),
        device="cpu",
        index=f"sqlite:///{directory}/index.db",
        store=str(directory / "store"),
        adapter_memory_bytes=ROOM * largest,
        batch_images=16,
        # Whether a slow machine answers in time is not the question here.
        timeout_ms=HANGS_MS,
        max_timeout_ms=HANGS_MS,
        load_patience=HANGS_MS / 1_000,
    )


async def test_answers_never_cross(tmp_path, pytestconfig):
    """Three hundred requests, ten thousand with `--full`, while adapters are loaded and evicted."""
    requests = 10_000 if pytestconfig.getoption("full") else 300
    save_file(makers.backbone(BACKBONE).model.state_dict(), tmp_path / "weights.safetensors")
    checkpoints = [naming(number) for number in range(TASKS)]
    rng, gate = random.Random(0), asyncio.Semaphore(AT_ONCE)
    batches_mixed, loaded = 0, 0

    async def ask(client, number, pictures):
        nonlocal batches_mixed, loaded
        async with gate:
            answer = await client.predict(f"task-{number}", pictures, top_k=1)
        assert answer.task == f"task-{number}"
        best = [prediction.labels[0].label for prediction in answer.predictions]
        assert best == [f"task {number} says {number}"] * len(pictures)
        batches_mixed += answer.timing.batch_tasks > 1
        loaded += answer.timing.load_ms > 1

    async with open_services(settings(tmp_path, checkpoints)) as behind:
        transport = httpx.ASGITransport(create_app(behind))
        async with AsyncClient("http://testserver", transport=transport) as client:
            for number, checkpoint in enumerate(checkpoints):
                await client.register(f"task-{number}", checkpoint.data)
            async with asyncio.TaskGroup() as group:
                for _ in range(requests):
                    pictures = rng.choices(PICTURES, k=rng.choice((1, 1, 1, 2, 3)))
                    group.create_task(ask(client, rng.randrange(TASKS), pictures))
    assert batches_mixed > requests / 2
    assert loaded > requests / 10
