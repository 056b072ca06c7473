"""The code size: all of the vCPU's state that decoding depends on (SDM vol. 1, 3.6)."""

from __future__ import annotations

import enum
from typing import Final

from mmiod.values import CS, VcpuState

EFER_LMA: Final = 1 << 10
RFLAGS_VM: Final = 1 << 17
ATTRIBUTE_L: Final = 1 << 13
ATTRIBUTE_D: Final = 1 << 14


class Mode(enum.IntEnum):
    """Bits of the code that is running; the cached CS decides, in real mode too."""

    CODE16 = 16
    CODE32 = 32
    CODE64 = 64


CODE16: Final = Mode.CODE16
CODE32: Final = Mode.CODE32
CODE64: Final = Mode.CODE64

INSTRUCTION_POINTER_MASK: Final = {mode: (1 << mode) - 1 for mode in Mode}


def mode_of(vcpu: VcpuState) -> Mode:
    """The mode in which `vcpu` decodes; cheap enough for every exit."""
    attributes = vcpu.segments[CS].attributes
    if vcpu.efer & EFER_LMA and attributes & ATTRIBUTE_L:
        return CODE64
    if attributes & ATTRIBUTE_D and not vcpu.rflags & RFLAGS_VM:
        return CODE32
    return CODE16
