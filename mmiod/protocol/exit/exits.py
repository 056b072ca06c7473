"""Exits as bytes: EXIT_* and POSTED to and from the classes of `mmiod.values`.

Specification: docs/protocol.md, "Exits".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import supplements
from mmiod.protocol.exit.codec import BY_NAME, ERROR, UNKNOWN_TYPE, Form, check, check_tail, finish, frame
from mmiod.protocol.exit.table import MAX_MESSAGE, NUMBERS
from mmiod.values import (
    Access,
    AcknowledgeExit,
    DecodedExit,
    Direction,
    Exit,
    HaltExit,
    RawExit,
    Segment,
    Space,
    TickExit,
    VcpuState,
)

DECODED: Final = BY_NAME["EXIT_DECODED"]
RAW: Final = BY_NAME["EXIT_RAW"]
HALT: Final = BY_NAME["EXIT_HALT"]
TICK: Final = BY_NAME["EXIT_TICK"]
INTA: Final = BY_NAME["EXIT_INTA"]
POSTED: Final = BY_NAME["POSTED"]

GPA: Final = NUMBERS["exit_raw_flag"]["GPA"]
GVA: Final = NUMBERS["exit_raw_flag"]["GVA"]
INTENT: Final = NUMBERS["exit_raw_flag"]["INTENT"]
EVENT_DELIVERY: Final = NUMBERS["exit_raw_flag"]["EVENT_DELIVERY"]

SIZES: Final = frozenset({1, 2, 4, 8, 16, 32, 64})
POSTED_SIZES: Final = frozenset({1, 2, 4, 8})
MAX_ELEMENTS: Final = MAX_MESSAGE - max(DECODED.struct.size, BY_NAME["VALUES"].struct.size)
"""Bytes that the elements of one decoded exit may have, in either direction."""
MAX_CODE: Final = 15
MSR_SIZE: Final = 8
INLINE: Final = 8
"""Bytes of elements that travel in `value`; more go behind the message."""

SPACES: Final = tuple(Space)
DIRECTIONS: Final = tuple(Direction)
SPACE_BITS: Final = {Space.MMIO: 64, Space.PIO: 16, Space.PCI_CONFIG: 28, Space.MSR: 32}
"""How many bits an address in this space has."""


@frozen
class PostedWrite:
    """A write nobody waits for; `sequence` counts the posted writes of its vCPU."""

    vcpu: int
    sequence: int
    guest_ns: int
    access: Access


def decode_exit(data: bytes) -> tuple[Exit, int]:
    """One EXIT_* datagram as (exit, guest_ns).

    Raises:
        ProtocolError: naming the field.
    """
    form, flags = frame(data)
    decode = DECODERS.get(form.type)
    if decode is None:
        raise ProtocolError(UNKNOWN_TYPE, "header.type", form.type, f"{form.layout.name} is no exit")
    return decode(data, flags)


def _check_sequence(form: Form, sequence: int) -> None:
    if not sequence:
        raise ProtocolError(ERROR["SEQUENCE"], f"{form.name}.exit.sequence", 0, "sequences begin with 1")


def _place(form: Form, space: int, address: int) -> Space:
    check(space < len(SPACES), f"{form.name}.space", space, "0 MMIO, 1 PIO, 2 PCI_CONFIG, 3 MSR")
    found = SPACES[space]
    bits = SPACE_BITS[found]
    check(address < 1 << bits, f"{form.name}.address", address, f"a {found.name} address has {bits} bits")
    return found


# --- decoded -------------------------------------------------------------------------


def _decode_decoded(data: bytes, _flags: int) -> tuple[Exit, int]:
    _, _, _, vcpu, sequence, guest_ns, address, value, space, direction, size, count, stride = (
        DECODED.struct.unpack_from(data)
    )
    _check_sequence(DECODED, sequence)
    place = _place(DECODED, space, address)
    check(direction < len(DIRECTIONS), "exit_decoded.direction", direction, "0 reads, 1 writes")
    check(size in SIZES, "exit_decoded.size", size, "an element has 1, 2, 4, 8, 16, 32 or 64 bytes")
    check(1 <= count <= MAX_ELEMENTS // size, "exit_decoded.count", count, f"1..{MAX_ELEMENTS // size}")
    if place is Space.MSR:
        check(size == MSR_SIZE, "exit_decoded.size", size, f"an MSR has {MSR_SIZE} bytes")
        check(count == 1, "exit_decoded.count", count, "MSRs are accessed one by one")
    check(-1 <= stride <= 1, "exit_decoded.stride", stride, "-1, 0 or 1")
    written = count * size if direction else 0
    check_tail(DECODED, len(data), written if written > INLINE else 0)
    return DecodedExit(
        vcpu,
        sequence,
        place,
        DIRECTIONS[direction],
        address,
        size,
        count,
        stride,
        elements(DECODED, data, written, value),
    ), guest_ns


def elements(form: Form, data: bytes, length: int, value: int) -> bytes:
    """The `length` bytes of elements, which are in `value` or behind the fixed part."""
    inline = length if length <= INLINE else 0
    check(value < 1 << 8 * inline, f"{form.name}.value", value, f"it holds {inline} bytes here")
    return value.to_bytes(length, "little") if inline else data[form.struct.size :]


def split_elements(data: bytes) -> tuple[int, bytes]:
    """Elements as (value, tail)."""
    return (int.from_bytes(data, "little"), b"") if len(data) <= INLINE else (0, data)


def _encode_decoded(exit_: DecodedExit, guest_ns: int) -> bytes:
    value, tail = split_elements(exit_.data)
    return finish(
        DECODED, 0, tail,
        exit_.vcpu, exit_.sequence, guest_ns, exit_.address, value,
        exit_.space, exit_.direction, exit_.size, exit_.count, exit_.stride,
    )  # fmt: skip


# --- raw -----------------------------------------------------------------------------

_VCPU = 12
"""Where struct vcpu begins in EXIT_RAW; what follows counts from there."""
_GPR = slice(0, 16)
_SYSTEM = 16
"""rip rflags cr0 cr2 cr3 cr4 efer xcr0 dr6 dr7"""
_SEGMENTS = 26
"""Ten segments of four values: es cs ss ds fs gs, tr ldtr gdtr idtr."""


def _decode_raw(data: bytes, flags: int) -> tuple[Exit, int]:
    fields = RAW.struct.unpack_from(data)
    vcpu, sequence, guest_ns, gpa, gva, intent, code_length, cpl, code = fields[3:_VCPU]
    _check_sequence(RAW, sequence)
    check(flags & GPA or not gpa, "exit_raw.gpa", gpa, "it is zero without flag GPA")
    check(flags & GVA or not gva, "exit_raw.gva", gva, "it is zero without flag GVA")
    check(flags & INTENT or not intent, "exit_raw.intent", intent, "it is zero without flag INTENT")
    check(intent < len(supplements.INTENTS), "exit_raw.intent", intent, "0 read, 1 write, 2 execute")
    check(code_length <= MAX_CODE, "exit_raw.code_length", code_length, f"at most {MAX_CODE}")
    check(cpl <= 3, "exit_raw.cpl", cpl, "0..3")
    supplied = supplements.parse_exit(data[RAW.struct.size :])
    state = vcpu_state(fields[_VCPU:], cpl)
    state.extended = supplied.extended
    return RawExit(
        vcpu=vcpu,
        sequence=sequence,
        state=state,
        code=code[:code_length],
        gpa=gpa if flags & GPA else None,
        gva=gva if flags & GVA else None,
        intent=supplements.INTENTS[intent] if flags & INTENT else None,
        event_delivery=bool(flags & EVENT_DELIVERY),
        translations=supplied.translations,
        memory=supplied.memory,
    ), guest_ns


def vcpu_state(fields: Sequence[int], cpl: int) -> VcpuState:
    """The state that the values of struct vcpu tell, in wire order."""
    rip, rflags, cr0, cr2, cr3, cr4, efer, xcr0, dr6, dr7 = fields[_SYSTEM:_SEGMENTS]
    *segments, tr, ldtr, gdtr, idtr = (
        Segment(*fields[at : at + 4]) for at in range(_SEGMENTS, len(fields), 4)
    )
    return VcpuState(
        gpr=list(fields[_GPR]), rip=rip, rflags=rflags, segments=segments,
        tr=tr, ldtr=ldtr, gdtr=gdtr, idtr=idtr, cpl=cpl,
        cr0=cr0, cr2=cr2, cr3=cr3, cr4=cr4, efer=efer, xcr0=xcr0, dr6=dr6, dr7=dr7,
    )  # fmt: skip


def _encode_raw(exit_: RawExit, guest_ns: int) -> bytes:
    if len(exit_.code) > MAX_CODE:
        raise ValueError(f"{len(exit_.code)} instruction bytes, at most {MAX_CODE}")
    tail = supplements.pack_translations(exit_.translations) + supplements.pack_writes(exit_.memory)
    tail += supplements.pack_registers(exit_.state.extended)
    return finish(
        RAW, _raw_flags(exit_), tail,
        exit_.vcpu, exit_.sequence, guest_ns, exit_.gpa or 0, exit_.gva or 0,
        exit_.intent or 0, len(exit_.code), exit_.state.cpl, exit_.code, *vcpu_fields(exit_.state),
    )  # fmt: skip


def vcpu_fields(state: VcpuState) -> tuple[int, ...]:
    """The values of struct vcpu, in wire order."""
    segments = (*state.segments, state.tr, state.ldtr, state.gdtr, state.idtr)
    return (
        *state.gpr, state.rip, state.rflags, state.cr0, state.cr2, state.cr3, state.cr4,
        state.efer, state.xcr0, state.dr6, state.dr7,
        *(part for s in segments for part in (s.base, s.limit, s.selector, s.attributes)),
    )  # fmt: skip


def _raw_flags(exit_: RawExit) -> int:
    return (
        (GPA if exit_.gpa is not None else 0)
        | (GVA if exit_.gva is not None else 0)
        | (INTENT if exit_.intent is not None else 0)
        | (EVENT_DELIVERY if exit_.event_delivery else 0)
    )


# --- the plain ones ------------------------------------------------------------------


def _plain(
    form: Form, kind: type[HaltExit | TickExit | AcknowledgeExit]
) -> Callable[[bytes, int], tuple[Exit, int]]:
    def decode(data: bytes, _flags: int) -> tuple[Exit, int]:
        _, _, _, vcpu, sequence, guest_ns = form.struct.unpack_from(data)
        _check_sequence(form, sequence)
        return kind(vcpu, sequence), guest_ns

    return decode


DECODERS: Final[dict[int, Callable[[bytes, int], tuple[Exit, int]]]] = {
    DECODED.type: _decode_decoded,
    RAW.type: _decode_raw,
    HALT.type: _plain(HALT, HaltExit),
    TICK.type: _plain(TICK, TickExit),
    INTA.type: _plain(INTA, AcknowledgeExit),
}
_PLAIN: Final = {HaltExit: HALT, TickExit: TICK, AcknowledgeExit: INTA}


def encode_exit(exit_: Exit, guest_ns: int = 0) -> bytes:
    """The bytes of an exit, as a client sends it.

    Raises:
        ValueError: more than 15 instruction bytes, or a message that would be too long.
        struct.error: a number that does not fit its field.
    """
    if isinstance(exit_, DecodedExit):
        return _encode_decoded(exit_, guest_ns)
    if isinstance(exit_, RawExit):
        return _encode_raw(exit_, guest_ns)
    return finish(_PLAIN[type(exit_)], 0, b"", exit_.vcpu, exit_.sequence, guest_ns)


def decode_posted(data: bytes) -> PostedWrite:
    """A POSTED datagram that `frame` has checked."""
    _, _, _, vcpu, sequence, guest_ns, address, value, space, size = POSTED.struct.unpack_from(data)
    _check_sequence(POSTED, sequence)
    place = _place(POSTED, space, address)
    check(size in POSTED_SIZES, "posted.size", size, "a posted write has 1, 2, 4 or 8 bytes")
    check(value < 1 << 8 * size, "posted.value", value, f"it has {size} bytes")
    return PostedWrite(vcpu, sequence, guest_ns, Access(place, Direction.WRITE, address, size, value))


def encode_posted(write: PostedWrite) -> bytes:
    """The bytes of a posted write, as a client sends it."""
    access = write.access
    return finish(
        POSTED, 0, b"",
        write.vcpu, write.sequence, write.guest_ns, access.address, access.value, access.space, access.size,
    )  # fmt: skip
