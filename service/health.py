"""Whether a server can do its work: all of it, the part that needs no store, or none."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from adapters.errors import StoreError, StoreUnavailable

# Orchestrators give a probe one second unless they are told otherwise.
PROBE_SECONDS = 0.8


class HealthCheck:
    """Looks at what the server depends on.

    Args:
        parts: By name, what raises StoreError while a part does not work.
        can_go_on: Whether there are tasks that are served without those parts.
    """

    def __init__(
        self,
        parts: Mapping[str, Callable[[], Awaitable[object]]],
        can_go_on: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._can_go_on = can_go_on
        self._looks: dict[str, asyncio.Task[str | None]] = {}

    async def __call__(self) -> list[str]:
        """What does not work; a server that goes on in spite of it is degraded.

        Raises:
            StoreUnavailable: nothing could be served.
        """
        looks = [self._look(name) for name in self._parts]
        await asyncio.wait(looks, timeout=PROBE_SECONDS)
        found = [
            _unanswered(name) if not look.done() else look.result()
            for name, look in zip(self._parts, looks, strict=True)
        ]
        problems = [problem for problem in found if problem is not None]
        if problems and not self._can_go_on():
            raise StoreUnavailable(" ".join(problems))
        return problems

    def _look(self, name: str) -> asyncio.Task[str | None]:
        """One look at a part; while one is under way, however long, there is no other."""
        look = self._looks.get(name)
        if look is None or look.done():
            look = self._looks[name] = asyncio.create_task(self._problem(name))
        return look

    async def _problem(self, name: str) -> str | None:
        try:
            await self._parts[name]()
        except StoreError as error:
            return str(error)
        return None


def _unanswered(name: str) -> str:
    return f"The {name} does not answer. Check that it runs and can be reached."
