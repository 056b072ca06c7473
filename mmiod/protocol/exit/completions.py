"""Completions as bytes, to and from the classes of `mmiod.values`.

Specification: docs/protocol.md, "Completions".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import supplements
from mmiod.protocol.exit.codec import BY_NAME, UNKNOWN_TYPE, Form, check, check_tail, finish, frame
from mmiod.protocol.exit.exits import INLINE, MAX_CODE, MAX_ELEMENTS, elements, split_elements
from mmiod.protocol.exit.sourced import Reply, parse_reply, reply_tail
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import (
    Completion,
    Delta,
    Done,
    Fault,
    Forward,
    NeedBytes,
    NeedMemory,
    NeedRegisters,
    NeedTranslation,
    Refusal,
    Refused,
    RegisterSet,
    Retry,
    Unsupported,
    Values,
)

NO_DEADLINE: Final = (1 << 64) - 1
"""`deadline_ns` of a completion while no timer is armed."""

SHADOW: Final = NUMBERS["done_flag"]["SHADOW"]
ERROR_CODE: Final = NUMBERS["fault_flag"]["ERROR_CODE"]
CR2: Final = NUMBERS["fault_flag"]["CR2"]
DELTA: Final = NUMBERS["fault_flag"]["DELTA"]
DEBUG: Final = 0x400F
"""The bits of DR6 that tell of an instruction: B0-B3 and BS."""
GPRS: Final = 16
_UNCHANGED: Final[tuple[int, ...]] = (0,) * (GPRS + 3)
"""gpr, rip, rflags and changed of a fault without a delta."""
_ALL_SETS: Final = (1 << len(RegisterSet)) - 1
_REFUSALS: Final = frozenset(Refusal)

Answer = Completion | Reply
"""What an exit is answered by."""
Body = tuple[int, bytes, tuple[int | bytes, ...]]
"""Flags, tail and the fields behind the common ones."""


@frozen
class Completed:
    """A completion with what every completion tells besides."""

    vcpu: int
    sequence: int
    completion: Answer
    interrupt: bool
    """An interrupt is pending for this vCPU."""
    posted: int
    """The highest posted write of this vCPU that was applied."""
    guest_ns: int
    deadline_ns: int
    """Guest time of the next timer, NO_DEADLINE if none is armed."""


def encode_completion(
    completion: Answer,
    *,
    vcpu: int,
    sequence: int,
    posted: int,
    interrupt: bool,
    guest_ns: int,
    deadline_ns: int,
) -> bytes:
    """The bytes of a completion.

    Raises:
        ValueError: if the elements or the memory writes are larger than a message.
    """
    form, encode = _ENCODERS[type(completion)]
    flags, tail, fields = encode(completion)
    return finish(form, flags, tail, vcpu, interrupt, sequence, posted, guest_ns, deadline_ns, *fields)


def decode_completion(data: bytes) -> Completed:
    """The mirror of `encode_completion`, for clients.

    Raises:
        ProtocolError: naming the field.
    """
    form, flags = frame(data)
    decode = DECODERS.get(form.type)
    if decode is None:
        raise ProtocolError(UNKNOWN_TYPE, "header.type", form.type, f"{form.layout.name} is no completion")
    _, _, _, vcpu, interrupt, sequence, posted, guest_ns, deadline_ns, *fields = form.struct.unpack_from(data)
    check(interrupt <= 1, f"{form.name}.completion.interrupt", interrupt, "0 or 1")
    completion = decode(form, data, flags, fields)
    return Completed(vcpu, sequence, completion, bool(interrupt), posted, guest_ns, deadline_ns)


# --- encoders: completion -> (flags, tail, fields) -----------------------------------


def _encode_values(done: Values) -> Body:
    value, tail = split_elements(done.data)
    return 0, tail, (value, len(done.data))


def _registers(delta: Delta) -> tuple[int, ...]:
    """gpr, rip, rflags and changed, as DONE and FAULT begin."""
    gpr = [0] * GPRS
    changed = 0
    for number, value in delta.registers.items():
        gpr[number] = value
        changed |= 1 << number
    return (*gpr, delta.rip, delta.rflags, changed)


def _encode_done(done: Done) -> Body:
    flags = SHADOW if done.delta.shadow else 0
    return flags, supplements.pack_delta(done.delta), (*_registers(done.delta), done.delta.debug)


def _encode_fault(fault: Fault) -> Body:
    flags, tail, registers = 0, b"", _UNCHANGED
    if fault.error_code is not None:
        flags |= ERROR_CODE
    if fault.cr2 is not None:
        flags |= CR2
    if fault.delta is not None:
        flags |= DELTA
        tail, registers = supplements.pack_delta(fault.delta), _registers(fault.delta)
    return flags, tail, (*registers, fault.vector, fault.error_code or 0, fault.cr2 or 0)


_ENCODERS: Final[dict[type[Answer], tuple[Form, Callable[..., Body]]]] = {
    Values: (BY_NAME["VALUES"], _encode_values),
    Done: (BY_NAME["DONE"], _encode_done),
    Fault: (BY_NAME["FAULT"], _encode_fault),
    Retry: (BY_NAME["RETRY"], lambda _: (0, b"", ())),
    NeedBytes: (BY_NAME["NEED_BYTES"], lambda need: (0, b"", (need.address, need.count))),
    NeedMemory: (BY_NAME["NEED_MEMORY"], lambda need: (0, b"", (need.gpa, need.size))),
    NeedTranslation: (BY_NAME["NEED_TRANSLATION"], lambda need: (0, b"", (need.gva, need.intent, need.cpl))),
    NeedRegisters: (BY_NAME["NEED_REGISTERS"], lambda need: (0, b"", (need.registers,))),
    Unsupported: (BY_NAME["UNSUPPORTED"], lambda no: (0, b"", (no.code, len(no.code)))),
    Refused: (BY_NAME["REFUSED"], lambda no: (0, b"", (no.reason,))),
    Forward: (BY_NAME["FORWARD"], lambda _: (0, b"", ())),
    Reply: (BY_NAME["REPLY"], lambda reply: (0, reply_tail(reply), (len(reply.body),))),
}


# --- decoders: (form, datagram, flags, fields behind the common ones) -> completion --


def _decode_values(form: Form, data: bytes, _flags: int, fields: list[int]) -> Values:
    value, length = fields
    check(length <= MAX_ELEMENTS, "values.length", length, f"at most {MAX_ELEMENTS}")
    check_tail(form, len(data), length if length > INLINE else 0)
    return Values(elements(form, data, length, value))


def _delta(form: Form, data: bytes, fields: list[int]) -> Delta:
    gpr, rip, rflags, changed = fields[:GPRS], *fields[GPRS : GPRS + 3]
    check(changed < 1 << GPRS, f"{form.name}.changed", changed, f"there are {GPRS} registers")
    for number, value in enumerate(gpr):
        check(changed >> number & 1 or not value, f"{form.name}.gpr[{number}]", value, "it has not changed")
    registers = {number: gpr[number] for number in range(GPRS) if changed >> number & 1}
    return supplements.parse_delta(Delta(rip, rflags, registers), data[form.struct.size :])


def _decode_done(form: Form, data: bytes, flags: int, fields: list[int]) -> Done:
    delta = _delta(form, data, fields)
    check(not fields[-1] & ~DEBUG, "done.debug", fields[-1], "bits 3:0 and 14")
    return Done(evolve(delta, debug=fields[-1], shadow=bool(flags & SHADOW)))


def _decode_fault(form: Form, data: bytes, flags: int, fields: list[int]) -> Fault:
    vector, error_code, cr2 = fields[-3:]
    check(vector < 32, "fault.vector", vector, "exceptions are 0..31")
    check(flags & ERROR_CODE or not error_code, "fault.error_code", error_code, "it is zero without its flag")
    check(flags & CR2 or not cr2, "fault.cr2", cr2, "it is zero without its flag")
    delta = _delta(form, data, fields)
    if not flags & DELTA:
        check_tail(form, len(data), 0)
        check(delta == Delta(0, 0), "fault.rip", delta.rip, "registers are zero without flag DELTA")
    return Fault(
        vector,
        error_code if flags & ERROR_CODE else None,
        cr2 if flags & CR2 else None,
        delta if flags & DELTA else None,
    )


def _decode_need_bytes(_form: Form, _data: bytes, _flags: int, fields: list[int]) -> NeedBytes:
    address, count = fields
    check(1 <= count <= MAX_CODE, "need_bytes.count", count, f"1..{MAX_CODE}")
    return NeedBytes(address, count)


def _decode_need_memory(_form: Form, _data: bytes, _flags: int, fields: list[int]) -> NeedMemory:
    gpa, length = fields
    check(length > 0, "need_memory.length", length, "at least 1")
    return NeedMemory(gpa, length)


def _decode_need_translation(_form: Form, _data: bytes, _flags: int, fields: list[int]) -> NeedTranslation:
    gva, intent, cpl = fields
    check(intent < len(supplements.INTENTS), "need_translation.intent", intent, "0 read, 1 write, 2 execute")
    check(cpl <= 3, "need_translation.cpl", cpl, "0..3")
    return NeedTranslation(gva, supplements.INTENTS[intent], cpl)


def _decode_need_registers(_form: Form, _data: bytes, _flags: int, fields: list[int]) -> NeedRegisters:
    (registers,) = fields
    check(0 < registers <= _ALL_SETS, "need_registers.registers", registers, "bits of register_set")
    return NeedRegisters(RegisterSet(registers))


def _decode_unsupported(_form: Form, _data: bytes, _flags: int, fields: list[int | bytes]) -> Unsupported:
    code, length = fields
    assert isinstance(code, bytes)
    assert isinstance(length, int)
    check(length <= MAX_CODE, "unsupported.code_length", length, f"at most {MAX_CODE}")
    return Unsupported(code[:length])


def _decode_refused(_form: Form, _data: bytes, _flags: int, fields: list[int]) -> Refused:
    (reason,) = fields
    check(reason in _REFUSALS, "refused.reason", reason, "a number of enum refusal")
    return Refused(Refusal(reason))


def _decode_reply(form: Form, data: bytes, _flags: int, fields: list[int]) -> Reply:
    return parse_reply(form, data, fields[0])


_DECODERS: Final[dict[str, Callable[..., Answer]]] = {
    "VALUES": _decode_values,
    "DONE": _decode_done,
    "FAULT": _decode_fault,
    "RETRY": lambda *_: Retry(),
    "NEED_BYTES": _decode_need_bytes,
    "NEED_MEMORY": _decode_need_memory,
    "NEED_TRANSLATION": _decode_need_translation,
    "NEED_REGISTERS": _decode_need_registers,
    "UNSUPPORTED": _decode_unsupported,
    "REFUSED": _decode_refused,
    "FORWARD": lambda *_: Forward(),
    "REPLY": _decode_reply,
}
DECODERS: Final = {BY_NAME[name].type: decode for name, decode in _DECODERS.items()}
