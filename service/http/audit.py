"""Which routes change something, and what of a request the audit log gets to know."""

import math
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, Request

from service import audit
from service.http.relay import RELAYED_FOR

# Parameters of a change that say what it was, with their types; others may hold anything.
_TOLD: dict[str, type[int] | type[float]] = {"version": int, "percent": float, "expected": int}
# Beside whose key it was and which one.
_RENAMED = {"tenant": "of", "key_id": "revoked"}


def audited(change: str) -> Any:  # noqa: ANN401  FastAPI's own type
    """The dependency of a route that changes something.

    Whoever has no key changes nothing and is not written down; a refusal for any other reason is.
    """

    async def write(request: Request) -> AsyncIterator[None]:
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            _record(request, change, outcome)

    # Before the answer leaves: what is acknowledged is written down.
    return Depends(write, scope="function")


def tell(request: Request, **facts: object) -> None:
    """Add to what is written down about a request what its address does not say."""
    _facts(request).update(facts)


def _record(request: Request, change: str, outcome: str) -> None:
    principal = getattr(request.state, "principal", None)
    if principal is None:
        return
    given = {
        **{name: each for name, each in request.query_params.items() if name in _TOLD},
        **{_RENAMED.get(name, name): each for name, each in request.path_params.items()},
    }
    facts = {**{name: _typed(name, each) for name, each in given.items()}, **_facts(request)}
    audit.record(change, principal, address=_address(request), outcome=outcome, **facts)


def _typed(name: str, text: str) -> object:
    """A fact as its type has it; None where it is not one, which was refused then."""
    if name not in _TOLD:
        return text
    try:
        number = _TOLD[name](text[:64])
    except ValueError:
        return None
    # JSON has no word for the others.
    return number if math.isfinite(number) else None


def _address(request: Request) -> str | None:
    if request.client is not None:
        return request.client.host
    # Only another process of ours comes by a Unix socket, which has no address.
    return request.headers.get(RELAYED_FOR)


def _facts(request: Request) -> dict[str, object]:
    facts: dict[str, object] = request.scope["state"].setdefault("audit_facts", {})
    return facts
