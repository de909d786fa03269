"""The audit log: every change, who made it, when, from where, and how it ended."""

import structlog

from service.logs import AUDIT
from service.tenants import Principal

log = structlog.get_logger(AUDIT)


def record(
    change: str,
    by: Principal | None,
    *,
    address: str | None = None,
    outcome: str = "done",
    **facts: object,
) -> None:
    """Write a change down; the time and the request's id come along.

    Args:
        change: What was done, "task_deleted" say.
        by: Who asked for it; None for the server itself.
        address: Where the request came from.
        outcome: "done", or the name of the error that kept it from being done.
        facts: What it was done to: names and numbers, never content.
    """
    log.info(
        change,
        tenant=None if by is None else by.tenant,
        key_id=None if by is None else by.key_id,
        address=address,
        outcome=outcome,
        **facts,
    )
