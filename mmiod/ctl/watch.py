"""`mmioctl watch`: one line for an access, one for its repetitions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from mmiod.ctl.client import Object
from mmiod.ctl.text import duration, fields, hexadecimal

REPORT_NS: Final = 1_000_000_000
"""Guest time after which repetitions that do not end are told."""
_SAME: Final = ("vm", "vcpu", "space", "address", "direction", "size", "value", "device", "status", "pc")
"""What makes two accesses the same line; time, sequence and latency differ always."""
_ARROWS: Final = {"read": "->", "write": "<-"}
_BOLD, _RED, _DIM, _OFF = "\x1b[1m", "\x1b[31m", "\x1b[2m", "\x1b[m"


def introduce(first: Object) -> str:
    """What the filter covers, in the words of the daemon, and whether it can match anything."""
    devices = first["devices"]
    matching = f"of {len(devices)} devices: {' '.join(devices)}" if devices else "no device matches it now"
    return f"watching {first['covers']}; {matching}"


def json_lines(replies: Iterable[Object]) -> Iterator[str]:
    """One object per access; `{"dropped": n}` where n accesses were lost."""
    for reply in replies:
        if reply["dropped"]:
            yield json.dumps({"dropped": reply["dropped"]})
        for access in reply["accesses"]:
            yield json.dumps(access)


def text_lines(replies: Iterable[Object], *, colour: bool = False) -> Iterator[str]:
    """One line per access; equal ones are counted, and told when another one comes or every second."""
    last: Object | None = None
    repeats, since_ns = 0, 0
    for reply in replies:
        if reply["dropped"]:
            yield from _repeated(repeats)
            last, repeats = None, 0
            yield f"... {reply['dropped']} accesses were lost: they came faster than they were read"
        for access in reply["accesses"]:
            if last is not None and all(access[key] == last[key] for key in _SAME):
                repeats += 1
                if access["time_ns"] - since_ns >= REPORT_NS:
                    yield from _repeated(repeats)
                    repeats, since_ns = 0, access["time_ns"]
                continue
            yield from _repeated(repeats)
            last, repeats, since_ns = access, 0, access["time_ns"]
            yield line(access, colour=colour)
    yield from _repeated(repeats)


def _repeated(count: int) -> Iterator[str]:
    if count:
        yield f"    last line again x {count}"


def line(access: Object, *, colour: bool = False) -> str:
    """An access as people read it."""
    seconds, ns = divmod(access["time_ns"], 1_000_000_000)
    status = "" if access["status"] == "ok" else access["status"]
    parts = [
        _paint(f"{seconds}.{ns // 1000:06}", _DIM, colour),
        f"{access['vm']}/{access['vcpu']}" if access["vcpu"] >= 0 else access["vm"],
        access["device"] or "-",
        _paint((access["register"] or "-").upper(), _BOLD, colour),
        _ARROWS[access["direction"]],
        hexadecimal(access["value"], access["size"]),
        fields(access["fields"]),
        _paint(status, _RED, colour),
        f"{access['space']}:{_place(access)}",
        f"{access['size']}B",
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


def show(replies: Iterator[Object], *, as_json: bool, colour: bool) -> None:
    """Print a stream until it ends; its introduction goes to standard error, as it is no traffic."""
    print(introduce(next(replies)), file=sys.stderr, flush=True)
    lines = json_lines(replies) if as_json else text_lines(replies, colour=colour)
    for text in lines:
        print(text, flush=True)
