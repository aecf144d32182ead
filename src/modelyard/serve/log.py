"""The data plane's log: one JSON object for each line, on standard error."""

from __future__ import annotations

import logging
import sys

# structlog's console would take rich and pygments along, a fifth of a worker's start; no line here is for a console.
_is_hidden = "rich" not in sys.modules
if _is_hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # as if it were not installed
import structlog  # noqa: E402

if _is_hidden:
    del sys.modules["rich"]

log = structlog.get_logger()


def set_up(level: str, **always: object) -> None:
    """Once for each process; `always` stands in every line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper(), logging.INFO)),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    structlog.contextvars.bind_contextvars(**always)
