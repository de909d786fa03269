"""The RateLimit fields of draft-ietf-httpapi-ratelimit-headers-10."""

import math
from collections.abc import Sequence

from service.types import Allowance


def rate_headers(allowances: Sequence[Allowance]) -> dict[str, str]:
    """What a client may still do: `q` in `w` seconds, `r` left, all of it again in `t` seconds."""
    if not allowances:
        return {}
    return {
        "RateLimit-Policy": ", ".join(
            f'"{each.name}";q={each.quota};w={each.window}' for each in allowances
        ),
        "RateLimit": ", ".join(
            f'"{each.name}";r={each.remaining};t={math.ceil(each.reset)}' for each in allowances
        ),
    }
