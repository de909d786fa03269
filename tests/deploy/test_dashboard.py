"""The dashboard: its queries are about metrics that there are, and Prometheus takes them."""

import json
import subprocess

import pytest
import yaml

from deploy.ask_dashboard import queries
from tests.deploy import monitoring

QUERIES = list(queries(monitoring.DASHBOARD))


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_panels_name_metrics_and_labels_that_there_are(title, query):
    """Each is exported by a server, or recorded by a rule."""
    exported = monitoring.exported()
    assert monitoring.named(query) <= set(exported) | monitoring.RECORDS, title
    for name, labels in monitoring.selected(query).items():
        assert labels <= exported[name] | monitoring.OF_PROMETHEUS, name


def test_prometheus_can_parse_every_query(tmp_path):
    """As rules, which promtool reads with Prometheus' own parser."""
    rules = [{"record": f"q{n}", "expr": query} for n, (_, query) in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = [monitoring.program("promtool"), "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_zero_stands_for_no_series_and_never_beside_some():
    """Without `on()` labelled series and the zero differ, so that both would be drawn."""
    zeroes = [query for _, query in QUERIES if "vector(0)" in query]
    assert zeroes
    assert all(query.endswith(" or on() vector(0)") for query in zeroes)


def test_panels_have_a_place_and_a_name_of_their_own():
    """No two overlap, none is wider than the grid, every panel with data says what it shows."""
    taken = set()
    for panel in monitoring.DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    ids = [panel["id"] for panel in monitoring.DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_question_of_an_operator_has_a_row():
    """Traffic, latency, batches, tiers, tenants, canaries, machine."""
    rows = [panel["title"] for panel in monitoring.DASHBOARD["panels"] if panel["type"] == "row"]
    assert [title.partition(":")[0] for title in rows] == [
        *("Traffic", "Latency", "Batches", "Tiers", "Tenants", "Canaries", "Machine"),
    ]


def test_the_dashboard_is_provisioned_with_its_source():
    """Grafana finds the file, and the panels find the one data source there is."""
    provisioning = monitoring.ROOT / "deploy/grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in sources["datasources"]}
    assert set(_uids(monitoring.DASHBOARD)) == uids == {"prometheus"}
    providers = yaml.safe_load((provisioning / "dashboards/protuning.yml").read_text())["providers"]
    compose = (monitoring.ROOT / "docker-compose.yml").read_text()
    assert f"dashboards:{providers[0]['options']['path']}:ro" in compose


def _uids(part):
    found = json.dumps(part).split('"datasource": {"type": "prometheus", "uid": "')[1:]
    return [text.partition('"')[0] for text in found]
