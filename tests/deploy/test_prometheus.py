"""Prometheus' configuration and rules: checked by promtool, and about metrics that there are."""

import re
import subprocess

import pytest
import yaml

import adapters.errors
import service.errors
from service.predict import _outcome
from tests.deploy import monitoring


def _promtool(*arguments):
    command = [monitoring.program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_configuration_and_its_rules():
    """As Prometheus itself reads them."""
    _promtool("check", "config", monitoring.PROMETHEUS / "prometheus.yml")


def test_the_alerts_fire_when_they_should_and_not_otherwise():
    """Their unit tests, by promtool."""
    _promtool("test", "rules", monitoring.PROMETHEUS / "tests" / "alerts.yml")


def test_every_alert_has_a_unit_test():
    """One in which it fires."""
    tests = (monitoring.PROMETHEUS / "tests" / "alerts.yml").read_text()
    for alert in monitoring.ALERTS:
        fires = rf"alertname: {alert['alert']}\n\s+exp_alerts:"
        assert re.search(fires, tests), alert["alert"]


@pytest.mark.parametrize("rule", monitoring.RULES, ids=lambda rule: next(iter(rule.values())))
def test_rules_name_metrics_and_labels_that_there_are(rule):
    """Each is exported by a server, or recorded by another rule."""
    exported = monitoring.exported()
    assert monitoring.named(rule["expr"]) <= set(exported) | monitoring.RECORDS
    for name, labels in monitoring.selected(rule["expr"]).items():
        assert labels <= exported[name] | monitoring.OF_PROMETHEUS, name


def test_the_unit_tests_of_rules_are_about_series_that_a_server_exports():
    """With exactly the labels that it gives them, beside those that Prometheus adds."""
    tests = yaml.safe_load((monitoring.PROMETHEUS / "tests" / "alerts.yml").read_text())["tests"]
    exported = monitoring.exported() | {"up": set()}
    for series in {each["series"] for test in tests for each in test["input_series"]}:
        name, _, inside = series.partition("{")
        labels = set(re.findall(r'(\w+)="', inside))
        assert labels - monitoring.OF_PROMETHEUS == exported[name], series


def test_the_outcomes_that_rules_name_are_errors_that_there_are():
    """A renamed error would count as the server's own failure from then on."""
    rules = "".join(rule["expr"] for rule in monitoring.RULES)
    patterns = re.findall(r'(?:outcome|reason)[!=]~?"([^"]+)"', rules)
    names = {name for pattern in patterns for name in pattern.split("|")} - {"ok"}
    assert len(names) > 5
    errors = {*vars(service.errors), *vars(adapters.errors), _outcome(TimeoutError())}
    assert names - errors == {"RequestCancelled"} - errors
