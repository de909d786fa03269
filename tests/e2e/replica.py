"""One of several servers as a client sees it, and adapters for the sample backbone to send it."""

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import httpx

from adapters.backbone import load_backbone
from adapters.checkpoint import make_checkpoint
from adapters.head import head_spec
from adapters.manifest import Provenance
from adapters.model import Adapter, AdapterModel
from adapters.prompt import prompt_spec
from tests import makers

BACKBONE = "test_resnet"
WEIGHTS = Path(__file__).parents[2] / "examples" / "sample" / "test_resnet.safetensors"
PICTURE = makers.encode(makers.picture(90, 120), "JPEG")
JPEG = {"content-type": "image/jpeg"}
HANGS = 60.0


@cache
def checkpoint(seed: int) -> bytes:
    """An adapter for the sample backbone."""
    backbone = load_backbone(BACKBONE, str(WEIGHTS))
    adapter = Adapter(prompt_spec(backbone.spec), head_spec(backbone.spec, 4), backbone.spec)
    model = AdapterModel(backbone, makers.randomise(adapter, seed)).eval()
    provenance = Provenance(method="pro-tuning", data="made up")
    return make_checkpoint(model, makers.labels(4), provenance).data


class Replica:
    """One server, as a client sees it who may have a key."""

    def __init__(self, address: str, key: str | None = None) -> None:
        headers = {} if key is None else {"X-API-Key": key}
        self.http = httpx.Client(base_url=address, headers=headers, timeout=30)

    def register(self, task: str, seed: int) -> httpx.Response:
        """Register a checkpoint as a version of a task."""
        return self.http.post(
            "/tasks", data={"task_id": task}, files={"checkpoint": checkpoint(seed)}
        )

    def predict(self, task: str) -> httpx.Response:
        """Ask a task about the picture."""
        return self.http.post(f"/tasks/{task}/predict", content=PICTURE, headers=JPEG)

    def version(self, task: str) -> int | None:
        """The version that answers, None if the task is not there."""
        answer = self.predict(task)
        return answer.json()["version"] if answer.status_code == 200 else None

    def loaded(self) -> int:
        """How many adapters have a slot."""
        text = self.http.get("/metrics").text
        found = re.search(r'resident_tasks\{tier="device"\} (\d+)', text)
        return int(found[1]) if found else 0

    def readiness(self) -> str:
        """What it says about itself."""
        return self.http.get("/health/ready").json()["status"]


def until(condition: Callable[[], object]) -> None:
    """Wait for another process to make something true."""
    give_up_at = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen"
