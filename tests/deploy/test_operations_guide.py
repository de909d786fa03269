"""docs/operations.md keeps up with what it is about: alerts, settings, scripts."""

import re

import pytest

from service.settings import Settings
from tests.deploy import monitoring

GUIDE = (monitoring.ROOT / "docs/operations.md").read_text()


def _headings(level):
    return re.findall(rf"^{'#' * level} (.+)$", GUIDE, re.MULTILINE)


def test_every_alert_has_its_heading_and_links_to_it():
    """In the order of the rules; no heading without an alert, none in plain air."""
    section = GUIDE.partition("\n## Alerts\n")[2]
    assert re.findall(r"^### (.+)$", section, re.MULTILINE) == [
        alert["alert"] for alert in monitoring.ALERTS
    ]
    for alert in monitoring.ALERTS:
        runbook = f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook"] == runbook


def test_every_link_inside_leads_somewhere():
    """Headings as GitHub makes anchors of them."""
    anchors = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in _headings(2)}
    anchors |= {text.lower() for text in _headings(3)}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors


def test_every_setting_that_it_names_exists():
    """A renamed setting would be set in vain."""
    named = {name.lower() for name in re.findall(r"PROTUNING_([A-Z_]+)", GUIDE)}
    # Read by clients.
    assert named - {"api_key"} <= set(Settings.model_fields)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\bdeploy/[\w./-]+\w", GUIDE))))
def test_every_file_that_it_names_exists(path):
    """Scripts and charts are where it says."""
    assert (monitoring.ROOT / path).exists()


def test_every_panel_that_it_names_exists():
    """In italics, by the title on the dashboard."""
    titles = {panel["title"] for panel in monitoring.DASHBOARD["panels"]}
    rows = {title.partition(":")[0] for title in titles}
    known = titles | rows | {"Alerts", "Status, Targets", "fingerprint"}
    italics = re.findall(r"(?<!\*)\*([A-Z][\w ,]{3,40})\*(?!\*)", GUIDE)
    assert {text for text in italics if text not in known} == set()
