"""What tests of rules, dashboard and guide share: the shipped files, and the metrics there are."""

import json
import os
import re
import shutil
from pathlib import Path

import yaml

from service.metrics import PrometheusMetrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
OWN_FOLDER = ROOT / ".venv" / "prometheus"

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


def exported() -> set[str]:
    """The names of all series that a server can export."""
    metrics = PrometheusMetrics()
    names = set()
    for family in metrics._registry.collect():
        names |= {
            "counter": {f"{family.name}_total"},
            "gauge": {family.name},
            "histogram": {f"{family.name}_{part}" for part in ("bucket", "sum", "count")},
        }[family.type]
    return names


def named(query: str) -> set[str]:
    """The metrics and recorded figures of ours that a query names."""
    return set(re.findall(r"\bprotuning[_:][a-z0-9_:]+", query))
