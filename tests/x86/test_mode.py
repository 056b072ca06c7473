"""The code size from the state."""

from __future__ import annotations

import pytest

from mmiod.values import CS, VcpuState
from mmiod.x86 import Mode, mode_of

LMA, PE, VM = 1 << 10, 1, 1 << 17


@pytest.mark.parametrize(
    ("attributes", "efer", "cr0", "rflags", "mode"),
    [
        (0x009B, 0, 0, 2, Mode.CODE16),  # real mode
        (0x409B, 0, 0, 2, Mode.CODE32),  # real mode before CS is reloaded
        (0x009B, 0, PE, 2, Mode.CODE16),
        (0xC09B, 0, PE, 2, Mode.CODE32),
        (0x20FB, 0, PE, 2, Mode.CODE16),  # L means nothing without long mode
        (0xA09B, LMA, PE, 2, Mode.CODE64),
        (0xC09B, LMA, PE, 2, Mode.CODE32),  # compatibility mode
        (0x009B, LMA, PE, 2, Mode.CODE16),
        (0x00F3, 0, PE, 2 | VM, Mode.CODE16),
        (0x40F3, 0, PE, 2 | VM, Mode.CODE16),  # v86 has no D
    ],
)
def test_mode(attributes: int, efer: int, cr0: int, rflags: int, mode: Mode) -> None:
    """EFER.LMA with CS.L, else CS.D, except in virtual-8086 mode (SDM vol. 1, 3.6)."""
    vcpu = VcpuState(efer=efer, cr0=cr0, rflags=rflags)
    vcpu.segments[CS].attributes = attributes
    assert mode is mode_of(vcpu)
