"""Parameters that several routes take."""

from typing import Annotated

from fastapi import Header, Path, Query

from service.http.schemas import LARGEST_VERSION
from service.types import PRIORITIES

VersionNumber = Annotated[int, Path(ge=1, le=LARGEST_VERSION)]
NamedVersion = Annotated[
    int | None,
    Query(ge=1, le=LARGEST_VERSION, description="A version other than the active one."),
]
Expected = Annotated[
    int | None,
    Query(ge=1, le=LARGEST_VERSION, description="Refuse if another version is active."),
]
CanaryKey = Annotated[
    str | None,
    Header(
        alias="X-Canary-Key",
        max_length=256,
        description="Requests with the same key go to the same version while there is a canary.",
    ),
]
Priority = Annotated[
    int,
    Query(
        ge=PRIORITIES[0],
        le=PRIORITIES[-1],
        description="Ranks the request among your own: a step up is worth a fourfold share.",
    ),
]
