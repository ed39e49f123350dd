"""Structured logs of every service: one JSON object per line, and no secret in any of them.

A composition root calls `configure` once. What is bound with
`structlog.contextvars.bound_contextvars(submission=…)` stands in every line logged inside.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

HIDDEN = "[hidden]"
_SECRET_NAMES = re.compile(r"secret|token|password|passwd|authorization|credential|cookie|api_key$|signature", re.I)
# Assay's own keys, Standard Webhooks secrets, credentials in a header or in an address.
_SECRET_TEXT = re.compile(
    r"assay_[A-Za-z0-9_\-]{8,}|whsec_[A-Za-z0-9+/=_\-]{8,}|(?<=Bearer )\S+|(?<=Basic )\S+|(?<=://)[^/\s:@]*:[^/\s@]*(?=@)"
)
_DEEPEST = 6


def without_secrets(value: Any, depth: int = 0) -> Any:
    """`value` with what looks like a secret replaced, at any depth that JSON of ours has."""
    if depth > _DEEPEST:
        return HIDDEN
    if isinstance(value, str):
        return _SECRET_TEXT.sub(HIDDEN, value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN if _SECRET_NAMES.search(str(name)) else without_secrets(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [without_secrets(item, depth + 1) for item in value]
    return value


def _hide_secrets(logger: Any, name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: HIDDEN if _SECRET_NAMES.search(key) else without_secrets(value) for key, value in event.items()}


_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    structlog.processors.format_exc_info,
    _hide_secrets,
)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's logs to `stream` (stderr) as JSON lines.

    Libraries are heard from warnings on. Calling it again replaces what was set before.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # so that a second call is heard
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("assay").setLevel(level.upper())


def logger(room: str) -> Any:
    """The logger of one room, such as `api` or `worker`."""
    return structlog.stdlib.get_logger(f"assay.{room}")
