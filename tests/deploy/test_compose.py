"""docker-compose.yml and deploy/gpu.yml: valid, hardened, and in terms that the server knows."""

import json
import re
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from service.settings import Settings
from tests.deploy.memory import needed, size

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "deploy/gpu.yml")


def _load(name):
    return yaml.safe_load((ROOT / name).read_text())


def _default(text):
    """What stands there where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


SERVICES = _load("docker-compose.yml")["services"]


@pytest.fixture(scope="module")
def schema():
    """The Compose specification's own."""
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(vendored.read_text())


@pytest.mark.parametrize("name", FILES)
def test_it_follows_the_compose_specification(name, schema):
    """By the schema of the specification, both files."""
    jsonschema.validate(_load(name), schema)


@pytest.mark.parametrize("name", [*FILES, ".env.example", "Dockerfile"])
def test_every_setting_that_is_named_exists(name):
    """PROTUNING_* is the server's namespace: what it does not know would be ignored in silence."""
    named = set(re.findall(r"PROTUNING_([A-Z_]+)\b", (ROOT / name).read_text()))
    assert named
    assert {setting.lower() for setting in named} <= set(Settings.model_fields)


def test_the_settings_are_accepted(monkeypatch):
    """With every variable at its default, the server's own check takes them, and they fit."""
    for name, value in SERVICES["service"]["environment"].items():
        monkeypatch.setenv(name, _default(value))
    settings = Settings()
    memory = _default(SERVICES["service"]["deploy"]["resources"]["limits"]["memory"])
    (scratch,) = SERVICES["service"]["tmpfs"]
    assert needed(settings, _default(scratch).partition("size=")[2]) <= size(memory)
    stop = SERVICES["service"]["stop_grace_period"]
    assert settings.shutdown_delay + settings.shutdown_timeout + 10 <= float(stop.removesuffix("s"))
    assert f"\npatience={stop.removesuffix('s')}\n" in (ROOT / "deploy/upgrade.sh").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_bounded(name):
    """Read-only, no capabilities, no new privileges, a memory limit and a health check."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    # The image brings the service's own.
    assert name in {"service", "green"} or service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_this_machine(name):
    """Unless somebody asks for it by a variable."""
    for port in SERVICES[name].get("ports", []):
        assert re.match(r"\$\{[A-Z_]+:-127\.0\.0\.1:\d+\}:\d+$", port)


def test_what_others_wait_for_has_a_health_check():
    """Start order goes by health, not by hope."""
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert other == "service" or "healthcheck" in SERVICES[other]


def test_prometheus_asks_where_metrics_are_told_without_a_key():
    """At the port of their own, which is not published."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == "protuning")
    port = SERVICES["service"]["environment"]["PROTUNING_METRICS_PORT"]
    assert [str(found["port"]) for found in job["dns_sd_configs"]] == [port]
    assert "ports" not in SERVICES["service"]
    assert set(SERVICES["service"]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_redis_keeps_what_was_acknowledged():
    """As docs/store.md asks for."""
    lines = (ROOT / "deploy/redis.conf").read_text().splitlines()
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(lines)


def test_redis_refuses_before_the_system_ends_it():
    """A snapshot may double its memory, and that still fits into the container."""
    conf = (ROOT / "deploy/redis.conf").read_text()
    (megabytes,) = re.findall(r"^maxmemory (\d+)mb$", conf, re.MULTILINE)
    assert SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"] == "1g"
    assert 2 * int(megabytes) + 128 <= 1024


def test_another_backbone_is_served_from_the_same_tasks():
    """`green` is `service` with another backbone and address, and starts only if asked for."""
    blue, green = SERVICES["service"], SERVICES["green"]
    different = {name for name in {*blue, *green} if blue.get(name) != green.get(name)}
    assert different == {"profiles", "environment", "ports"}
    settings = {
        name for name, value in green["environment"].items() if blue["environment"][name] != value
    }
    assert settings == {"PROTUNING_BACKBONE", "PROTUNING_WEIGHTS"}
    assert (
        _load("deploy/gpu.yml")["services"]["green"]
        == _load("deploy/gpu.yml")["services"]["service"]
    )
