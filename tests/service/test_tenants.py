"""Keys without any store: what a token opens, and what is told of one that opens nothing."""

import hashlib

import pytest

from service.errors import Forbidden, Unauthenticated
from service.tenants import (
    ANYBODY,
    ID_BYTES,
    SCOPES,
    SECRET_BYTES,
    Key,
    Principal,
    Token,
    identify,
    parse_token,
    token_of,
)

TOKEN = token_of(bytes(range(ID_BYTES + SECRET_BYTES)))


def _key(**changes):
    fields = {
        "id": TOKEN.id,
        "tenant": "acme",
        "scopes": frozenset({"predict"}),
        "secret_sha256": hashlib.sha256(TOKEN.secret.encode()).hexdigest(),
        "created_at": 0.0,
    }
    return Key(**{**fields, **changes})


def test_a_token_comes_back_from_its_text():
    """Id and secret, whichever characters the secret has."""
    for seed in (0, 255, 251):
        token = token_of(bytes([seed]) * (ID_BYTES + SECRET_BYTES))
        assert parse_token(str(token)) == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pt_",
        "Bearer x",
        str(TOKEN)[:-1],
        f"{TOKEN}x",
        f"{TOKEN}\n",
        str(TOKEN).upper(),
        "é" * 64,
    ],
    ids=["empty", "prefix", "words", "short", "long", "line", "upper", "not-ascii"],
)
def test_anything_else_is_no_token(text):
    """And is not repeated in the message."""
    with pytest.raises(Unauthenticated) as caught:
        parse_token(text)
    assert not text or text not in str(caught.value)


def test_a_token_opens_its_key_only():
    """The principal is the key's tenant with the key's scopes."""
    assert identify(TOKEN, _key(), now=1) == Principal("acme", frozenset({"predict"}), TOKEN.id)


@pytest.mark.parametrize(
    ("key", "token"),
    [
        (None, TOKEN),
        (_key(), Token(TOKEN.id, "x" * 43)),
        (_key(revoked_at=5.0), TOKEN),
        (_key(expires_at=10.0), TOKEN),
    ],
    ids=["unknown", "wrong", "revoked", "expired"],
)
def test_whatever_opens_nothing_says_the_same(key, token):
    """Nobody learns which ids exist, or that a key once did."""
    with pytest.raises(Unauthenticated) as caught:
        identify(token, key, now=10)
    with pytest.raises(Unauthenticated) as unknown:
        identify(token, None, now=10)
    assert str(caught.value) == str(unknown.value)


def test_an_expiry_is_exact():
    """Valid just before it."""
    key = _key(expires_at=10.0)
    assert identify(TOKEN, key, now=9.99).tenant == "acme"


def test_what_is_stored_holds_no_secret():
    """Only the hash of the secret is in the record, and none of it in what a log would print."""
    assert TOKEN.secret not in _key().model_dump_json()
    assert TOKEN.secret not in repr(TOKEN)


def test_one_of_the_scopes_is_enough():
    """And with none of them it is forbidden, with the way out in the message."""
    reader = Principal("acme", frozenset({"predict"}), TOKEN.id)
    reader.require("predict", "manage")
    with pytest.raises(Forbidden, match="manage"):
        reader.require("manage")
    for scope in SCOPES:
        ANYBODY.require(scope)


def test_a_field_of_a_newer_release_is_ignored():
    """While servers are upgraded one by one, the older ones read what the newer ones write."""
    document = _key().model_dump(mode="json") | {"invented_later": 1}
    assert Key.model_validate(document) == _key()
