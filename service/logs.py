"""What the server writes about itself: one event a line, never a request's content."""

import logging
import re
import warnings
from collections.abc import MutableMapping
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog

from service.errors import LogUnavailable

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "text"]

# Fields whose values are secrets, whoever logs them.
_SECRET = ("authorization", "api_key", "key", "token", "password", "secret", "cookie")
_KEY = re.compile(r"pt_[0-9a-f]{16}_[A-Za-z0-9_-]+")
_LONGEST = 2_000
# The logger of what `service.audit` records.
AUDIT = "protuning.audit"
_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]
_QUIET = ("uvicorn", "uvicorn.error", "uvicorn.access")


def configure(
    level: Level, form: Format, stream: TextIO | None = None, audit_log: Path | None = None
) -> None:
    """Send the events of structlog and of the standard library to stderr, or to `stream`.

    What is audited goes there whatever the level, and as JSON to the file `audit_log` as well,
    which may be moved away at any time.

    Raises:
        LogUnavailable: the file cannot be written.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(form))
    audit = logging.getLogger(AUDIT)
    audit.setLevel(logging.INFO)
    for former in audit.handlers[:]:
        audit.removeHandler(former)
        former.close()
    if audit_log is not None:
        audit.addHandler(_audit_handler(audit_log))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    # What torch says goes the same way as everything else, not past it.
    torch = logging.getLogger("torch")
    torch.handlers.clear()
    torch.propagate = True
    # But not that it looks in vain for CUDA, which every machine without a GPU would warn of.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Pillow warns of each entry of an image's EXIF that it cannot read: thousands in one file.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _audit_handler(path: Path) -> logging.Handler:
    try:
        handler = WatchedFileHandler(path)
    except OSError as error:
        raise LogUnavailable(
            f"The audit log {path} cannot be written ({error.strerror}). Pass another --audit-log, "
            "or let this user write there."
        ) from error
    handler.setFormatter(_formatter("json"))
    return handler


def _formatter(form: Format) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            withhold,
            *_renderers(form),
            without_keys,
        ],
    )


def withhold(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace secrets and binary content, and cut what is long: a processor of structlog."""
    for name, value in event.items():
        if name.lower() in _SECRET:
            event[name] = "(withheld)"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"({len(value):,} bytes)"
        elif isinstance(value, str) and len(value) > _LONGEST:
            event[name] = f"{value[:_LONGEST]}… ({len(value):,} characters)"
    return event


def without_keys(_logger: object, _method: str, line: Any) -> str:  # noqa: ANN401  structlog's own
    """Replace whatever looks like an API key, wherever it got into the line."""
    return _KEY.sub("(key withheld)", line)


def _renderers(form: Format) -> list[structlog.typing.Processor]:
    if form == "text":
        return [structlog.dev.ConsoleRenderer(colors=False)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
