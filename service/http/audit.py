"""Which routes change something, and what of a request the audit log gets to know."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, Request

from service import audit
from service.http.relay import RELAYED_FOR

# Parameters of a change that say what it was; others may hold anything.
_TOLD = ("version", "percent", "expected")
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
    facts = {
        **{name: request.query_params[name][:64] for name in _TOLD if name in request.query_params},
        **{_RENAMED.get(name, name): each for name, each in request.path_params.items()},
        **_facts(request),
    }
    audit.record(change, principal, address=_address(request), outcome=outcome, **facts)


def _address(request: Request) -> str | None:
    if request.client is not None:
        return request.client.host
    # Only another process of ours comes by a Unix socket, which has no address.
    return request.headers.get(RELAYED_FOR)


def _facts(request: Request) -> dict[str, object]:
    facts: dict[str, object] = request.scope["state"].setdefault("audit_facts", {})
    return facts
