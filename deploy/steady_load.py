"""Predicts steadily for some seconds, without trying anything twice, and counts what fails.

Run it beside deploy/upgrade.sh: whatever a client would notice of a rolling restart ends up here.

    PROTUNING_API_KEY=... .venv/bin/python deploy/steady_load.py URL TASK IMAGE --seconds 60
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

MOST_SECONDS = 600
MOST_CLIENTS = 64


async def _client(url: str, image: bytes, until: float, seen: Counter[str]) -> None:
    key = os.environ.get("PROTUNING_API_KEY")
    headers = {"x-api-key": key} if key else {}
    async with httpx.AsyncClient(timeout=70, headers=headers) as client:
        while time.monotonic() < until:
            try:
                answer = await client.post(url, files={"images": image})
                seen[str(answer.status_code)] += 1
            except httpx.TransportError as error:
                seen[type(error).__name__] += 1


async def _load(arguments: argparse.Namespace) -> Counter[str]:
    seen: Counter[str] = Counter()
    until = time.monotonic() + min(arguments.seconds, MOST_SECONDS)
    # A slow machine is not what is looked for.
    url = f"{arguments.url}/tasks/{arguments.task}/predict?timeout_ms=60000"
    image = arguments.image.read_bytes()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(arguments.clients, MOST_CLIENTS)):
            group.create_task(_client(url, image, until, seen))
    return seen


def main() -> int:
    """0 if every request was answered with 200."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("task")
    parser.add_argument("image", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    seen = asyncio.run(_load(parser.parse_args()))
    sys.stdout.write(f"{dict(seen)}: {sum(seen.values()) - seen['200']} failed\n")
    return int(set(seen) != {"200"})


if __name__ == "__main__":
    sys.exit(main())
