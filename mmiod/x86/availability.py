"""What has to be there before a vector instruction runs: its unit enabled, its registers known.

SDM vol. 2, 2.4 and 2.8 (exceptions); vol. 3, 14.3 and 14.5.1 (CR4.OSXSAVE, XCR0).
"""

from __future__ import annotations

from typing import Final

from mmiod.values import ExtendedState, NeedRegisters, RegisterSet, VcpuState
from mmiod.x86 import faults, segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.vector_operands import Mmx, Opmask, Vector

CR0_EM: Final = 1 << 2
CR0_TS: Final = 1 << 3
CR4_OSFXSR: Final = 1 << 9
CR4_OSXSAVE: Final = 1 << 18
XCR0_AVX: Final = 0x06
XCR0_AVX512: Final = 0xE6


def check_available(i: Instruction, vcpu: VcpuState) -> None:
    """Raise #UD where the guest did not enable these registers, #NM where it wants to save them first."""
    attributes = i.opcode.attributes
    if attributes & {"sse", "mmx"}:
        missing = vcpu.cr0 & CR0_EM or ("sse" in attributes and not vcpu.cr4 & CR4_OSFXSR)
    else:
        needed = XCR0_AVX512 if attributes & {"evex", "opmask"} else XCR0_AVX
        enabled = vcpu.cr4 & CR4_OSXSAVE and vcpu.xcr0 & needed == needed
        missing = not enabled or not segments.protected(vcpu)
    if missing:
        raise GuestFault(faults.UD)
    if vcpu.cr0 & CR0_TS:
        raise GuestFault(faults.NM)


def known(vcpu: VcpuState, *operands: Vector | Opmask | Mmx | None) -> ExtendedState:
    """The registers, if they are known; else asks for them and for what was known before."""
    sets = RegisterSet(0)
    for operand in operands:
        if operand is not None:
            sets |= operand.sets
    if lacking := vcpu.lacking(sets):
        raise Suspend(NeedRegisters(lacking))
    return vcpu.extended or ExtendedState()
