"""bhyve: struct vm_exit of FreeBSD's vmm.ko.

INST_EMUL and INOUT_STR have no room for registers: those come as supplement VCPU, and the
answer is DONE or FAULT.  INOUT is answered by `eax`, RDMSR by `wval`; vmm.ko steps over
those instructions itself.

Specification: FreeBSD, sys/amd64/include/vmm.h (struct vm_exit, struct vie).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.exit.exits import MSR_SIZE
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import direction_of, merged
from mmiod.protocol.sources.source import Memory, Settle, access, instruction, supplied_state
from mmiod.values import READ, Completion, DecodedExit, Direction, Exit, Forward, Space, Values, ones

EXIT: Final = layout(
    "vm_exit",
    """
    0 u32 exitcode
    8 u64 rip
    """,
)
INOUT: Final = layout("vm_exit.inout", "16 u16 bits\n18 u16 port\n20 u32 eax")
MSR: Final = layout("vm_exit.msr", "16 u32 code\n24 u64 wval")
EMULATE: Final = layout(
    "vm_exit.inst_emul",
    """
    16 u64     gpa
    24 u64     gla
    72 u8[15]  inst
    87 u8      num_valid
    """,
    length=136,
)

BYTES, IN, STRING = 7, 1 << 3, 1 << 4
"""Of `bits`."""
NO_GLA: Final = (1 << 64) - 1
"""VIE_INVALID_GLA."""


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access, or the instruction, of the exit."""
    exit_ = EXIT.view(arrived.body)
    found = _CODES.get(exit_["exitcode"])
    if found is None:
        raise Settle(Forward())
    return found(arrived, exit_)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The exit with the value read."""
    if not (isinstance(completion, Values) and isinstance(exit_, DecodedExit)):
        return completion
    vm_exit = EXIT.view(arrived.body)
    value = int.from_bytes(completion.data, "little")
    if exit_.direction == READ and exit_.space == Space.MSR:
        MSR.within(vm_exit, 0)["wval"] = value
    elif exit_.direction == READ:
        inout = INOUT.within(vm_exit, 0)
        inout["eax"] = merged(inout["eax"], exit_.size, value)
    return Reply(bytes(vm_exit.data))


# --- exit codes ----------------------------------------------------------------------


def _port(arrived: SourceExit, vm_exit: View) -> Exit:
    inout = INOUT.within(vm_exit, 0)
    bits, size = inout["bits"], inout["bits"] & BYTES
    if bits & STRING:
        return _string(arrived, vm_exit)
    check(size in {1, 2, 4}, "vm_exit.inout.bits", bits, "bytes are 1, 2 or 4")
    data = (inout["eax"] & ones(size)).to_bytes(size, "little")
    return access(arrived, Space.PIO, direction_of(not bits & IN), inout["port"], size, data)


def _msr(direction: Direction) -> Callable[[SourceExit, View], Exit]:
    def read_msr(arrived: SourceExit, vm_exit: View) -> Exit:
        msr = MSR.within(vm_exit, 0)
        return access(arrived, Space.MSR, direction, msr["code"], MSR_SIZE, msr.octets("wval"))

    return read_msr


def _string(arrived: SourceExit, vm_exit: View) -> Exit:
    return instruction(arrived, evolve(supplied_state(arrived), rip=vm_exit["rip"]))


def _emulate(arrived: SourceExit, vm_exit: View) -> Exit:
    found = EMULATE.within(vm_exit, 0)
    count, gla = found["num_valid"], found["gla"]
    check(count <= 15, "vm_exit.inst_emul.num_valid", count, "at most 15")
    state = evolve(supplied_state(arrived), rip=vm_exit["rip"])
    code = found.octets("inst")[:count]
    return instruction(arrived, state, code, gpa=found["gpa"], gva=None if gla == NO_GLA else gla)


_CODES: Final[dict[int, Callable[[SourceExit, View], Exit]]] = {
    0: _port,  # VM_EXITCODE_INOUT
    3: _msr(Direction.READ),
    4: _msr(Direction.WRITE),
    9: _emulate,
    15: _string,  # VM_EXITCODE_INOUT_STR
}
