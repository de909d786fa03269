"""`python -m benchmarks.peers`: this project against each peer, A B A B, on the same machine.

What is compared is throughput and, because neighbours on the machine disturb it less than a clock,
the processor time of an image: all processes of a server together, with one thread for each model
run. Latencies are those of a closed loop.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from benchmarks import load
from benchmarks.processes import cpu_seconds, family, memory_bytes
from benchmarks.server import jpeg, send

FOLDER = Path(__file__).parent
SERVERS = ("fastapi_timm", "litserve_timm", "ray_timm")
LIBRARIES = ("peft_lora", "adapterhub_vit")
CONNECTIONS = 16
STARTING_SECONDS = 600.0


class _Round(NamedTuple):
    images_per_second: float
    cpu_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Comparison:
    """Medians over the rounds; in all factors more is better for us."""

    peer: str
    tasks: int
    our_images_per_second: float
    their_images_per_second: float
    throughput_factor: float
    our_cpu_ms: float
    their_cpu_ms: float
    cpu_factor: float
    p99_factor: float
    our_mebibytes: float
    their_mebibytes: float


@dataclass(frozen=True)
class _Contestant:
    """Something that runs: one round of it, and its memory."""

    round: Callable[[float], _Round]
    memory: Callable[[], int]


def compare(peer: str, ours: _Contestant, theirs: _Contestant, given: argparse.Namespace) -> None:
    """A B A B, once more before they count; prints a line of JSON."""
    rounds = [
        (ours.round(given.seconds), theirs.round(given.seconds)) for _ in range(1 + given.rounds)
    ]
    rounds = rounds[1:]
    comparison = Comparison(
        peer=peer,
        tasks=given.tasks,
        our_images_per_second=statistics.median(a.images_per_second for a, _ in rounds),
        their_images_per_second=statistics.median(b.images_per_second for _, b in rounds),
        throughput_factor=statistics.median(
            a.images_per_second / b.images_per_second for a, b in rounds
        ),
        our_cpu_ms=statistics.median(a.cpu_ms for a, _ in rounds),
        their_cpu_ms=statistics.median(b.cpu_ms for _, b in rounds),
        cpu_factor=statistics.median(b.cpu_ms / a.cpu_ms for a, b in rounds),
        p99_factor=statistics.median(b.p99_ms / a.p99_ms for a, b in rounds),
        our_mebibytes=ours.memory() / 2**20,
        their_mebibytes=theirs.memory() / 2**20,
    )
    sys.stdout.write(json.dumps(asdict(comparison)) + "\n")
    sys.stdout.flush()


@contextmanager
def _process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in reversed(family(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _line(process: subprocess.Popen[str], start: str) -> str:
    """The next line that begins with `start`: libraries say all kinds of things."""
    assert process.stdout is not None  # noqa: S101  a pipe
    while line := process.stdout.readline():
        if line.startswith(start):
            return line.removeprefix(start)
    raise SystemExit(f"{process.args!r} ended before it had said {start!r}.")


@contextmanager
def library(command: list[str], folder: Path) -> Iterator[_Contestant]:
    """A program that runs rounds when it is told to."""
    with _process(command, folder) as process:
        _line(process, "ready")

        def run(seconds: float) -> _Round:
            assert process.stdin is not None  # noqa: S101  a pipe
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            return _Round(**json.loads(_line(process, "round ")))

        yield _Contestant(run, lambda: memory_bytes(process.pid))


@contextmanager
def server(command: list[str], folder: Path, tasks: int, port: int | None) -> Iterator[_Contestant]:
    """A program that serves; on the port that it says, unless it was told one."""
    with _process(command, folder) as process:
        at = int(_line(process, "port ")) if port is None else port
        is_litserve = any("litserve" in part for part in command)
        requests = _json_requests(tasks) if is_litserve else _raw_requests(tasks)
        _wait_until_it_answers(at, requests, process)

        def run(seconds: float) -> _Round:
            before = cpu_seconds(process.pid)
            plan = load.Plan("127.0.0.1", at, requests, CONNECTIONS, seconds)
            report = asyncio.run(send(plan))
            spent = cpu_seconds(process.pid) - before
            if report.refused or not report.answered:
                raise SystemExit(f"{command} refused {report.refused} requests.")
            p99 = float(np.percentile(report.latencies, 99))
            throughput = report.answered / report.wall_seconds
            return _Round(throughput, 1e3 * spent / report.answered, 1e3 * p99)

        yield _Contestant(run, lambda: memory_bytes(process.pid))


def _raw_requests(tasks: int) -> list[load.Sent]:
    return [
        (
            f"/tasks/task{number % tasks}/predict",
            {"Content-Type": "image/jpeg", "serve_multiplexed_model_id": str(number % tasks)},
            base64.b64encode(jpeg(224, number)).decode(),
        )
        for number in range(max(tasks, 13))
    ]


def _json_requests(tasks: int) -> list[load.Sent]:
    bodies = (
        {"task": number % tasks, "image": base64.b64encode(jpeg(224, number)).decode()}
        for number in range(max(tasks, 13))
    )
    return [
        (
            "/predict",
            {"Content-Type": "application/json"},
            base64.b64encode(json.dumps(body).encode()).decode(),
        )
        for body in bodies
    ]


def _wait_until_it_answers(
    port: int, requests: list[load.Sent], process: subprocess.Popen[str]
) -> None:
    """Until every task has answered once: what is loaded on demand is loaded by then."""
    give_up_at = time.monotonic() + STARTING_SECONDS
    for path, headers, body in requests:
        while not _answers(f"http://127.0.0.1:{port}{path}", headers, base64.b64decode(body)):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"{process.args!r} does not answer.")
            time.sleep(0.5)


def _answers(url: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        return httpx.post(url, content=body, headers=headers, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def main() -> None:
    """Every peer that was asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--backbone", default="deit_small_patch16_224")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--environments", type=Path, default=FOLDER.parents[1] / ".peers")
    parser.add_argument("peers", nargs="*", default=[*SERVERS, *LIBRARIES])
    given = parser.parse_args()
    about = [given.backbone, str(given.tasks)]
    ours = [sys.executable, "-m", "benchmarks.peers.ours", *about]
    ours += ["--engine", given.engine, "--dtype", given.dtype]
    root = FOLDER.parents[1]
    for peer in given.peers:
        name = peer.partition("_")[0]
        python = sys.executable if name == "fastapi" else f"{given.environments}/{name}/bin/python"
        if peer in SERVERS:
            port = _free_port()
            theirs = [python, f"{peer}.py", *about, str(port)]
            with (
                server(ours, root, given.tasks, None) as us,
                server(theirs, FOLDER, given.tasks, port) as them,
            ):
                compare(peer, us, them, given)
        else:
            theirs = [python, f"{peer}.py", *about, "8"]
            with library([*ours, "--batches"], root) as us, library(theirs, FOLDER) as them:
                compare(peer, us, them, given)


if __name__ == "__main__":
    main()
