"""Logging of every process: one JSON object a line, to standard output."""

import logging
import sys
import time
from typing import Any

import msgspec
import structlog


class _Timestamp:
    """Adds the time in ISO 8601, UTC; the part down to the second is written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._prefix = ""

    def __call__(self, _: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        event["timestamp"] = f"{self._prefix}.{nanoseconds // 1000:06d}Z"
        return event


# Without the local variables, which hold tokens and passwords.
_EXCEPTIONS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _render(_: Any, __: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def configure(service: str, level: str = "info") -> None:
    """Send structlog's and the standard library's records to standard output as JSON lines.

    Every line has `event`, `level`, `timestamp` (ISO 8601, UTC) and `service`. Called once, by the command that starts
    the process; a library user's own logging is left alone.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.contextvars.bind_contextvars(service=service)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _Timestamp(),
        _EXCEPTIONS,
    ]
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)


def leave_to_the_program() -> None:
    """Hand structlog's records to the standard library's logging, unless the program has configured structlog itself.

    For use as a library: without it structlog prints every record to standard output, in the middle of what a program
    has to say. Each record is one JSON object; the program's logging decides what becomes of it.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _Timestamp(),
            _EXCEPTIONS,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
