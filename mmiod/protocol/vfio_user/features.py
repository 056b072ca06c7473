"""DEVICE_FEATURE and MIG_DATA_*: migration and the log of written pages, as events.

Clients that send these read errors: what cannot be is refused with EINVAL, and a feature that is
not here with ENOTSUP.  Specification: QEMU docs/interop/vfio-user.rst, "VFIO_USER_DEVICE_FEATURE",
"VFIO_USER_MIG_DATA_READ", "VFIO_USER_MIG_DATA_WRITE".
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from attrs import frozen

from mmiod.protocol.vfio_user import table
from mmiod.protocol.vfio_user.requests import ADDRESS_SPACE, MAX_TRANSFER, Request, check, refused
from mmiod.protocol.vfio_user.table import LAYOUTS

MIN_PAGE: Final = 1 << 12
MAX_PAGE: Final = 1 << 30
MAX_REPORTED: Final = 1 << 36
"""Bytes of guest memory in one report."""
MAX_RANGES: Final = 1 << 12
NO_DESCRIPTOR: Final = 0xFFFF_FFFF
"""device_state.data_fd: the data goes by messages."""

Members = dict[str, int]


@frozen
class GetState:
    """Which state the function is in; `reply` takes it."""

    request: Request
    head: bytes

    def reply(self, state: int) -> bytes:
        """The reply's payload."""
        return self.head + LAYOUTS["device_state"].pack(state=state, data_fd=NO_DESCRIPTOR)


@frozen
class SetState:
    """Bring the function to a state, which may not exist."""

    request: Request
    state: int
    echo: bytes
    """The reply's payload."""


@frozen
class StartLog:
    """Log which pages of guest memory are written."""

    request: Request
    echo: bytes


@frozen
class StopLog:
    """Forget the log."""

    request: Request
    echo: bytes


@frozen
class ReportLog:
    """Which pages were written since the last report, of the `length` bytes from `iova` on."""

    request: Request
    iova: int
    length: int
    page_size: int
    head: bytes

    def reply(self, bitmap: bytes) -> bytes:
        """The reply's payload, given whole words of 64 bits, a bit for each page."""
        return self.head + bitmap


@frozen
class ReadState:
    """Some of the saved state."""

    request: Request
    size: int

    def reply(self, data: bytes) -> bytes:
        """The reply's payload: as long as was asked, as libvfio-user's client reads no less."""
        layout = LAYOUTS["mig_data"]
        head = layout.pack(argsz=layout.size + len(data), size=len(data))
        return head + data.ljust(self.size, b"\0")


@frozen
class WriteState:
    """Some of a saved state."""

    request: Request
    data: bytes


Featured = GetState | SetState | StartLog | StopLog | ReportLog | ReadState | WriteState


def feature(request: Request, asked: Members, payload: bytes, *, migrates: bool) -> Featured | bytes:
    """What DEVICE_FEATURE asks for; bytes: the reply's payload.

    Raises:
        ProtocolError: naming the field; the connection goes on.
    """
    number, flags = asked["flags"] & table.FEATURE_NUMBER, asked["flags"] & ~table.FEATURE_NUMBER
    wanted = flags & ~table.FEATURE_PROBE
    known = {what for found, what in _FEATURES if found == number}
    there = bool(known) and (migrates or number not in _OF_MIGRATION)
    _check_there(there, "feature.flags", asked["flags"])
    check(not wanted & ~sum(known), "feature.flags", asked["flags"], "not what can be done with this one")
    if flags & table.FEATURE_PROBE:
        check(asked["argsz"] >= len(payload), "feature.argsz", asked["argsz"], f"{len(payload)} or more")
        return payload
    check(wanted in known, "feature.flags", asked["flags"], "GET, SET or PROBE")
    return _FEATURES[number, wanted](request, asked, payload)


def read_state(request: Request, asked: Members, payload: bytes, *, migrates: bool) -> ReadState:
    """MIG_DATA_READ."""
    _check_there(migrates, "header.command", request.command)
    size, head = asked["size"], LAYOUTS["mig_data"].size
    check(size <= MAX_TRANSFER, "mig_data.size", size, f"at most {MAX_TRANSFER}")
    check(asked["argsz"] >= head + size, "mig_data.argsz", asked["argsz"], f"{head + size} or more")
    check(len(payload) == head, "header.size", len(payload), "MIG_DATA_READ brings no data")
    return ReadState(request, size)


def write_state(request: Request, asked: Members, payload: bytes, *, migrates: bool) -> WriteState:
    """MIG_DATA_WRITE."""
    _check_there(migrates, "header.command", request.command)
    size, head = asked["size"], LAYOUTS["mig_data"].size
    check(len(payload) == head + size, "mig_data.size", size, f"{len(payload) - head} bytes came")
    check(asked["argsz"] >= head + size, "mig_data.argsz", asked["argsz"], f"{head + size} or more")
    return WriteState(request, payload[head:])


