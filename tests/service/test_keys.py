"""The key ring: created, presented, revoked; with the store and without it."""

import pytest

from adapters.errors import StoreUnavailable
from service.errors import Unauthenticated, UnknownKey
from service.keys import VALID_UNCONFIRMED_SECONDS
from service.tenants import ANYBODY, Principal, Token, token_of
from tests.service.policy_fakes import Clock, MemoryRecords, key_ring

pytestmark = pytest.mark.anyio
PREDICT = frozenset({"predict"})


async def test_without_keys_anybody_may_do_anything():
    """As on a laptop; a key that somebody has set all the same does no harm."""
    ring = key_ring()
    assert await ring.authenticate(None) == ANYBODY
    assert await ring.authenticate("whatever") == ANYBODY


async def test_the_first_key_closes_the_door_for_good():
    """Also when it is revoked: an emergency must not open everything."""
    ring = key_ring()
    key, _ = await ring.create("acme", PREDICT)
    for _ in range(2):
        assert not ring.is_open
        with pytest.raises(Unauthenticated):
            await ring.authenticate(None)
        await ring.revoke(key.id)


async def test_where_keys_are_required_there_is_no_open_door():
    """Not even before the first one."""
    with pytest.raises(Unauthenticated):
        await key_ring(required=True).authenticate(None)


async def test_a_created_key_is_its_tenant():
    """With the scopes that it was given, on this server and on another one at once."""
    records = MemoryRecords()
    here, there = key_ring(records), key_ring(records, required=True)
    key, token = await here.create("acme", PREDICT, name="ci")
    for ring in (here, there):
        assert await ring.authenticate(str(token)) == Principal("acme", PREDICT, key.id)


async def test_the_secret_is_kept_nowhere():
    """What lies in the store does not hold it."""
    records = MemoryRecords()
    _, token = await key_ring(records).create("acme", PREDICT)
    assert token.secret not in repr(records.written)


async def test_a_known_key_asks_nothing_of_the_store():
    """Thousands of requests, no read."""
    records = MemoryRecords()
    ring = key_ring(records)
    _, token = await ring.create("acme", PREDICT)
    reads = records.reads
    for _ in range(100):
        await ring.authenticate(str(token))
    assert records.reads == reads


async def test_a_revoked_key_ends_here_at_once_and_elsewhere_with_the_next_read():
    """Two servers; revoking twice changes nothing."""
    records = MemoryRecords()
    here, there = key_ring(records), key_ring(records)
    key, token = await here.create("acme", PREDICT)
    await there.authenticate(str(token))
    first = await here.revoke(key.id)
    assert await here.revoke(key.id) == first
    with pytest.raises(Unauthenticated):
        await here.authenticate(str(token))
    assert (await there.authenticate(str(token))).tenant == "acme"
    await there.keys(limit=1)
    with pytest.raises(Unauthenticated):
        await there.authenticate(str(token))


async def test_expiry_needs_no_read():
    """The clock alone ends a key."""
    wall = Clock()
    ring = key_ring(wall_clock=wall)
    _, token = await ring.create("acme", PREDICT, expires_at=wall.now + 60)
    await ring.authenticate(str(token))
    wall.now += 60
    with pytest.raises(Unauthenticated):
        await ring.authenticate(str(token))


async def test_known_keys_outlive_the_store_for_ten_minutes():
    """A stranger is told to come back later, since nobody can say whether the key is one."""
    records, clock = MemoryRecords(), Clock()
    ring = key_ring(records, clock=clock)
    _, token = await ring.create("acme", PREDICT)
    records.gone = True
    stranger = token_of(b"s" * 40)
    for elapsed in (0, VALID_UNCONFIRMED_SECONDS):
        clock.now = 1_000 + elapsed
        assert (await ring.authenticate(str(token))).tenant == "acme"
        with pytest.raises(StoreUnavailable):
            await ring.authenticate(str(stranger))
        with pytest.raises(Unauthenticated):
            await ring.authenticate(str(Token(token.id, stranger.secret)))
    clock.now += 0.1
    with pytest.raises(StoreUnavailable):
        await ring.authenticate(str(token))
    records.gone = False
    assert (await ring.authenticate(str(token))).tenant == "acme"
    with pytest.raises(Unauthenticated):
        await ring.authenticate(str(stranger))


async def test_a_foreign_token_is_adopted_once():
    """Adopting it again, as every start does, brings no revoked key back."""
    ring = key_ring()
    token = token_of(b"t" * 40)
    key = await ring.adopt(token, "default", PREDICT, name="bootstrap")
    assert await ring.adopt(token, "other", PREDICT) == key
    await ring.revoke(key.id)
    await ring.adopt(token, "default", PREDICT)
    with pytest.raises(Unauthenticated):
        await ring.authenticate(str(token))


async def test_keys_are_listed_by_tenant_and_page():
    """Each key once, whatever the size of the pages."""
    ring = key_ring()
    made = [(await ring.create(tenant, PREDICT))[0] for tenant in ("a", "b", "a", "a")]
    assert {key.id for key in await ring.keys(limit=10)} == {key.id for key in made}
    seen, after = [], ""
    while page := await ring.keys(tenant="a", after=after, limit=2):
        seen += page
        after = page[-1].id
    assert seen == sorted((key for key in made if key.tenant == "a"), key=lambda key: key.id)


async def test_an_unknown_key_cannot_be_revoked():
    """The error says how to find out which there are."""
    with pytest.raises(UnknownKey, match="List"):
        await key_ring().revoke("0" * 16)


async def test_a_server_that_could_not_read_its_keys_lets_nobody_in():
    """That there are none has to be known before the door stands open."""
    records = MemoryRecords()
    await key_ring(records).create("acme", PREDICT)
    ring = key_ring(records)
    records.gone = True
    assert not ring.is_open
    with pytest.raises(StoreUnavailable):
        await ring.authenticate(None)
    records.gone = False
    with pytest.raises(Unauthenticated):
        await ring.authenticate(None)
