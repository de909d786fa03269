"""This project, as a server on a free port or, with `--batches`, as a library like the others."""

import argparse
import asyncio
import sys
from typing import get_args

from adapters.backbone import load_backbone
from benchmarks.engine import mixed_batch, random_images
from benchmarks.peers.batches import serve_rounds
from benchmarks.server import open_bench
from service.engines.choice import DtypeChoice, EngineKind
from service.heap import prefer_huge_pages

BATCH = 8


async def main(given: argparse.Namespace) -> None:
    """Serve until the standard input ends."""
    prefer_huge_pages()
    opened = open_bench(
        load_backbone(given.backbone, "random"),
        tasks=given.tasks,
        batch=BATCH,
        kind=given.engine,
        dtype=given.dtype,
        http_workers=0,
    )
    async with opened as bench:
        images = random_images(bench.engine.spec, BATCH)

        def run(number: int) -> None:
            bench.engine.run(mixed_batch(images, bench.slots, start=BATCH * number))

        if given.batches:
            await asyncio.to_thread(serve_rounds, run, BATCH)
            return
        sys.stdout.write(f"port {bench.address[1]}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("tasks", type=int)
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--engine", choices=get_args(EngineKind), default="torch")
    parser.add_argument("--dtype", choices=get_args(DtypeChoice), default="float32")
    asyncio.run(main(parser.parse_args()))