# --- one feature each ---------------------------------------------------------------------


def _migration(_request: Request, asked: Members, _payload: bytes) -> bytes:
    layout = LAYOUTS["migration"]
    return _head(asked, layout.size) + layout.pack(flags=table.STOP_COPY | table.PRE_COPY)


def _get_state(request: Request, asked: Members, _payload: bytes) -> GetState:
    return GetState(request, _head(asked, LAYOUTS["device_state"].size))


def _set_state(request: Request, asked: Members, payload: bytes) -> SetState:
    data = _data(asked, payload, "device_state")
    return SetState(request, data["state"], payload)


def _start(request: Request, asked: Members, payload: bytes) -> StartLog:
    """Ranges are checked and left alone: all memory is logged, as it costs nothing more."""
    control = _data(asked, payload, "log_control")
    _check_page(control["page_size"])
    ranges, size = control["ranges"], LAYOUTS["log_range"].size
    came = len(payload) - LAYOUTS["feature"].size - LAYOUTS["log_control"].size
    check(ranges <= MAX_RANGES and came == ranges * size, "log_control.ranges", ranges, f"{came} bytes came")
    return StartLog(request, payload)


def _stop(request: Request, asked: Members, payload: bytes) -> StopLog:
    """What came with it says nothing: libvfio-user's client repeats what it started the log with."""
    check(asked["argsz"] >= len(payload), "feature.argsz", asked["argsz"], f"{len(payload)} or more")
    return StopLog(request, payload)


def _report(request: Request, asked: Members, payload: bytes) -> ReportLog:
    layout = LAYOUTS["log_report"]
    came = payload[LAYOUTS["feature"].size :]
    check(len(came) >= layout.size, "header.size", len(payload), "a report's range is missing")
    report = layout.read(came)
    iova, length, page_size = report["iova"], report["length"], report["page_size"]
    _check_page(page_size)
    check(not iova % page_size, "log_report.iova", iova, f"no multiple of {page_size:#x}")
    check(0 < length <= ADDRESS_SPACE - iova, "log_report.length", length, f"from {iova:#x} on")
    bitmap = -(-length // (64 * page_size)) * 8
    fits = length <= MAX_REPORTED and bitmap <= MAX_TRANSFER
    check(fits, "log_report.length", length, f"{MAX_REPORTED:#x} and {8 * MAX_TRANSFER} pages at most")
    head = _head(asked, layout.size + bitmap) + came[: layout.size]
    return ReportLog(request, iova, length, page_size, head)


def _check_there(there: bool, name: str, value: int) -> None:
    if not there:
        raise refused(name, value, "not here, or this function cannot be migrated", errno.ENOTSUP)


def _check_page(size: int) -> None:
    good = MIN_PAGE <= size <= MAX_PAGE and not size & (size - 1)
    check(good, "page_size", size, f"a power of two from {MIN_PAGE:#x} to {MAX_PAGE:#x}")


def _head(asked: Members, size: int) -> bytes:
    """Of a reply with `size` bytes of data, which has to find room at the client."""
    layout = LAYOUTS["feature"]
    total = layout.size + size
    check(asked["argsz"] >= total, "feature.argsz", asked["argsz"], f"{total} or more")
    return layout.pack(argsz=total, flags=asked["flags"])


def _data(asked: Members, payload: bytes, name: str) -> Members:
    """The data of a SET, which its reply repeats."""
    layout, came = LAYOUTS[name], payload[LAYOUTS["feature"].size :]
    fits = len(came) >= layout.size if layout.tail else len(came) == layout.size
    check(fits, "header.size", len(payload), f"{name} has {layout.size} bytes")
    check(asked["argsz"] >= len(payload), "feature.argsz", asked["argsz"], f"{len(payload)} or more")
    return layout.read(came)


_OF_MIGRATION: Final = frozenset({table.MIGRATION, table.DEVICE_STATE})
_FEATURES: Final[Mapping[tuple[int, int], Callable[[Request, Members, bytes], Featured | bytes]]] = {
    (table.MIGRATION, table.FEATURE_GET): _migration,
    (table.DEVICE_STATE, table.FEATURE_GET): _get_state,
    (table.DEVICE_STATE, table.FEATURE_SET): _set_state,
    (table.LOGGING_START, table.FEATURE_SET): _start,
    (table.LOGGING_STOP, table.FEATURE_SET): _stop,
    (table.LOGGING_REPORT, table.FEATURE_GET): _report,
}
"""By number and what is wanted."""


class Taking(Protocol):
    """Understands one command."""

    def __call__(
        self, request: Request, asked: Members, payload: bytes, *, migrates: bool
    ) -> Featured | bytes:
        """The event; bytes: the reply's payload."""


COMMANDS: Final[Mapping[str, Taking]] = {
    "DEVICE_FEATURE": feature,
    "MIG_DATA_READ": read_state,
    "MIG_DATA_WRITE": write_state,
}
"""By name."""
