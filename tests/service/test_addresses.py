"""Addresses that cannot be had, told before anything is loaded."""

import json
import socket
import subprocess
import sys

import pytest

from service.errors import AddressUnavailable
from service.http.drain import Drain
from service.http.server import DrainingServer, SideServer, address_of, reserve
from service.serve import serve
from service.settings import Settings


@pytest.fixture
def taken():
    """A port of the loopback that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_reserved_address_refuses_until_it_is_served():
    """Nobody waits for a server that is still loading; then it is there."""
    with reserve("127.0.0.1", 0) as reserved:
        address = reserved.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=20)
        reserved.listen()
        socket.create_connection(address, timeout=20).close()
        assert address_of(reserved) == f"http://127.0.0.1:{address[1]}"


def test_an_address_that_another_has_is_told_with_the_way_out(taken):
    """The port, and the flag to take another; of the operators' port the other flag."""
    with pytest.raises(AddressUnavailable, match=f"port {taken} is in use.* --port"):
        reserve("127.0.0.1", taken)
    with pytest.raises(AddressUnavailable, match="--metrics-port"):
        reserve("127.0.0.1", taken, flags="--metrics-")


def test_an_address_of_another_machine_is_told():
    """What the system says of it comes along."""
    with pytest.raises(AddressUnavailable, match=r"192\.0\.2\.1 cannot .*--host or --port"):
        reserve("192.0.2.1", 0)


def test_a_mistyped_setting_is_told_before_anything_is_loaded(taken, monkeypatch, capsys):
    """With the name that was meant; it is a warning, since other programs may share the prefix."""
    monkeypatch.setenv("PROTUNING_ADAPTER_MEMORY_BYTE", "secret")
    with pytest.raises(AddressUnavailable):
        serve(Settings(port=taken))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "MEMORY_BYTE" in line)
    told = json.loads(line)
    assert (told["event"], told["level"]) == ("unknown_variable", "warning")
    assert told["meant"] == "PROTUNING_ADAPTER_MEMORY_BYTES"
    assert "secret" not in line


@pytest.mark.anyio
async def test_of_two_that_load_at_the_same_time_the_second_to_listen_is_told():
    """Both could reserve the port while neither listened."""
    with reserve("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with reserve("127.0.0.1", port) as second:
            first.listen()
            server = DrainingServer(_no_app, Drain(), timeout=1)
            with pytest.raises(AddressUnavailable, match=f"port {port} is in use.* --port"):
                await server.startup([second])
            with pytest.raises(AddressUnavailable, match=f"port {port} is in use.* --metrics-port"):
                await SideServer(_no_app).startup([second])


async def _no_app(*_):
    raise AssertionError("Nobody is served.")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_serve_ends_before_it_loads(taken, workers):
    """One line, exit code 1, and no word of a backbone."""
    arguments = ["--port", str(taken), "--http-workers", workers, "--weights", "random"]
    done = subprocess.run(
        [sys.executable, "-m", "protuning", "serve", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"port {taken} is in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
