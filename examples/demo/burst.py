"""The demo's traffic: many requests of different tasks at the same time, and what came back."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.client import AsyncClient
from service.http.schemas import Prediction

AT_ONCE = 32


@dataclass(frozen=True)
class Ask:
    """An image for a task, and the class that it is of."""

    task: str
    image: Path
    truth: str


@dataclass(frozen=True)
class Answer:
    """What came back, and how many seconds after the question."""

    ask: Ask
    prediction: Prediction
    seconds: float

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.prediction.predictions[0].labels[0].label

    @property
    def score(self) -> float:
        """Its probability."""
        return self.prediction.predictions[0].labels[0].score

    @property
    def is_right(self) -> bool:
        """Whether it is the class that the image is of."""
        return self.label == self.ask.truth


@dataclass(frozen=True)
class BatchFigures:
    """What the server's metrics say of its batches: how many, and means over them."""

    batches: int
    images: float
    tasks: float


async def ask_all(url: str, asks: Sequence[Ask]) -> list[Answer]:
    """Ask everything, 32 requests at the same time, and return the answers in their order.

    Raises:
        ClientError: the server refused something, or is gone.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask_one(client: AsyncClient, ask: Ask) -> Answer:
        async with gate:
            began = time.perf_counter()
            prediction = await client.predict(ask.task, [ask.image], top_k=1)
            return Answer(ask, prediction, time.perf_counter() - began)

    async with AsyncClient(url) as client:
        return await asyncio.gather(*(ask_one(client, ask) for ask in asks))


def batch_figures(url: str) -> BatchFigures:
    """Read them from the server's /metrics.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    page = httpx.get(f"{url}/metrics").raise_for_status().text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    batches = values["protuning_batch_tasks_count"]
    return BatchFigures(
        batches=int(batches),
        images=values["protuning_batch_images_sum"] / batches,
        tasks=values["protuning_batch_tasks_sum"] / batches,
    )
