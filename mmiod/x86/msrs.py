"""RDMSR and WRMSR (SDM vol. 2): the driver answers, or raises #GP(0) where no register is."""

from __future__ import annotations

from typing import Final

from mmiod.values import VcpuState
from mmiod.x86 import faults
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault
from mmiod.x86.flows import Shape
from mmiod.x86.operands import GENERAL, RAX, RCX, RDX
from mmiod.x86.steps import ReadMsr, Run, WriteMsr

_LOW: Final = 0xFFFF_FFFF
_EAX, _ECX, _EDX = (GENERAL[4][number] for number in (RAX, RCX, RDX))


def msr_read(i: Instruction, vcpu: VcpuState) -> Run:
    """RDMSR: into EDX:EAX; the upper halves of both registers are cleared."""
    _check_privilege(vcpu)
    value = yield ReadMsr(_ECX.read(vcpu))
    return completed(i, vcpu, {RAX: value & _LOW, RDX: value >> 32})


def msr_write(i: Instruction, vcpu: VcpuState) -> Run:
    """WRMSR: from EDX:EAX."""
    _check_privilege(vcpu)
    yield WriteMsr(_ECX.read(vcpu), _EDX.read(vcpu) << 32 | _EAX.read(vcpu))
    return completed(i, vcpu, {})


def _check_privilege(vcpu: VcpuState) -> None:
    if vcpu.cpl:
        raise GuestFault(faults.GP, 0)


SHAPES: Final[dict[str, Shape]] = {"msr_read": msr_read, "msr_write": msr_write}
"""By the opcode table's third column."""
