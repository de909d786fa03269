"""The commands `tasks ...`, against a server of fakes."""

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.client import Client
from tests.service import http_fakes


@pytest.fixture
def run():
    """Runs a command against a server that has flowers in three versions: 3 active, 2 canary."""
    with http_fakes.services() as behind, http_fakes.live(behind) as server:

        def invoke(*arguments):
            done = CliRunner().invoke(app, [*map(str, arguments), "--url", server.address])
            assert done.exit_code == 0, (done.output, done.exception)
            return done.stdout

        with Client(server.address) as client:
            for content in (b"one", b"two", b"three"):
                client.register("flowers", content)
            client.start_canary("flowers", 2, 12.5)
        yield invoke


def _row(table, version):
    cells = [line.split("│")[1:-1] for line in table.splitlines() if "│" in line]
    stripped = [[cell.strip() for cell in row] for row in cells]
    return next(row for row in stripped if row[1] == str(version))


def test_versions_are_marked_by_what_requests_get(run):
    """The active one, the canary with its share, and the others with nothing."""
    table = run("tasks", "versions", "flowers")
    assert [_row(table, version)[-1] for version in (1, 2, 3)] == ["", "canary, 12.5 %", "active"]
    assert _row(table, 1)[2] == "d" * 64
    assert "1970-01-01T00:00:01Z" in _row(table, 1)


def test_lists_are_in_words(run):
    """No JSON, no null, no seconds since 1970."""
    table = run("tasks", "list")
    assert "version 2, percent 12.5" in table
    assert " no " in table
    assert "1970-01-01T00:00:01Z" in table
    for word in ("null", "false", "{", "…"):
        assert word not in table


@pytest.mark.parametrize("percent", ["-5", "101", "nan"])
def test_a_share_that_is_none_is_refused_before_anybody_is_asked(percent):
    """Exit code 2: a typing error ends no canary."""
    done = CliRunner().invoke(app, ["tasks", "canary", "flowers", "2", "--percent", percent])
    assert done.exit_code == 2, done.exception


def test_a_rollback_says_from_where(monkeypatch):
    """So that asking again, because the answer was lost, does not go back further."""
    asked = []
    with http_fakes.services() as behind, http_fakes.live(behind) as server:
        rollback = behind.manager.rollback

        async def telling(key, *, expected=None):
            asked.append(expected)
            return await rollback(key, expected=expected)

        monkeypatch.setattr(behind.manager, "rollback", telling)
        with Client(server.address) as client:
            for content in (b"one", b"two"):
                client.register("flowers", content)
        done = CliRunner().invoke(app, ["tasks", "rollback", "flowers", "--url", server.address])
    assert done.exit_code == 0, done.exception
    assert asked == [2]
