"""Microsoft Hypervisor (Hyper-V, /dev/mshv): intercept messages.

Body: HV_MESSAGE, 256 bytes, its payload from 16.  Memory intercepts and strings have no
room for registers: those come as supplement VCPU, and the answer is DONE or FAULT.  Port
and MSR intercepts are answered by the message with RAX (RDX) and RIP to be set.

Specification: Microsoft, Hypervisor Top-Level Functional Specification, 6.0b, 11.9-11.10
(intercept messages); layouts: hvgdk_mini.h and hvhdk.h as published with Linux.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import direction_of, msr_access, port_access, put_result
from mmiod.protocol.sources.source import Memory, Settle, instruction, supplied_state
from mmiod.values import Completion, DecodedExit, Direction, Exit, Forward, Intent, Values

MESSAGE: Final = layout(
    "hv_message",
    """
    0  u32 message_type
    21 u8  access_type
    22 u16 execution_state
    40 u64 rip
    48 u64 rflags
    """,
    length=256,
)
"""With the intercept header, in which the payload of all these messages begins."""
MEMORY: Final = layout(
    "hv_memory_intercept",
    """
    60 u8     instruction_byte_count
    61 u8     access_info
    64 u64    gva
    72 u64    gpa
    80 u8[16] instruction_bytes
    """,
)
PORT: Final = layout(
    "hv_io_port_intercept",
    """
    20  u8     instruction_length
    40  u64    rip
    56  u16    port
    58  u8     access_info
    59  u8     instruction_byte_count
    64  u64    rax
    72  u8[16] instruction_bytes
    """,
)
MSR: Final = layout(
    "hv_msr_intercept",
    """
    20 u8  instruction_length
    40 u64 rip
    56 u32 msr
    64 u64 rdx
    72 u64 rax
    """,
)

LENGTH: Final = 0xF
"""Of `instruction_length`; above is CR8.  0: not known."""
PENDING: Final = 1 << 5
"""Of the execution state: the access came from delivering an event."""
GVA_VALID: Final = 1
SIZE, STRING = 7, 1 << 3
"""Of a port's access information."""
INTENTS: Final = tuple(Intent)
MAX_CODE: Final = 15


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access, or the instruction, of the intercept."""
    message = MESSAGE.view(arrived.body)
    found = _TYPES.get(message["message_type"])
    if found is None:
        raise Settle(Forward())
    return found(arrived, message)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The message with the registers to set."""
    if not (isinstance(completion, Values) and isinstance(exit_, DecodedExit)):
        return completion
    message = MESSAGE.view(arrived.body)
    intercept = (PORT if message["message_type"] == IO_PORT else MSR).within(message, 0)
    put_result(intercept, exit_, completion.data)
    length = intercept["instruction_length"] & LENGTH
    intercept["rip"] = intercept["rip"] + length & (1 << 64) - 1
    return Reply(bytes(message.data))


# --- messages ------------------------------------------------------------------------


def _memory_intercept(arrived: SourceExit, message: View) -> Exit:
    found = MEMORY.within(message, 0)
    kind = message["access_type"]
    check(kind < len(INTENTS), "hv_message.access_type", kind, "0 read, 1 write, 2 execute")
    gva = found["gva"] if found["access_info"] & GVA_VALID else None
    return _instruction(arrived, message, found, gpa=found["gpa"], gva=gva, intent=INTENTS[kind])


def _port(arrived: SourceExit, message: View) -> Exit:
    found = PORT.within(message, 0)
    size = found["access_info"] & SIZE
    check(
        size in {1, 2, 4}, "hv_io_port_intercept.access_info", found["access_info"], "bits 2:0 are 1, 2 or 4"
    )
    if found["access_info"] & STRING or not found["instruction_length"] & LENGTH:
        return _instruction(arrived, message, found)
    return port_access(arrived, found, _direction(message), found["port"], size)


def _msr(arrived: SourceExit, message: View) -> Exit:
    found = MSR.within(message, 0)
    check(found["instruction_length"] & LENGTH, "hv_message.instruction_length", 0, "an MSR access has one")
    return msr_access(arrived, found, _direction(message), found["msr"])


def _direction(message: View) -> Direction:
    kind = message["access_type"]
    check(kind <= 1, "hv_message.access_type", kind, "0 read, 1 write")
    return direction_of(kind)


IO_PORT: Final = 0x8001_0000
_TYPES: Final[dict[int, Callable[[SourceExit, View], Exit]]] = {
    0x8000_0000: _memory_intercept,  # HvMessageTypeUnmappedGpa
    0x8000_0001: _memory_intercept,  # HvMessageTypeGpaIntercept
    IO_PORT: _port,
    0x8001_0001: _msr,
}


def _instruction(
    arrived: SourceExit,
    message: View,
    found: View,
    *,
    gpa: int | None = None,
    gva: int | None = None,
    intent: Intent | None = None,
) -> Exit:
    count = found["instruction_byte_count"]
    check(count <= 16, f"{found.layout.name}.instruction_byte_count", count, "at most 16")
    state = evolve(supplied_state(arrived), rip=message["rip"], rflags=message["rflags"])
    return instruction(
        arrived,
        state,
        found.octets("instruction_bytes")[: min(count, MAX_CODE)],
        gpa=gpa,
        gva=gva,
        intent=intent,
        event_delivery=bool(message["execution_state"] & PENDING),
    )
