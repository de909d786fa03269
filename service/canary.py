"""Which requests a canary gets. Pure."""

import hashlib
from typing import Annotated

from pydantic import Field

from service.tenants import Policy
from service.types import TaskKey

_BUCKET_BYTES = 8


class Canary(Policy):
    """A version that gets `percent` of the requests of its task that name no version."""

    kind = "canary"

    version: Annotated[int, Field(ge=1)]
    percent: Annotated[float, Field(gt=0, le=100)]

    def takes(self, place: float) -> bool:
        """Whether it gets a request at a place in [0, 1).

        A larger percentage keeps all places that a smaller one had.
        """
        return place < self.percent / 100


def place_of(task: TaskKey, version: int, canary_key: str) -> float:
    """The place of a key in [0, 1): always the same, and another one for each task and version."""
    text = f"{task.tenant}/{task.task}/{version}/{canary_key}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:_BUCKET_BYTES]) / 2 ** (8 * _BUCKET_BYTES)
