"""EXIT_SOURCE and REPLY as bytes: a structure of somebody else's, and what it has no room for.

The structure is opaque here: `mmiod.protocol.sources` reads it and writes the answer
into it.  What it lacks and was asked for follows it as supplements: those of EXIT_RAW,
and two of its own, CODE and VCPU.

Specification: docs/protocol.md, "Exits of a source".
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import supplements
from mmiod.protocol.exit.codec import BY_NAME, ERROR, MALFORMED, Form, check, finish, structure
from mmiod.protocol.exit.exits import MAX_CODE, vcpu_fields, vcpu_state
from mmiod.protocol.exit.supplements import Supplied
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import Delta, VcpuState, VectorDelta

SOURCE: Final = BY_NAME["EXIT_SOURCE"]
REPLY: Final = BY_NAME["REPLY"]
CODE: Final = NUMBERS["supplement_kind"]["CODE"]
VCPU: Final = NUMBERS["supplement_kind"]["VCPU"]

MAX_BODY: Final = 0x4000
"""Bytes of a structure, so that what an instruction writes to RAM fits the REPLY behind it."""

_VCPU: Final = structure("supplement_vcpu")


@define
class SourceExit:
    """An exit as its source lays it out: `body` are the structure's bytes.

    What the body lacks and the hypervisor brought along: `code`, `state` and `supplied`.
    """

    vcpu: int
    sequence: int
    body: bytes
    code: bytes = b""
    state: VcpuState | None = None
    supplied: Supplied = field(factory=Supplied)


@frozen
class Reply:
    """An exit of a source is done: its structure as it goes back.

    `memory` holds (gpa, bytes) writes to RAM that only the hypervisor reaches; `vectors`
    are those that changed.
    """

    body: bytes
    memory: list[tuple[int, bytes]] = field(factory=list)
    vectors: VectorDelta | None = None


def decode_source(data: bytes, _flags: int) -> tuple[SourceExit, int]:
    """An EXIT_SOURCE datagram that `frame` has checked, as (exit, guest_ns).

    Raises:
        ProtocolError: naming the field.
    """
    _, _, _, vcpu, sequence, guest_ns, length = SOURCE.struct.unpack_from(data)
    if not sequence:
        raise ProtocolError(ERROR["SEQUENCE"], "exit_source.exit.sequence", 0, "sequences begin with 1")
    check(length <= MAX_BODY, "exit_source.length", length, f"1..{MAX_BODY}")
    body, tail = _split(SOURCE, data, length)
    found = SourceExit(vcpu, sequence, body)
    found.supplied = supplements.parse_exit(_take_own(found, tail))
    return found, guest_ns


def _split(form: Form, data: bytes, length: int) -> tuple[bytes, bytes]:
    """The structure, and the supplements behind its padding."""
    start = form.struct.size
    room = len(data) - start
    padded = -(-length // 8) * 8
    check(
        length and padded <= room,
        f"{form.name}.length",
        length,
        f"1..{room}, and zeros up to a multiple of 8",
    )
    zeros = data[start + length : start + padded]
    if any(zeros):
        value = int.from_bytes(zeros, "little")
        raise ProtocolError(MALFORMED, f"{form.name} padding", value, "a reserved field is zero")
    return data[start : start + length], data[start + padded :]


def _take_own(exit_: SourceExit, tail: bytes) -> bytes:
    """Keep the supplements that only EXIT_SOURCE has; those that are left."""
    left = b""
    for kind, item in supplements.parse(tail):
        if kind == CODE:
            check(
                1 <= len(item) <= MAX_CODE, "supplement.length", len(item) + 8, f"1..{MAX_CODE} bytes of code"
            )
            check(not exit_.code, "supplement.kind", kind, "the code is there twice")
            exit_.code = item
        elif kind == VCPU:
            check(exit_.state is None, "supplement.kind", kind, "the registers are there twice")
            exit_.state = _state(item)
        else:
            left += supplements.pack_item(kind, item)
    return left


def _state(item: bytes) -> VcpuState:
    length = len(item) + 8
    check(len(item) == _VCPU.size, "supplement.length", length, f"the registers have {_VCPU.size} + 8")
    cpl, *fields = _VCPU.unpack(item)
    check(cpl <= 3, "supplement_vcpu.cpl", cpl, "0..3")
    supplements.check_zero(item, 4, 4, "supplement_vcpu.reserved")
    return vcpu_state(fields, cpl)


def encode_source(exit_: SourceExit, guest_ns: int) -> bytes:
    """The bytes of an EXIT_SOURCE, as a client sends it."""
    tail = supplements.pack_item(CODE, exit_.code) if exit_.code else b""
    if exit_.state is not None:
        tail += supplements.pack_item(VCPU, _VCPU.pack(exit_.state.cpl, *vcpu_fields(exit_.state)))
    tail += supplements.pack_exit(exit_.supplied)
    numbers = (exit_.vcpu, exit_.sequence, guest_ns, len(exit_.body))
    return finish(SOURCE, 0, _padded(exit_.body) + tail, *numbers)


def reply_tail(reply: Reply) -> bytes:
    """What follows the fixed part of a REPLY."""
    return _padded(reply.body) + supplements.pack_delta(Delta(0, 0, {}, reply.memory, reply.vectors))


def parse_reply(form: Form, data: bytes, length: int) -> Reply:
    """The mirror of `reply_tail`, for clients."""
    body, tail = _split(form, data, length)
    delta = supplements.parse_delta(Delta(0, 0), tail)
    return Reply(body, delta.memory, delta.vectors)


def _padded(body: bytes) -> bytes:
    return body + bytes(-len(body) % 8)
