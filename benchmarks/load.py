"""A load generator that costs little: keep-alive connections, in a process with its own account.

`python -m benchmarks.load` reads a plan as JSON from its standard input, says "ready", waits for a
line, and prints a report as JSON. Closed loop: each connection sends its next request when it has
its answer. Open loop: requests come at random times at a given rate (Poisson), whatever the server
does, and a latency counts from the time at which the request was due.
"""

import asyncio
import base64
import dataclasses
import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

import httptools

Sent = tuple[str, dict[str, str], str]


@dataclass(frozen=True)
class Plan:
    """What to send.

    Args:
        host: The server's.
        port: The server's.
        requests: Path, headers and body (in base64) of each; they take turns.
        connections: Kept open in a closed loop; at most so many in an open one.
        seconds: How long to send.
        rate: Requests per second of an open loop; None for a closed one.
        key: An API key that goes along.
        seed: Of the random times.
    """

    host: str
    port: int
    requests: list[Sent]
    connections: int
    seconds: float
    rate: float | None = None
    key: str | None = None
    seed: int = 0


@dataclass
class Report:
    """What came back. `cpu_seconds` is what sending and reading cost this process."""

    answered: int = 0
    refused: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server has taken the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  what TCP gives
        self._transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        """The server has closed it, or was closed."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._transport is None or self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """A piece of an answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The end of an answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())
        self._parser = httptools.HttpResponseParser(self)

    async def ask(self, request: bytes) -> int:
        """The status of the answer, 0 where the connection was lost."""
        assert self._transport is not None  # noqa: S101  connected by whoever made this
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


async def run(plan: Plan) -> Report:
    """Send, and report."""
    report = Report()
    requests = cycle(_requests(plan))
    pool = [await _connect(plan) for _ in range(plan.connections)]
    _wait_for_start()
    cpu, started = _cpu_seconds(), time.monotonic()
    if plan.rate is None:
        await asyncio.gather(
            *(_closed(each, requests, started + plan.seconds, report) for each in pool)
        )
    else:
        await _open(plan, pool, requests, report)
    report.wall_seconds = time.monotonic() - started
    report.cpu_seconds = _cpu_seconds() - cpu
    return report


async def _closed(
    connection: _Connection, requests: Iterator[bytes], until: float, report: Report
) -> None:
    while (began_at := time.monotonic()) < until:
        _count(await connection.ask(next(requests)), began_at, report)


async def _open(
    plan: Plan, pool: list[_Connection], requests: Iterator[bytes], report: Report
) -> None:
    assert plan.rate is not None  # noqa: S101  the caller has looked
    generator = random.Random(plan.seed)  # noqa: S311  arrivals, not secrets
    # The one used last first, so that the others may idle until the server closes them.
    free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
    for connection in pool:
        free.put_nowait(connection)

    async def ask(due: float) -> None:
        connection = await free.get()
        if connection.is_closed:
            connection = await _connect(plan)
        _count(await connection.ask(next(requests)), due, report)
        free.put_nowait(connection)

    due = started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while due < started + plan.seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(ask(due))
            due += generator.expovariate(plan.rate)


def _count(status: int, began_at: float, report: Report) -> None:
    if status == 200:
        report.answered += 1
        report.latencies.append(time.monotonic() - began_at)
    else:
        report.refused += 1


async def _connect(plan: Plan) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        _Connection, plan.host, plan.port
    )
    return connection


def _requests(plan: Plan) -> list[bytes]:
    """What is written to a connection."""
    key = {} if plan.key is None else {"X-API-Key": plan.key}
    return [_written(path, {**headers, **key}, body) for path, headers, body in plan.requests]


def _written(path: str, headers: dict[str, str], encoded: str) -> bytes:
    body = base64.b64decode(encoded)
    named = {"Host": "127.0.0.1", "Content-Length": len(body), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _wait_for_start() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main() -> None:
    """Do what the first line of the standard input says."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    json.dump(dataclasses.asdict(asyncio.run(run(plan))), sys.stdout)


if __name__ == "__main__":
    main()
