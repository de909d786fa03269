"""Three servers on one Redis and one store: what one does holds for all; Redis may be killed."""

import threading
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.replica import BACKBONE, WEIGHTS, Replica, until
from tests.redis_servers import RedisServer
from tests.server_processes import ServerProcess

KILLS = 3


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A Redis that loses nothing when it is killed."""
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(scope="module")
def replicas(database, tmp_path_factory):
    """Three servers that would not look at the index within the tests, were it not for hints."""
    store = tmp_path_factory.mktemp("store")
    with ExitStack() as stack:
        processes = []
        for _ in range(3):
            process = ServerProcess(
                backbone=BACKBONE,
                weights=WEIGHTS,
                index=database.url,
                store=store,
                watch_period=3_600,
            )
            stack.callback(process.stop)
            processes.append(process)
        replicas = [Replica(process.address) for process in processes]
        for replica in replicas:
            stack.callback(replica.http.close)
        yield replicas


def test_what_one_registers_all_serve(replicas):
    """A new task at once, a new version as soon as the others hear; each has its own tiers."""
    one, two, three = replicas
    loaded = three.loaded()
    assert one.register("flowers", 1).status_code == 201
    assert (one.version("flowers"), two.version("flowers")) == (1, 1)
    assert three.loaded() == loaded
    assert three.version("flowers") == 1
    assert three.loaded() == loaded + 1
    assert two.register("flowers", 2).json()["version"] == 2
    until(lambda: one.version("flowers") == three.version("flowers") == 2)
    scores = [replica.predict("flowers").json()["predictions"] for replica in replicas]
    assert scores[0] == scores[1] == scores[2]


def test_a_rollback_and_a_delete_take_effect_everywhere(replicas):
    """Whichever server is told, none goes on with what was."""
    one, two, three = replicas
    for seed in (1, 2):
        assert one.register("birds", seed).status_code == 201
    until(lambda: all(replica.version("birds") == 2 for replica in replicas))
    assert two.http.post("/tasks/birds/rollback").status_code == 200
    until(lambda: all(replica.version("birds") == 1 for replica in replicas))
    assert three.http.delete("/tasks/birds").status_code in (200, 204)
    until(lambda: all(replica.version("birds") is None for replica in replicas))


class Load:
    """Threads that ask a resident task, and register new ones, until they are told to stop."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.answers: list[int] = []
        self.acknowledged: list[str] = []
        self.refusals: list[httpx.Response] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=[replica]) for replica in replicas
        ] + [threading.Thread(target=self._register, args=[replicas[0]])]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, replica: Replica) -> None:
        while not self._stop.is_set():
            self.answers.append(replica.predict("resident").status_code)

    def _register(self, replica: Replica) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            answer = replica.register(f"new-{number}", 1)
            if answer.status_code == 201:
                self.acknowledged.append(f"new-{number}")
            else:
                self.refusals.append(answer)


def test_redis_is_killed_and_comes_back(replicas, database):
    """No prediction of a resident task fails, and no registration that was acknowledged is lost."""
    assert replicas[0].register("resident", 1).status_code == 201
    assert [replica.version("resident") for replica in replicas] == [1, 1, 1]
    with Load(replicas) as load:
        for _ in range(KILLS):
            served, registered = len(load.answers), len(load.acknowledged)
            until(lambda: len(load.acknowledged) > registered)  # noqa: B023
            database.kill()
            refused = len(load.refusals)
            until(lambda: len(load.refusals) > refused)  # noqa: B023
            until(lambda: {replica.readiness() for replica in replicas} == {"degraded"})
            until(lambda: len(load.answers) > served + 3)  # noqa: B023
            database.start()
        registered = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > registered)
    assert set(load.answers) == {200}
    assert {refusal.status_code for refusal in load.refusals} == {503}
    assert all(int(refusal.headers["retry-after"]) > 0 for refusal in load.refusals)
    for replica in replicas:
        until(lambda replica=replica: replica.readiness() == "ready")
        assert [replica.version(task) for task in load.acknowledged[-3:]] == [1, 1, 1]
    with database.client() as client:
        kept = set(client.zrange("{protuning}:tasks:default", 0, -1))
    assert set(load.acknowledged) <= kept


def test_changes_during_an_outage_are_caught_up(replicas, database):
    """What another server did while one could not hear is known once Redis is back."""
    one, two, _ = replicas
    for seed in (1, 2):
        assert one.register("late", seed).status_code == 201
    until(lambda: two.version("late") == 2)
    database.kill()
    assert two.version("late") == 2
    database.start()
    until(lambda: one.http.post("/tasks/late/rollback").status_code == 200)
    until(lambda: all(replica.version("late") == 1 for replica in replicas))
