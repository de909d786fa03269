"""Small documents beside the index: what operators have laid down, for all servers alike."""

from typing import Annotated, Protocol

from pydantic import Field, JsonValue

from adapters.manifest import Frozen


class Record(Frozen):
    """A document under a kind and a name; a removed one keeps its place, with None.

    `revision` is that of the last write. Every write of any record gets the next number, so a
    reader that has seen all up to one revision asks for what came later.
    """

    kind: str
    name: str
    document: dict[str, JsonValue] | None
    revision: Annotated[int, Field(ge=1)]


class Records(Protocol):
    """Documents by kind and name, shared by any number of servers; the last write wins.

    Every method is atomic, and a write is durable when it returns. Any of them can raise
    StoreUnavailable (and, when it writes, StoreFull); nothing is half done then.
    """

    async def put(self, kind: str, name: str, document: dict[str, JsonValue] | None) -> int:
        """Write a document, or remove it with None; returns the revision."""

    async def since(self, revision: int, *, limit: int) -> list[Record]:
        """The records that were last written after `revision`, in the order of their revisions."""

    async def newest(self) -> int:
        """The highest revision, 0 before the first write.

        Where it is less than one that was seen, the store was restored from a backup: read
        everything anew.
        """

    async def close(self) -> None:
        """Let the current operations end, then free all resources."""
