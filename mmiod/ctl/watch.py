"""`mmioctl watch`: one line for an access, one for its repetitions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mmiod.ctl.client import Object
from mmiod.ctl.text import duration, fields, hexadecimal

REPORT_NS: Final = 1_000_000_000
"""Guest time after which repetitions that do not end are told."""
DEVICES_SHOWN: Final = 6
_SAME: Final = (
    "vm", "vcpu", "space", "address", "direction", "size", "count", "value", "device", "status", "pc",
)  # fmt: skip
"""What makes two accesses the same line; time, sequence and latency differ always."""
_ARROWS: Final = {"read": "->", "write": "<-"}
_BOLD, _RED, _DIM, _OFF = "\x1b[1m", "\x1b[31m", "\x1b[2m", "\x1b[m"


def introduce(first: Object) -> str:
    """What the filter covers, in the words of the daemon, and whether it can match anything."""
    published = first.get("withdrawn") or ()
    past = f"; published, and asked for while this lasts: {_few(published)}" if published else ""
    return f"watching {first['covers']}; devices that match now: {_few(first['devices']) or 'none'}{past}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - DEVICES_SHOWN} more" if len(names) > DEVICES_SHOWN else ""
    return ", ".join(names[:DEVICES_SHOWN]) + more


class JsonLines:
    """One object per access; `{"dropped": n}` where n accesses were lost."""

    def take(self, reply: Object) -> Iterator[str]:
        """The lines of a reply."""
        if reply["dropped"]:
            yield json.dumps({"dropped": reply["dropped"]})
        for access in reply["accesses"]:
            yield json.dumps(access)

    def finish(self) -> Iterator[str]:
        """What is still to be said at the end: nothing."""
        return iter(())


class TextLines:
    """One line per access; equal ones are counted, and told at the next line, each second, or in a lull."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._last: Object | None = None
        self._repeats = 0
        self._told_ns = 0

    def take(self, reply: Object) -> Iterator[str]:
        """The lines of a reply."""
        if reply["dropped"]:
            yield from self.finish()
            yield f"... {reply['dropped']} accesses were lost: they came faster than they were read"
        for access in reply["accesses"]:
            yield from self._access(access)

    def finish(self) -> Iterator[str]:
        """What is still to be said: how often the last line came again."""
        yield from self._repeated(0)
        self._last = None

    def _access(self, access: Object) -> Iterator[str]:
        if self._last is None or any(access[key] != self._last[key] for key in _SAME):
            yield from self._repeated(access["time_ns"])
            self._last = access
            yield line(access, colour=self._colour)
            return
        self._repeats += 1
        if access["time_ns"] - self._told_ns >= REPORT_NS:
            yield from self._repeated(access["time_ns"])

    def _repeated(self, now_ns: int) -> Iterator[str]:
        if self._repeats:
            yield f"    last line again x {self._repeats}"
        self._repeats, self._told_ns = 0, now_ns


def line(access: Object, *, colour: bool = False) -> str:
    """An access as people read it."""
    seconds, ns = divmod(access["time_ns"], 1_000_000_000)
    status = "" if access["status"] == "ok" else access["status"]
    parts = [
        _paint(f"{seconds}.{ns // 1000:06}", _DIM, colour),
        f"{access['vm']}/{access['vcpu']}" if access["vcpu"] >= 0 else access["vm"],
        access["device"] or "-",
        _paint((access["register"] or "").upper(), _BOLD, colour) or access["region"] or "",
        _ARROWS[access["direction"]],
        hexadecimal(access["value"], access["size"]),
        fields({name: value for name, value in access["fields"].items() if value}),
        _paint(status, _RED, colour),
        f"{access['space']}:{_place(access)}",
        f"{access['size']}B" if access["count"] == 1 else f"{access['count']}x{access['size']}B",
        duration(access["latency_ns"]),
        "" if access["pc"] is None else f"pc={access['pc']:#x}",
    ]
    return " ".join(part for part in parts if part)


def _place(access: Object) -> str:
    """The address, as base and offset where the region is known."""
    address, offset = access["address"], access["offset"]
    if not offset:
        return f"{address:#x}"
    return f"{address - offset:#x}+{offset:#x}" if offset > 9 else f"{address - offset:#x}+{offset}"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_OFF}" if colour and text else text


def show(replies: Iterator[Object | None], *, as_json: bool, colour: bool) -> None:
    """Print a stream until it ends; its introduction goes to standard error, as it is no traffic."""
    first = next(replies)
    assert first is not None, "the first reply is waited for"
    print(introduce(first), file=sys.stderr, flush=True)
    lines = JsonLines() if as_json else TextLines(colour=colour)
    try:
        for reply in replies:
            _print(lines.finish() if reply is None else lines.take(reply))
    finally:
        _print(lines.finish())


def _print(lines: Iterable[str]) -> None:
    """All lines of a reply at once: others may read them as they come."""
    text = "".join(f"{line}\n" for line in lines)
    if text:
        print(text, end="", flush=True)
