"""Asks a Prometheus every query of the dashboard, and fails where one returns no data.

python deploy/ask_dashboard.py http://127.0.0.1:9090
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

DASHBOARD = Path(__file__).with_name("grafana") / "dashboards" / "protuning.json"
# What Grafana puts in place of its variable: four times the interval between two scrapes.
RATE_INTERVAL = "40s"


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The title of each panel with each of its queries, ready to be asked."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", RATE_INTERVAL)


def _values(url: str, query: str) -> list[float]:
    """What comes back as numbers; those that are none are left out."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query})
    result = answer.raise_for_status().json()["data"]["result"]
    numbers = (float(sample["value"][1]) for sample in result)
    return [number for number in numbers if not math.isnan(number)]


def main(url: str) -> int:
    """0 if every panel has data."""
    empty = 0
    for title, query in queries(json.loads(DASHBOARD.read_text())):
        values = _values(url, query)
        empty += not values
        shown = ", ".join(f"{value:.3g}" for value in values[:4]) or "NO DATA"
        sys.stdout.write(f"{title}: {shown}\n")
    sys.stdout.write(f"{empty} queries without data\n")
    return int(bool(empty))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
