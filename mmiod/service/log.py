"""Where structlog's events go: a console, JSON lines, or the journal.

All three get the same events: `noun_past_verb` with typed keys.  Hex is for people,
so the console and the journal print addresses that way and JSON does not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Final, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mmiod.service.journal import SOCKET, JournalLogger, is_journal, render_entry
from mmiod.service.limiter import RateLimiter

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

ADDRESSES: Final = frozenset({"address", "base", "gpa", "gva", "offset", "pc", "port", "value"})
"""Keys whose numbers people read in hex."""


def configure(
    level: str = "info",
    stream: TextIO = sys.stderr,
    environment: Mapping[str, str] = os.environ,
    journal: str = SOCKET,
) -> RateLimiter:
    """Set structlog up for this process.

    Args:
        level: one of LEVELS; events below it cost 0.3 us and go nowhere.
        stream: standard error; a terminal gets the console's form.
        environment: JOURNAL_STREAM says that `stream` is the journal.
        journal: path of the journal's socket.

    Returns:
        The limiter: call its `report` every `PERIOD_S` and at the end.

    Raises:
        ValueError: there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}: there are {', '.join(LEVELS)}")
    limiter = RateLimiter()
    ending, factory = _output(stream, environment, journal)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            limiter,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *ending,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    return limiter


def _output(
    stream: TextIO, environment: Mapping[str, str], journal: str
) -> tuple[list[Processor], Callable[..., WrappedLogger]]:
    """The last processors, and what makes the logger that takes their output."""
    if is_journal(stream, environment):
        entries = JournalLogger(stream, journal)
        return [structlog.processors.format_exc_info, hex_addresses, render_entry], lambda *_: entries
    if stream.isatty():
        console = structlog.dev.ConsoleRenderer(colors=True, sort_keys=False)
        return [hex_addresses, console], structlog.PrintLoggerFactory(stream)
    json = structlog.processors.JSONRenderer(serializer=orjson.dumps)
    return [structlog.processors.dict_tracebacks, json], structlog.BytesLoggerFactory(stream.buffer)


def hex_addresses(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Print addresses as hex."""
    for key in ADDRESSES & event.keys():
        if isinstance(event[key], int):
            event[key] = hex(event[key])
    return event
