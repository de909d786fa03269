"""The tree of errors that a request can end in before any use case hears of it.

RequestError
├── MalformedRequest        its head breaks HTTP
├── InvalidRequest          a parameter, a field or the body's structure is wrong
├── UnsupportedContentType  the body is of a kind that the route does not take
├── BodyTooLarge            more bytes than the limit
├── BodyTimeout             the body did not arrive in time
├── QueryTooLong            the query string is over the limit
├── TooManyHeaders          more headers than the limit
├── CrossSite               a page of another site sent it, and there are no keys
└── Misdirected             it was meant for another name, and there are no keys

Every message says what happened and how to mend it.
"""


class RequestError(Exception):
    """Root of everything that is wrong with a request itself."""


class MalformedRequest(RequestError):
    """The request's head is not valid HTTP."""


class InvalidRequest(RequestError):
    """A parameter, a field or the body's structure is wrong."""


class UnsupportedContentType(RequestError):
    """The body is of a kind that the route does not take."""


class BodyTooLarge(RequestError):
    """The body has more bytes than the limit."""


class BodyTimeout(RequestError):
    """The body did not arrive in time."""


class QueryTooLong(RequestError):
    """The query string is over the limit."""


class TooManyHeaders(RequestError):
    """The request has more headers than the limit."""


class CrossSite(RequestError):
    """A page of another site sent the request, to a server without keys."""


class Misdirected(RequestError):
    """The request was meant for another name than a server without keys has."""
