"""Settings: the environment, their bounds, and no open door by mistake."""

import re
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError

from service.cli import app
from service.limits import TenantLimits
from service.settings import Settings, unknown_variables, usable_cores

ROOT = Path(__file__).parents[2]
SOURCES = (".py", ".js", ".sh", ".yml", ".yaml")


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    """Nothing but what a test sets."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PROTUNING_{name.upper()}", raising=False)


def test_arguments_go_before_the_environment_and_that_before_the_default(monkeypatch):
    """Three places, one order."""
    assert Settings().port == 8000
    monkeypatch.setenv("PROTUNING_PORT", "9000")
    assert Settings().port == 9000
    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_loopback_needs_no_keys(host):
    """Nobody else can reach it."""
    assert not Settings(host=host).needs_keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
def test_other_addresses_need_keys_or_insecure(host):
    """An open server has to be asked for."""
    assert Settings(host=host).needs_keys
    assert not Settings(host=host, insecure=True).needs_keys


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"max_images": 0},
        {"body_timeout": 0},
        {"body_timeout": float("inf")},
        {"batch_window_ms": -1},
        {"engine": "abacus"},
        {"timeout_ms": 90_000},
        {"max_body_bytes": 2**29 + 1},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused(wrong):
    """A typing mistake ends the start, not a request later."""
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_the_state_directory_follows_the_environment(monkeypatch):
    """Where nothing is said, index and checkpoints lie below XDG_STATE_HOME."""
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert Settings().index == "sqlite:////var/state/protuning/index.db"
    assert Settings().store == "/var/state/protuning/store"


def test_every_setting_is_a_flag_with_a_description():
    """The same names on the command line, none missing, each explained."""
    command = typer.main.get_command(app).commands["serve"]
    assert [parameter.name for parameter in command.params] == [*Settings.model_fields]
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_rates_are_counted_where_the_index_is_unless_told():
    """In a plain Redis for all servers, else in memory."""
    assert Settings().rate_limits_redis is None
    assert Settings(index="redis://r/0").rate_limits_redis == "redis://r/0"
    assert Settings(index="redis+sentinel://s/g").rate_limits_redis is None
    assert Settings(index="redis://r/0", rate_limits="memory").rate_limits_redis is None
    assert Settings(rate_limits="rediss://other").rate_limits_redis == "rediss://other"
    with pytest.raises(ValidationError, match="rate_limits"):
        Settings(rate_limits="memcached://x")


def test_the_defaults_of_tenants_are_settings():
    """Those that are not set stay those of `TenantLimits`."""
    limits = Settings(tenant_images_per_second=5, tenant_tasks=3).tenant_limits
    assert (limits.images_per_second, limits.tasks, limits.requests_per_second) == (5, 3, None)
    defaults = {name: field.default for name, field in TenantLimits.model_fields.items()}
    assert Settings().tenant_limits.model_dump() == defaults


def test_variables_that_set_nothing_are_told_with_what_was_meant():
    """A typing mistake, and what nobody could guess; not those of other commands or programs."""
    names = [
        *("PROTUNING_ADAPTER_MEMORY_BYTE", "protuning_http_worker", "PROTUNING_X"),
        *("PROTUNING_PORT", "protuning_port", "PROTUNING_URL", "PROTUNING_TO_STORE", "PATH"),
    ]
    assert unknown_variables(names) == {
        "PROTUNING_ADAPTER_MEMORY_BYTE": "PROTUNING_ADAPTER_MEMORY_BYTES",
        "protuning_http_worker": "PROTUNING_HTTP_WORKERS",
        "PROTUNING_X": None,
    }


def test_every_variable_that_the_project_reads_is_known():
    """Nobody is warned of what a command, a script or Compose takes."""
    parts = [ROOT / part for part in ("adapters", "service", "training", "benchmarks", "deploy")]
    files = [path for part in parts for path in part.rglob("*") if path.suffix in SOURCES]
    files += [ROOT / name for name in ("Makefile", "Dockerfile", "docker-compose.yml")]
    names = {n for file in files for n in re.findall(r"PROTUNING_[A-Z_]*[A-Z]\b", file.read_text())}
    assert "PROTUNING_API_KEY" in names
    assert unknown_variables(names) == {}


def test_decoders_follow_the_cores_that_are_ours(tmp_path, monkeypatch):
    """The affinity, and a container's quota where that is less; never none."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    quota = tmp_path / "cpu.max"
    assert usable_cores(quota) == 8
    for text, cores in [("max 100000", 8), ("250000 100000", 3), ("5000 100000", 1)]:
        quota.write_text(f"{text}\n")
        assert usable_cores(quota) == cores
