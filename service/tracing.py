"""What is traced of a request: itself and its phases. This version keeps none of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

Facts = Mapping[str, str | int]


class Span:
    """A request under way."""

    def end(self, route: str | None, status: int | None) -> None:
        """It has its answer, or its client has left: its route's template, where one was found."""


class Tracer:
    """What parts of the service report about the way of a request."""

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str], request_id: str) -> Iterator[Span]:  # noqa: ARG002
        """A request, in the trace that its header `traceparent` names, if there is one."""
        yield Span()

    def phase(
        self, name: str, seconds: float, *, ago: float = 0.0, facts: Facts | None = None
    ) -> None:
        """A phase of the current request took `seconds`, and ended `ago` seconds ago."""

    def close(self) -> None:
        """Send what has not been sent yet."""
