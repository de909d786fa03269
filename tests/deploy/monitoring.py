"""What tests of rules, dashboard and guide share: the shipped files, and the metrics there are."""

import json
import os
import re
import shutil
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry

from service.metrics import PrometheusMetrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
OWN_FOLDER = ROOT / ".venv" / "prometheus"
# The labels of the scrape, not of the server.
OF_PROMETHEUS = {"instance", "job"}

GROUPS = [
    group
    for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/protuning.json").read_text())


def program(name: str) -> str:
    """The path of prometheus or promtool: the system's, or what `make test` has fetched."""
    found = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{OWN_FOLDER}")
    assert found, f"{name} is missing. Run: deploy/get-prometheus.sh {OWN_FOLDER}"
    return found


def labels_of(registry: CollectorRegistry, family: str) -> set[str]:
    """The labels that a metric was declared with."""
    return set(getattr(registry._names_to_collectors.get(family), "_labelnames", ()))


def exported() -> dict[str, set[str]]:
    """All series that a server can export, each with the names of its labels."""
    registry = PrometheusMetrics()._registry
    series = {}
    for family in registry.collect():
        labels = labels_of(registry, family.name)
        series |= {
            "counter": {f"{family.name}_total": labels},
            "gauge": {family.name: labels},
            "histogram": {
                f"{family.name}_bucket": labels | {"le"},
                f"{family.name}_sum": labels,
                f"{family.name}_count": labels,
            },
        }[family.type]
    return series


def named(query: str) -> set[str]:
    """The metrics and recorded figures of ours that a query names."""
    return set(re.findall(r"\bprotuning[_:][a-z0-9_:]+", query))


def selected(query: str) -> dict[str, set[str]]:
    """The exported metrics that a query selects by labels, and the names of those labels."""
    found: dict[str, set[str]] = {}
    for name, inside in re.findall(r"\b(protuning_[a-z0-9_]+)\{([^}]*)\}", query):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", inside))
    return found
