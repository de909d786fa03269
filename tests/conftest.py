"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.redis_servers import RedisServer
from tests.s3_servers import S3Server

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a person ask for counts that take many minutes; everybody else gets small ones."""
    parser.addoption("--full", action="store_true", help="Large counts where tests have them.")


def pytest_configure(config: pytest.Config) -> None:
    """Large counts take as long as they take; anything else that runs so long hangs."""
    if config.getoption("--full"):
        config.option.timeout = 0


@pytest.fixture(scope="session", autouse=True)
def _deterministic() -> None:
    """Make torch refuse what it cannot do the same way twice."""
    torch.use_deterministic_algorithms(mode=True)


@pytest.fixture(scope="session")
def real_inputs() -> Path:
    """The folder with real weights and images; tests that need it are not run without it."""
    folder = Path(os.environ.get("PROTUNING_REAL_INPUTS", ROOT.parent / "shared")).resolve()
    if not (folder / "weights").is_dir():
        pytest.skip(f"not run: no real inputs at {folder} (set PROTUNING_REAL_INPUTS)")
    return folder


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps nothing; who uses it takes `emptied`."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster of one node that has all slots."""
    arguments = ("--save", "", "--cluster-enabled", "yes")
    with RedisServer(tmp_path_factory.mktemp("cluster"), *arguments) as server:
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        server.read_log_until("Cluster state changed: ok")
        server.url = server.url.replace("redis://", "redis+cluster://").rpartition("/")[0]
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 with one empty bucket; who uses it takes a prefix of their own."""
    with pytest.MonkeyPatch.context() as environment, S3Server() as server:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server
