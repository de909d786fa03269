"""How lists are cut into pages: `limit` items at most, the rest behind `cursor`."""

from typing import Annotated

from fastapi import Query

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
CURSOR = "The next_cursor of the page before."

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items of a page.")]
