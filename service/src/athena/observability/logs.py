"""Logging of every process: one JSON object a line, to standard output."""

import atexit
import logging
import os
import sys
from typing import Any

import msgspec
import structlog

from athena.observability.content import ContentLog
from athena.observability.lines import LineWriter
from athena.observability.requests import FastRequestLog, RequestLog, StructuredRequestLog
from athena.observability.stamp import Stamp

_SECONDS_FOR_THE_LAST_LINES = 2.0

_stamp = Stamp()


def _add_timestamp(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["timestamp"] = _stamp.now().decode()
    return event


# Without the local variables, which hold tokens and passwords.
_EXCEPTIONS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _render(_: Any, __: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


class _Lines:
    """What structlog sees of the writer: one method for each level."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def info(self, line: bytes) -> None:
        self._writer.write(line + b"\n")

    def warning(self, line: bytes) -> None:
        self._writer.write_now(line + b"\n")

    debug = msg = log = info
    warn = error = exception = critical = fatal = failure = warning


class _Handler(logging.Handler):
    """Sends the standard library's records the same way, so that all lines keep their order."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode() + b"\n"
        except Exception:  # a library's message that does not fit its arguments
            self.handleError(record)
            return
        if record.levelno >= logging.WARNING:
            self._writer.write_now(line)
        else:
            self._writer.write(line)


class _Logging:
    """How this process logs; set by `configure`."""

    writer: LineWriter | None = None
    request_log: RequestLog | None = None
    content_log: ContentLog | None = None


def configure(service: str, level: str = "info", *, content: bool = False) -> None:
    """Send structlog's and the standard library's records to standard output as JSON lines.

    Every line has `event`, `level`, `timestamp` (ISO 8601, UTC) and `service`. Lines below warning are written many at
    a time, at the latest a tenth of a second later; `flush()` writes them at once, and Python's exit does. With
    `content` prompts and answers are logged as well, redacted. Called once, by the command that starts the process; a
    library user's own logging is left alone.
    """

    def add_service(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    def notice(count: int) -> bytes:
        event = {"event": "log_lines_dropped", "count": count, "level": "warning", "service": service}
        return _render(None, "", _add_timestamp(None, "", event)) + b"\n"

    number = logging.getLevelNamesMapping()[level.upper()]
    sys.stdout.flush()
    writer = LineWriter(sys.stdout.fileno(), notice=notice)
    _Logging.writer = writer
    _Logging.request_log = FastRequestLog(writer, service, _stamp) if number <= logging.INFO else None
    _Logging.content_log = ContentLog() if content and number <= logging.INFO else None
    atexit.register(flush)
    os.register_at_fork(before=writer.flush, after_in_child=writer.start_anew)

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        add_service,
        _add_timestamp,
        _EXCEPTIONS,
    ]
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=True,
    )
    handler = _Handler(writer)
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
    # It tells of each request.
    logging.getLogger("httpx").setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))


def request_log() -> RequestLog:
    """Return what tells the way of requests: fast where `configure` was called, otherwise through structlog."""
    return _Logging.request_log or StructuredRequestLog()


def content_log() -> ContentLog | None:
    """Return what tells prompts and answers; None, as nearly always, where no setting asks for it."""
    return _Logging.content_log


def flush() -> None:
    """Write all lines that are there, waiting two seconds at most for a slow reader.

    To be called before a process ends in a way that skips Python's own exit, such as `os._exit` in a forked child.
    """
    if _Logging.writer is not None:
        _Logging.writer.flush(_SECONDS_FOR_THE_LAST_LINES)


def dropped_lines() -> int:
    """Return how many lines this process could not write, nor keep."""
    return _Logging.writer.dropped if _Logging.writer is not None else 0


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
            _add_timestamp,
            _EXCEPTIONS,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
