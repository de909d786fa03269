"""A server that is killed again and again keeps what it has acknowledged, and nothing else."""

import asyncio
import logging
import math
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path

import httpx
from safetensors.torch import save_file

from adapters.store.opening import open_index
from service.serve import serve
from service.settings import Settings
from tests import makers
from tests.redis_servers import free_port

log = logging.getLogger(__name__)
BACKBONE = "test_resnet"
TASKS = ("birds", "cars", "flowers", "stones")
HANGS = 60.0
WEIGHTS = "weights.safetensors"
# A process from which servers fork, so that importing torch is paid for once.
NURSERY = multiprocessing.get_context("forkserver")
NURSERY.set_forkserver_preload(["service.serve"])
CHECKPOINTS = {
    made.digest: made.data
    for made in (makers.checkpoint(BACKBONE, classes=3, seed=seed) for seed in range(3))
}


@dataclass(frozen=True)
class Change:
    """One request: register the checkpoint of a digest, or delete the task where it is None."""

    task: str
    digest: str | None

    def send(self, client: httpx.Client) -> httpx.Response:
        """Ask for it."""
        if self.digest is None:
            return client.delete(f"/tasks/{self.task}")
        parts = {"task_id": (None, self.task), "checkpoint": ("a", CHECKPOINTS[self.digest])}
        return client.post("/tasks", files=parts)


@dataclass
class Tasks:
    """What the index holds: the version of each task's digests, and which one is active."""

    versions: dict[str, dict[str, int]] = field(default_factory=dict)
    active: dict[str, int | None] = field(default_factory=dict)

    def after(self, change: Change, version: int | None, *, active: bool = True) -> "Tasks":
        """The same after a change that gave `version`, and made it active or not yet."""
        changed = deepcopy(self)
        if change.digest is None:
            del changed.versions[change.task], changed.active[change.task]
            return changed
        changed.versions.setdefault(change.task, {})[change.digest] = version
        changed.active.setdefault(change.task, None)
        if active:
            changed.active[change.task] = version
        return changed


@dataclass
class Life:
    """What one client has seen of one server: acknowledged tasks, and the last change asked for."""

    tasks: Tasks
    last: Change | None = None
    acknowledged: int = 0

    def work(self, client: httpx.Client, rng: random.Random, changes: float = math.inf) -> float:
        """Change tasks so often, or until the server is gone; the seconds that one change took."""
        took = 0.0
        for _ in takewhile(lambda done: done < changes, count()):
            existing = sorted(self.tasks.versions)
            if existing and rng.random() < 0.3:
                self.last = Change(rng.choice(existing), None)
            else:
                self.last = Change(rng.choice(TASKS), rng.choice(sorted(CHECKPOINTS)))
            began = time.monotonic()
            try:
                answer = self.last.send(client)
            except httpx.TransportError:
                break
            took = time.monotonic() - began
            assert answer.is_success, answer.text
            version = answer.json()["version"] if self.last.digest else None
            self.tasks, self.last = self.tasks.after(self.last, version), None
            self.acknowledged += 1
        return took


@contextmanager
def server(directory: Path) -> Iterator[tuple[multiprocessing.Process, httpx.Client]]:
    """A server process and its client; at the end the process is killed."""
    settings = Settings(
        backbone=BACKBONE,
        weights=str(directory / WEIGHTS),
        device="cpu",
        index=index_url(directory),
        store=str(directory / "store"),
        port=free_port(),
        batch_images=1,
        adapter_memory_bytes=64 * 2**20,
        watch_period=0.1,
        log_level="error",
    )
    process = NURSERY.Process(target=serve, args=(settings,))
    process.start()
    url = f"http://127.0.0.1:{settings.port}"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as patient:
            patient.get(f"{url}/health/live", timeout=HANGS)
        with httpx.Client(base_url=url, timeout=HANGS) as client:
            yield process, client
    finally:
        process.kill()
        process.join(HANGS)


def index_url(directory: Path) -> str:
    """The index of the tasks."""
    return f"sqlite:///{directory}/index.db"


async def stored(directory: Path) -> tuple[Tasks, dict[str, int]]:
    """What the index holds while no server runs, and the tasks' versions that are pending."""
    index = open_index(index_url(directory))
    tasks, pending = Tasks(), {}
    for task in await index.list_tasks("default", limit=100):
        name = task.key.task
        versions = await index.list_versions(task.key, limit=100)
        tasks.versions[name] = {each.digest: each.version for each in versions}
        (tasks.active[name],) = task.active.values() or [None]
        pending.update((name, each.version) for each in versions if each.state == "pending")
    await index.close()
    return tasks, pending


def may_follow(life: Life, found: Tasks) -> bool:
    """Whether what is found is what was acknowledged, with the change in flight or without it."""
    if found == life.tasks:
        return True
    if life.last is None:
        return False
    if life.last.digest is None:
        return found == life.tasks.after(life.last, None)
    version = found.versions.get(life.last.task, {}).get(life.last.digest)
    stored, active = (life.tasks.after(life.last, version, active=each) for each in (False, True))
    return version is not None and found in (stored, active)


def await_active(client: httpx.Client, task: str, version: int) -> None:
    """Return when a pending version has become the active one."""
    give_up_at = time.monotonic() + HANGS
    while client.get(f"/tasks/{task}").json()["active_version"] != version:
        assert time.monotonic() < give_up_at, f"version {version} of {task} stays pending"


def check_files(client: httpx.Client, tasks: Tasks) -> None:
    """Every version's checkpoint is the one that was registered."""
    for task, versions in tasks.versions.items():
        for digest, version in versions.items():
            answer = client.get(f"/tasks/{task}/versions/{version}/checkpoint")
            assert answer.content == CHECKPOINTS[digest]


def test_nothing_acknowledged_is_lost(tmp_path, pytestconfig):
    """Kill -9 at random moments while a client registers and deletes; `--full` does it 200 times.

    Each time the tasks, their versions and the active ones are those that were acknowledged, and
    the next server has every checkpoint. The change in flight may be there or not, and a version
    that was stored but not proved becomes active.
    """
    kills = 200 if pytestconfig.getoption("full") else 5
    save_file(makers.backbone(BACKBONE).model.state_dict(), tmp_path / WEIGHTS)
    rng = random.Random(kills)
    life = Life(Tasks())
    for _ in range(kills):
        tasks, pending = asyncio.run(stored(tmp_path))
        assert may_follow(life, tasks), (life, tasks)
        with server(tmp_path) as (process, client):
            for task, version in pending.items():
                await_active(client, task, version)
                tasks.active[task] = version
            check_files(client, tasks)
            life = Life(tasks)
            took = life.work(client, rng, changes=rng.randint(1, 4))
            threading.Timer(rng.uniform(0, 2 * took), process.kill).start()
            life.work(client, rng)
        log.info("%d acknowledged, then killed during %s", life.acknowledged, life.last)
