"""What is refused by the head of a request alone, before anybody reads its body. Pure."""

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

from service.http.errors import (
    CrossSite,
    MalformedRequest,
    Misdirected,
    QueryTooLong,
    RequestError,
    TooManyHeaders,
    UnsupportedContentType,
)

MAX_QUERY_BYTES = 8_192
MAX_HEADERS = 100
# More than any number that is meant; leading zeros are bounded by nothing else.
MAX_LENGTH_DIGITS = 20
_HARMLESS = ("GET", "HEAD", "OPTIONS")
_OTHER_SITES = ("cross-site", "same-site")


def refusal(scope: Scope, *, is_open: bool) -> RequestError | None:
    """What is wrong with a request, if something is.

    Where anybody may do anything (`is_open`), whoever has a browser on this machine is one of
    them, and so is every page that they look at: those are kept out.
    """
    headers = Headers(scope=scope)
    return (
        _oversized(scope)
        or _malformed(headers)
        or _encoded(headers)
        or (_foreign(scope, headers) if is_open else None)
    )


def _oversized(scope: Scope) -> RequestError | None:
    query: bytes = scope["query_string"]
    if len(query) > MAX_QUERY_BYTES:
        return QueryTooLong(
            f"The query string has {len(query):,} bytes; at most {MAX_QUERY_BYTES:,} are taken. "
            "Send fewer or shorter parameters."
        )
    if len(scope["headers"]) > MAX_HEADERS:
        return TooManyHeaders(f"At most {MAX_HEADERS} headers are taken. Send fewer.")
    return None


def _malformed(headers: Headers) -> RequestError | None:
    if len(headers.getlist("host")) > 1:
        return MalformedRequest("The request has several Host headers. Send one (RFC 9112, 3.2).")
    if len(headers.get("content-length", "")) > MAX_LENGTH_DIGITS:
        return MalformedRequest(
            f"Content-Length has over {MAX_LENGTH_DIGITS} digits. Send it without leading zeros."
        )
    return None


def _encoded(headers: Headers) -> RequestError | None:
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() == "identity":
        return None
    return UnsupportedContentType(
        f"A body in the encoding {encoding[:50]!r} is not taken: what it unfolds to could not be "
        "bounded. Send it uncompressed."
    )


def _foreign(scope: Scope, headers: Headers) -> RequestError | None:
    if headers.get("sec-fetch-site") in _OTHER_SITES and scope["method"] not in _HARMLESS:
        return CrossSite(
            "A page of another site sent this, and without keys its reader cannot be told from "
            "you. Create a key, or send it from elsewhere than a browser."
        )
    if _is_loopback(scope.get("server")) and not _is_loopback([_name(headers.get("host", ""))]):
        return Misdirected(
            "Without keys this server answers on this machine only, by the name localhost or a "
            "loopback address. Use that, or create a key."
        )
    return None


def _name(host: str) -> str:
    """The name in a Host header: without port, and without an IPv6 address's brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(address: Sequence[object] | None) -> bool:
    host = str(address[0]) if address else ""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
