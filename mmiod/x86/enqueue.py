"""ENQCMD and ENQCMDS: a 64-byte command that the device may refuse (SDM vol. 2)."""

from __future__ import annotations

from typing import Final

from mmiod.values import ES, Intent, NeedRegisters, RegisterSet, VcpuState
from mmiod.x86 import faults
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed, reach
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.flags import ZF
from mmiod.x86.flows import Shape, locate
from mmiod.x86.operands import Memory, Register
from mmiod.x86.steps import Enqueue, Probe, Read, Run

_HEAD: Final = 0xFFFF_FFFF
"""PASID in 19:0, the privilege in 31; the rest is the device's."""
_PASID: Final = 0xF_FFFF
_RESERVED: Final = 0x7FF0_0000
_VALID: Final = 1 << 31


def enqueue(i: Instruction, vcpu: VcpuState, target: Register, memory: Memory) -> Run:
    """Both; ZF tells that the guest has to try again.

    The command is checked after it was read, as on a processor: a source that is a device
    has been read once when #GP is raised for its content.
    """
    user = i.opcode.mnemonic == "enqcmd"
    if vcpu.cpl and not user:
        raise GuestFault(faults.GP, 0)
    pasid = _pasid(vcpu) if user else 0
    source = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    line = Memory(memory.size, ES, target.mask, target.number)
    address = locate(i, vcpu, line, line.offset(vcpu), Intent.WRITE)
    yield Probe(address, memory.size, Intent.WRITE)
    command = yield Read(source, memory.size)
    if command & (_HEAD if user else _RESERVED):
        raise GuestFault(faults.GP, 0)
    taken = yield Enqueue(address, command | pasid)
    return completed(i, vcpu, {}, 0 if taken else ZF)


def _pasid(vcpu: VcpuState) -> int:
    """The address space that system software gave the program."""
    if lacking := vcpu.lacking(RegisterSet.PASID):
        raise Suspend(NeedRegisters(lacking))
    assert vcpu.extended is not None
    if not vcpu.extended.pasid & _VALID:
        raise GuestFault(faults.GP, 0)
    return vcpu.extended.pasid & _PASID


SHAPES: Final[dict[str, Shape]] = {"enqueue": enqueue}
"""By the opcode table's third column."""
