"""What every index must do when several processes share it and some are killed."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from adapters.store.index import ChangeEvent, Index, TaskKey
from adapters.store.opening import open_index

RESNET = "a" * 64
EVERYTHING = 1_000_000

pytestmark = pytest.mark.anyio

CHILD = """
import asyncio, itertools, json, sys
from adapters.store.index import TaskKey
from adapters.store.opening import open_index

url, mode, start, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def acknowledge(*what):
    print(json.dumps(what), flush=True)

async def register(index, task, number):
    version = await index.register(
        TaskKey(task=task), f"{number:064x}", fingerprint="a" * 64, size=1, metadata={}, now=0
    )
    return version.version

async def one_task(index):
    for number in range(start, start + count):
        version = await register(index, "shared", number)
        await index.set_state(TaskKey(task="shared"), version, "ready", now=0)
        acknowledge("registered", "shared", version)

async def many_tasks(index):
    for number in itertools.count(start):
        task = f"t{number}"
        acknowledge("registered", task, await register(index, task, number))
        await index.set_state(TaskKey(task=task), 1, "ready", now=0)
        acknowledge("ready", task, 1)
        await index.activate(TaskKey(task=task), 1, expected=None, now=0)
        acknowledge("activated", task, 1)
        if number % 2:
            await index.delete_task(TaskKey(task=task), now=0)
            acknowledge("deleted", task, None)

async def main():
    index = open_index(url)
    acknowledge("open")
    sys.stdin.readline()
    await {"one": one_task, "many": many_tasks}[mode](index)
    await index.close()

asyncio.run(main())
"""


def child(url: str, mode: str, start: int, count: int = 0) -> subprocess.Popen[str]:
    """A process that works on the index once it is told to, and prints what was acknowledged."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, mode, str(start), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def acknowledged(lines: list[str]) -> list[tuple[Any, ...]]:
    """The whole lines among those that a child has printed."""
    return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]


async def test_processes_never_share_a_number(index_url: str) -> None:
    """Several processes make the index and register versions of one task at the same time."""
    children = [child(index_url, "one", start=1000 * number, count=20) for number in range(1, 5)]
    for process in children:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in children]
    assert [process.returncode for process in children] == [0] * 4
    numbers = [
        line[2] for output in outputs for line in acknowledged(output.splitlines(keepends=True))[1:]
    ]
    assert sorted(numbers) == list(range(1, 81))
    index = open_index(index_url)
    versions = await index.list_versions(TaskKey(task="shared"), limit=100)
    assert [version.version for version in versions] == list(range(1, 81))
    assert {version.state for version in versions} == {"ready"}
    await index.close()


async def test_kill_loses_nothing_acknowledged(index_url: str) -> None:
    """After kill -9 the events are those acknowledged, and at most the one in flight."""
    seen = 0
    for count in range(1, 11):
        events = [event[:3] for event in work_until_killed(index_url, count, start=1000 * count)]
        index = open_index(index_url)
        stored = [
            (event.kind, event.key.task, event.version)
            for event in await index.changes(seen, limit=EVERYTHING)
        ]
        assert stored[: len(events)] == events
        assert len(stored) - len(events) in (0, 1)
        seen += len(stored)
        assert await tasks_of(index) == tasks_after(await index.changes(0, limit=EVERYTHING))
        await index.close()


def work_until_killed(url: str, count: int, start: int) -> list[tuple[Any, ...]]:
    """Kill a child after `count` acknowledgements; all that it has acknowledged."""
    with child(url, "many", start) as process:
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return acknowledged(lines)


async def tasks_of(index: Index) -> dict[str, dict[str, int]]:
    """The tasks of the default tenant with their active versions."""
    tasks = await index.list_tasks("default", limit=EVERYTHING)
    return {task.key.task: task.active for task in tasks}


def tasks_after(events: list[ChangeEvent]) -> dict[str, dict[str, int]]:
    """The same, told from the events alone."""
    tasks: dict[str, dict[str, int]] = {}
    for event in events:
        if event.kind == "deleted":
            del tasks[event.key.task]
        elif event.kind == "registered":
            tasks.setdefault(event.key.task, {})
        elif event.kind == "activated":
            tasks[event.key.task] = {RESNET: event.version}
    return tasks
