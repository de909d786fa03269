"""The commands `tenants ...`, against a server of fakes."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.limits import TenantLimits
from tests.service import http_fakes


@pytest.fixture
def behind():
    """Everything behind the server's routes; no key is needed."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
def run(behind):
    """Runs a command against that server."""
    with http_fakes.live(behind) as server:

        def invoke(*arguments):
            done = CliRunner().invoke(
                app, ["tenants", *map(str, arguments), "--url", server.address]
            )
            assert done.exit_code == 0, (done.output, done.exception)
            return done.stdout

        yield invoke


def _names(run):
    return [each["tenant"] for each in json.loads(run("list", "--json"))]


def test_limits_are_set_listed_and_reset(run, behind):
    """What is not named has its default again; who has no limits of its own is not listed."""
    assert run("list") == "There are none.\n"
    run("limit", "acme", "--images-per-second", 50, "--weight", 2)
    again = json.loads(run("limit", "acme", "--tasks", 7, "--json"))
    assert again["overridden"] == ["tasks"]
    run("limit", "zoo", "--priority", 1)
    assert _names(run) == ["acme", "zoo"]
    table = run("list")
    assert "tasks 7" in table
    assert "zoo" in table
    assert json.loads(run("show", "acme", "--json")) == again
    assert "overridden" in run("reset", "acme")
    assert _names(run) == ["zoo"]
    assert json.loads(run("reset", "zoo", "--json"))["overridden"] == []
    assert behind.quotas.overridden() == {}


def test_more_tenants_than_a_page_holds_are_listed(run, behind):
    """All of them, by name."""
    names = [f"tenant-{number:03}" for number in range(101)]

    async def limit_all():
        for name in names:
            await behind.quotas.override(name, TenantLimits(weight=2))

    asyncio.run(limit_all())
    assert _names(run) == names


def test_wrong_limits_are_told_before_anybody_is_asked():
    """Exit code 2, no traceback."""
    done = CliRunner().invoke(app, ["tenants", "limit", "acme", "--weight", "0"])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
