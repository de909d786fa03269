"""How a library's mixed batches are timed: on demand, for some seconds, in its own process."""

import json
import sys
import time
from collections.abc import Callable

import numpy as np


def serve_rounds(run: Callable[[int], object], batch: int) -> None:
    """For each line of the standard input, that many seconds of `run(number)`: a report.

    `run` is given a running number, and runs `batch` images of as many tasks.
    """
    number = 0
    run(number)
    _say("ready")
    for line in sys.stdin:
        latencies: list[float] = []
        cpu, since = time.process_time(), time.perf_counter()
        while (began_at := time.perf_counter()) < since + float(line):
            number += 1
            run(number)
            latencies.append(time.perf_counter() - began_at)
        images = batch * len(latencies)
        found = {
            "images_per_second": images / (time.perf_counter() - since),
            "cpu_ms": 1e3 * (time.process_time() - cpu) / images,
            "p99_ms": 1e3 * float(np.percentile(latencies, 99)),
        }
        _say(f"round {json.dumps(found)}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
