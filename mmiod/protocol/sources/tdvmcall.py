"""Intel TDX: TDG.VP.VMCALL, by which a guest's #VE handler asks for its access.

Body: the sixteen general registers, rax rcx rdx rbx rsp rbp rsi rdi r8..r15, u64 each.
The answer has the status in R10 and what was read in R11; the guest moves registers.

Specification: Intel 348552, Guest-Host Communication Interface, 2.4 (registers, status)
and 3 (instruction.IO, RDMSR, WRMSR, #VE.RequestMMIO).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.exits import MSR_SIZE
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import GPRS, direction_of
from mmiod.protocol.sources.source import Memory, Settle, access
from mmiod.values import Completion, DecodedExit, Direction, Exit, Fault, Forward, Space, Values, ones

REGISTERS: Final = layout(
    "tdvmcall", "\n".join(f"{8 * number} u64 {name}" for number, name in enumerate(GPRS))
)
STANDARD: Final = 0
"""R10 of the calls that the specification defines."""
SUCCESS: Final = 0
OPERAND_INVALID: Final = 1 << 63


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access that is asked for."""
    call = REGISTERS.view(arrived.body)
    handler = _CALLS.get(call["r11"])
    if call["r10"] != STANDARD or handler is None:
        raise Settle(Forward())
    return handler(arrived, call)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The registers with status and value."""
    call = REGISTERS.view(arrived.body)
    if isinstance(completion, Fault):
        return _refused(call)
    if not (isinstance(completion, Values) and isinstance(exit_, DecodedExit)):
        return completion
    call["r10"] = SUCCESS
    if completion.data:
        call["r11"] = int.from_bytes(completion.data, "little")
    return Reply(bytes(call.data))


def _refused(call: View) -> Reply:
    call["r10"] = OPERAND_INVALID
    return Reply(bytes(call.data))


def _accessed(space: Space, sizes: frozenset[int], limit: int) -> Callable[[SourceExit, View], Exit]:
    """R12 size, R13 direction, R14 address, R15 data."""

    def read_access(arrived: SourceExit, call: View) -> Exit:
        size, direction, address = call["r12"], call["r13"], call["r14"]
        if size not in sizes or direction > 1 or address >= limit:
            raise Settle(_refused(call))
        data = (call["r15"] & ones(size)).to_bytes(size, "little")
        return access(arrived, space, direction_of(direction), address, size, data)

    return read_access


def _msr(direction: Direction) -> Callable[[SourceExit, View], Exit]:
    """R12 index, R13 data."""

    def read_msr(arrived: SourceExit, call: View) -> Exit:
        if call["r12"] >= 1 << 32:
            raise Settle(_refused(call))
        data = call["r13"].to_bytes(MSR_SIZE, "little")
        return access(arrived, Space.MSR, direction, call["r12"], MSR_SIZE, data)

    return read_msr


_CALLS: Final[dict[int, Callable[[SourceExit, View], Exit]]] = {
    0x1E: _accessed(Space.PIO, frozenset({1, 2, 4}), 1 << 16),
    0x1F: _msr(Direction.READ),
    0x20: _msr(Direction.WRITE),
    0x30: _accessed(Space.MMIO, frozenset({1, 2, 4, 8}), 1 << 64),
}
"""By sub-function."""
