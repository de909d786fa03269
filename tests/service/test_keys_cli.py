"""The commands `keys ...`, against a server and on an index without one."""

import asyncio
import json
import time

import pytest
from typer.testing import CliRunner

from adapters.store.opening import open_records
from service.cli import app
from service.keys import KeyRing
from service.policies import Policies
from service.tenants import Key, Principal
from tests.service import http_fakes


def _run(*arguments, key=None):
    environment = {} if key is None else {"PROTUNING_API_KEY": key}
    return CliRunner().invoke(app, ["keys", *map(str, arguments)], env=environment)


def test_create_list_and_revoke_through_a_server():
    """The key of the environment is used, and shown by no command but the one that made it."""
    with http_fakes.services() as behind, http_fakes.live(behind) as server:
        url = ("--url", server.address)
        first = json.loads(_run("create", "--scope", "admin", "--json", *url).stdout)
        secret = first["key"]
        assert _run("list", *url).exit_code != 0
        made = _run("create", "--tenant", "acme", "--expires-days", 1, *url, key=secret)
        assert made.stdout.startswith("pt_")
        listed = _run("list", "--tenant", "acme", "--json", *url, key=secret)
        (acme,) = json.loads(listed.stdout)
        assert (acme["tenant"], acme["scopes"]) == ("acme", ["predict"])
        assert acme["expires_at"] == pytest.approx(time.time() + 86_400, abs=600)
        assert secret not in listed.output
        assert _run("revoke", acme["id"], *url, key=secret).exit_code == 0
        refused = _run("revoke", "0" * 16, *url, key=secret)
        assert refused.exit_code != 0
        assert secret not in refused.output + str(refused.exception)


def test_a_first_key_is_made_on_the_index_itself(tmp_path):
    """Before any server runs; a server on that index knows it."""
    index = f"sqlite:///{tmp_path}/index.db"
    made = _run("create", "--scope", "predict", "--scope", "admin", "--index", index)
    assert made.exit_code == 0, made.output
    assert "is new, and empty" in made.stderr
    assert "new" not in _run("create", "--index", index).stderr

    async def who():
        records = open_records(index)
        try:
            ring = KeyRing(Policies(records, (Key,)), required=False)
            return await ring.authenticate(made.stdout.strip())
        finally:
            await records.close()

    assert asyncio.run(who()) == Principal(
        "default", frozenset({"predict", "admin"}), made.stdout.split("_")[1]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ("--tenant", "NOT ONE"),
        ("--scope", "root"),
        ("--expires-days", "-1"),
        ("--expires-days", "0"),
    ],
    ids=str,
)
def test_wrong_parameters_are_told_before_anybody_is_asked(wrong):
    """Exit code 2, no traceback."""
    done = _run("create", *wrong)
    assert done.exit_code == 2
    assert "Traceback" not in done.output
