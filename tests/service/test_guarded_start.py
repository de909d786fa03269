"""How a server starts with regard to keys: guarded, open on the loopback, or not at all."""

import asyncio

import pytest
from pydantic import ValidationError
from safetensors.torch import save_file

from service.bootstrap import open_services
from service.errors import OpenDoor, Unauthenticated
from service.settings import Settings
from service.tenants import ANYBODY, SCOPES, token_of
from tests import makers

BACKBONE = "test_resnet"
EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture
def start(tmp_path):
    """Starts a server's parts with some settings, and gives what an action does with them."""
    weights = tmp_path / "weights.safetensors"
    save_file(makers.backbone(BACKBONE).model.state_dict(), weights)

    def run(action, **changes):
        settings = Settings(
            backbone=BACKBONE,
            weights=str(weights),
            device="cpu",
            index=f"sqlite:///{tmp_path}/index.db",
            store=str(tmp_path / "store"),
            adapter_memory_bytes=2**20,
            batch_images=1,
            **changes,
        )

        async def serve():
            async with open_services(settings) as services:
                return await action(services)

        return asyncio.run(serve())

    return run


async def _who(services):
    return await services.keys.authenticate(None)


def test_on_the_loopback_it_is_open_until_there_is_a_key(start):
    """And never again once there was one."""
    assert start(_who) == ANYBODY
    start(lambda services: services.keys.create("acme", SCOPES))
    with pytest.raises(Unauthenticated):
        start(_who)


def test_elsewhere_it_does_not_start_without_keys(tmp_path):
    """It ends before any backbone is loaded, and says the four ways out."""
    settings = Settings(
        backbone="no such model", index=f"sqlite:///{tmp_path}/index.db", host=EVERYWHERE
    )

    async def serve():
        async with open_services(settings):
            pass

    with pytest.raises(OpenDoor, match=r"keys create.*bootstrap-key-file.*127.*--insecure"):
        asyncio.run(serve())


def test_elsewhere_it_starts_with_keys_or_if_told_to(start):
    """With keys it is guarded, with --insecure it is open."""
    assert start(_who, host=EVERYWHERE, insecure=True) == ANYBODY
    start(lambda services: services.keys.create("acme", SCOPES))
    with pytest.raises(Unauthenticated):
        start(_who, host=EVERYWHERE)


def test_a_bootstrap_key_opens_a_guarded_server(start, tmp_path):
    """The key in the file has every scope, today and after the next start."""
    path = tmp_path / "admin.key"

    async def by_file(services):
        return await services.keys.authenticate(path.read_text().strip())

    first = start(by_file, host=EVERYWHERE, bootstrap_key_file=path)
    assert (first.tenant, first.scopes) == ("default", SCOPES)
    assert start(by_file, host=EVERYWHERE, bootstrap_key_file=path) == first
    with pytest.raises(Unauthenticated):
        start(_who, bootstrap_key_file=path)


def test_a_key_from_elsewhere_can_be_mounted(start, tmp_path):
    """As a Kubernetes secret is."""
    path = tmp_path / "mounted"
    path.write_text(str(token_of(b"m" * 40)))
    path.chmod(0o400)

    async def by_file(services):
        return await services.keys.authenticate(path.read_text())

    assert start(by_file, bootstrap_key_file=path).scopes == SCOPES


def test_a_setting_that_does_not_exist_is_still_refused():
    """A typing mistake in a guard would be an open door."""
    with pytest.raises(ValidationError):
        Settings(bootstrap_keyfile="x")
