"""docs/metrics.md: its table lists what the registry exports, and nothing else."""

import re
from pathlib import Path

from service.metrics import PrometheusMetrics
from tests.deploy.monitoring import labels_of

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def _row(line):
    name, kind, labels, _unit, _meaning = line.strip("| ").split(" | ")
    return name.strip("`"), (kind, set(re.findall(r"`(\w+)`", labels)))


def test_every_metric_is_in_the_table_with_its_type_and_labels():
    """As they are declared; a counter's series ends in `_total`."""
    registry = PrometheusMetrics()._registry
    exported = {}
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exported[name] = (family.type, labels_of(registry, family.name))
    lines = re.findall(r"^\| `(?:protuning|process)_.*$", PAGE.read_text(), re.MULTILINE)
    rows = [_row(line.replace("| |", "| - |")) for line in lines]
    assert len(rows) == len(dict(rows))
    assert dict(rows) == exported


def test_every_label_is_explained():
    """By a row of its own, and no row is about a label that no metric has."""
    about_labels = PAGE.read_text().partition("| label | values |")[2]
    rows = re.findall(r"^\| `(\w+)` \|", about_labels, re.MULTILINE)
    registry = PrometheusMetrics()._registry
    labels = set().union(*(labels_of(registry, each.name) for each in registry.collect()))
    assert {*rows} | {"phase", "kind"} == labels, "phases and kinds stand at their metrics"
