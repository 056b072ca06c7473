"""From datagrams to events: one table of readers, by message type.

`read` is the only door for bytes from a peer, on both sides.  It gives an event or
raises ProtocolError; anything else is a defect of ours.

Specification: docs/protocol.md, "Messages" and "Limits".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import fields_dict

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import completions, events, exits, sourced
from mmiod.protocol.exit.codec import BY_NAME, MALFORMED, Form, Message, check, frame, structure, text, unpack
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS, Numbers
from mmiod.values import Space

Event = events.ToDaemon | events.ToClient

PAGE: Final = 4096
SPAN: Final = 1 << 64
_U64: Final = SPAN - 1
_ANYTHING: Final = (0, _U64)

Reader = Callable[[bytes, Form, int], Event]
"""Of a datagram that `frame` has checked: (datagram, form, flags)."""


def _span(numbers: Numbers) -> tuple[int, int]:
    known = [number for _, number, _ in numbers.members]
    return min(known), max(known)


RANGES: Final[dict[str, tuple[int, int]]] = {
    "serial": (1, 0xFFFF_FFFF),
    "hello.version_min": (1, 0xFFFF),
    "hello.version_max": (1, 0xFFFF),
    "hello.vcpus": (1, 0xFFFF_FFFF),
    "hello.physical_bits": (32, 52),
    "map.length": (1, _U64),
    "restore.length": (1, _U64),
    "share.length": (1, _U64),
    "share.slots": (1, 0xFFFF_FFFF),
    "error.code": _span(NUMBERS["error"]),
    "error.fatal": (0, 1),
    "set_level.level": (0, 1),
    "intr.level": (0, 1),
    "request.kind": _span(NUMBERS["request_kind"]),
    "grant.kind": _span(NUMBERS["grant_kind"]),
    "grant.space": (0, len(Space) - 1),
}
"""What numbers of control messages may hold, both ends included; the others anything."""

PAGES: Final = frozenset({"map.gpa", "map.length", "map.offset", "remap.gpa", "share.length"})
"""Numbers that are multiples of PAGE."""


def read(data: bytes) -> Event:
    """One datagram as an event.

    Raises:
        ProtocolError: naming the field.
    """
    return read_framed(data, *frame(data))


def read_framed(data: bytes, form: Form, flags: int) -> Event:
    """The same for a datagram that `frame` has checked."""
    return READERS[form.type](data, form, flags)


def _exit(data: bytes, form: Form, flags: int) -> events.Arrived:
    exit_, guest_ns = exits.DECODERS[form.type](data, flags)
    return events.Arrived(exit_, guest_ns, data)


def _source(data: bytes, _form: Form, flags: int) -> events.Arrived:
    exit_, guest_ns = sourced.decode_source(data, flags)
    return events.Arrived(exit_, guest_ns, data)


def _posted(data: bytes, _form: Form, _flags: int) -> exits.PostedWrite:
    return exits.decode_posted(data)


def _completion(data: bytes, _form: Form, _flags: int) -> completions.Completed:
    return completions.decode_completion(data)


def _control(name: str) -> Reader:
    kind = CONTROL[name]
    attributes = tuple(fields_dict(kind))
    make: Callable[..., Event] = kind
    confirm = CONFIRM.get(name, _nothing_more)

    def read_control(data: bytes, _form: Form, _flags: int) -> Event:
        message = unpack(data)
        _check_numbers(message)
        confirm(message)
        return make(*(_attribute(message, attribute) for attribute in attributes))

    return read_control


def _attribute(message: Message, name: str) -> int | str | bytes:
    if name in message.numbers:
        return message.numbers[name]
    if name == "token":
        return message.octets[name]
    return message.text(name) if name in message.octets else message.has(name.upper())


def _check_numbers(message: Message) -> None:
    for field, value in message.numbers.items():
        name = f"{message.name.lower()}.{field}"
        lowest, highest = RANGES.get(name) or RANGES.get(field, _ANYTHING)
        check(lowest <= value <= highest, name, value, f"{lowest}..{highest:#x}")
        check(name not in PAGES or not value % PAGE, name, value, f"a multiple of {PAGE}")


def _nothing_more(_message: Message) -> None:
    pass


def _confirm_map(message: Message) -> None:
    gpa, length, offset = message["gpa"], message["length"], message["offset"]
    check(gpa + length <= SPAN, "map.length", length, f"from {gpa:#x} it passes 2^64")
    check(offset + length <= SPAN, "map.offset", offset, f"{length:#x} bytes from there pass 2^64")


def _confirm_hello(message: Message) -> None:
    check(message["bitness"] in {32, 64}, "hello.bitness", message["bitness"], "32 or 64")
    check(
        not message["shared_mask"] % PAGE,
        "hello.shared_mask",
        message["shared_mask"],
        "no bits within a page",
    )


CONFIRM: Final = {"MAP": _confirm_map, "HELLO": _confirm_hello}
"""Checks of fields against each other."""


# --- claims --------------------------------------------------------------------------

_CLAIM: Final = structure("claim")
_CLAIM_RESERVED: Final = [m for m in LAYOUTS["claim"].members if m.name.startswith("reserved")]


def _claims(data: bytes, _form: Form, _flags: int) -> Event:
    message = unpack(data)
    count, size = message["count"], len(message.tail)
    if count * _CLAIM.size != size:
        raise ProtocolError(MALFORMED, "claims.count", count, f"{size} bytes follow, {_CLAIM.size} for each")
    parts = (message.tail[at : at + _CLAIM.size] for at in range(0, size, _CLAIM.size))
    return events.Claims(message["serial"], message["remaining"], tuple(map(_claim, parts)))


def _claim(data: bytes) -> events.Claim:
    for member in _CLAIM_RESERVED:
        value = int.from_bytes(data[member.offset : member.offset + member.size], "little")
        if value:
            raise ProtocolError(MALFORMED, f"claim.{member.name}", value, "a reserved field is zero")
    base, length, space, policy, owner = _CLAIM.unpack(data)
    check(space < len(Space), "claim.space", space, "0 MMIO, 1 PIO, 2 PCI_CONFIG, 3 MSR")
    highest = _span(NUMBERS["unclaimed_policy"])[1]
    check(policy <= highest, "claim.policy", policy, f"0..{highest}")
    return events.Claim(space, base, length or SPAN, policy, text("claim.owner", owner).decode("ascii"))


CONTROL: Final[dict[str, type[Event]]] = {
    "HELLO": events.Hello,
    "WELCOME": events.Welcome,
    "RESUMED": events.Resumed,
    "MAP": events.Map,
    "UNMAP": events.Unmap,
    "REMAP": events.Remap,
    "ACK": events.Ack,
    "ERROR": events.Error,
    "SET_LEVEL": events.SetLevel,
    "EOI": events.Eoi,
    "MSI": events.Msi,
    "INTR": events.Intr,
    "RESET": events.Reset,
    "PAUSE": events.Pause,
    "RESUME": events.Resume,
    "SAVE": events.Save,
    "RESTORE": events.Restore,
    "REQUEST": events.Request,
    "QUERY_CLAIMS": events.QueryClaims,
    "SHARE": events.Share,
    "GRANT": events.Grant,
    "REVOKE": events.Revoke,
    "REVOKED": events.Revoked,
}
_DIRECT: Final[dict[int, Reader]] = {
    sourced.SOURCE.type: _source,
    BY_NAME["POSTED"].type: _posted,
    BY_NAME["CLAIMS"].type: _claims,
}
READERS: Final[dict[int, Reader]] = (
    dict.fromkeys(exits.DECODERS, _exit)
    | dict.fromkeys(completions.DECODERS, _completion)
    | _DIRECT
    | {BY_NAME[name].type: _control(name) for name in CONTROL}
)
