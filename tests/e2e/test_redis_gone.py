"""A server with keys and limits whose Redis is killed: known keys stay valid, limits are kept."""

import re
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.replica import BACKBONE, PICTURE, WEIGHTS, Replica, until
from tests.redis_servers import RedisServer
from tests.server_processes import ServerProcess

# A tenant may ask about twenty images in ten seconds: two floods in a row are too many.
IMAGES_PER_SECOND = 2
FLOOD = [("images", PICTURE)] * 15


@pytest.fixture
def database(tmp_path):
    """A Redis of this test's own."""
    directory = tmp_path / "redis"
    directory.mkdir()
    with RedisServer(directory, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def server(database, tmp_path):
    """A server with an administrator's key, which keeps everything in that Redis."""
    process = ServerProcess(
        backbone=BACKBONE,
        weights=WEIGHTS,
        index=database.url,
        store=tmp_path / "store",
        bootstrap_key_file=tmp_path / "admin.key",
    )
    yield process
    process.stop()


@pytest.fixture
def client(server):
    """Makes clients with keys of the server."""
    with ExitStack() as stack:

        def make(key):
            replica = Replica(server.address, key)
            stack.callback(replica.http.close)
            return replica

        yield make


def counted_in_memory(admin):
    """How often the server had to count by itself."""
    text = admin.http.get("/metrics").text
    return float(re.search(r"^protuning_limits_in_memory_total (\S+)", text, re.M)[1])


def test_keys_and_limits_outlive_redis(server, client, database, tmp_path):
    """A key works that was seen before and one that was not; no unknown one; floods are refused."""
    assert server.address
    admin = client((tmp_path / "admin.key").read_text().strip())

    def key(scopes):
        wanted = {"tenant": "ours", "scopes": scopes}
        return admin.http.post("/admin/keys", json=wanted).json()["key"]

    limits = {"images_per_second": IMAGES_PER_SECOND}
    assert admin.http.put("/admin/tenants/ours", json=limits).status_code == 200
    seen, unseen = key(["predict", "manage"]), key(["predict"])
    ours = client(seen)
    assert ours.register("flowers", 1).status_code == 201
    assert ours.version("flowers") == 1
    assert counted_in_memory(admin) == 0

    database.kill()
    until(lambda: admin.readiness() == "degraded")
    assert ours.version("flowers") == 1
    assert client(unseen).version("flowers") == 1
    stranger = client(seen[:-4] + "AAAA")
    assert stranger.predict("flowers").status_code == 401
    answers = []

    def flood():
        answers.append(ours.http.post("/tasks/flowers/predict", files=FLOOD))
        return answers[-1].status_code == 429

    until(flood)
    assert {answer.status_code for answer in answers[:-1]} == {200}
    assert float(answers[-1].headers["retry-after"]) > 0
    assert counted_in_memory(admin) >= 2 + len(answers)
    changed = admin.http.put("/admin/tenants/ours", json={})
    assert changed.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "retry-after" in changed.headers

    database.start()
    until(lambda: admin.readiness() == "ready")
    assert admin.http.put("/admin/tenants/ours", json={}).status_code == 200
