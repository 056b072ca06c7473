"""Addresses with a tag: linear-address masking (LAM) and upper address ignore (UAI)."""

from __future__ import annotations

import pytest

from mmiod.values import FS, VcpuState
from mmiod.x86 import GuestFault, Mode
from tests.x86.oracle import Driver
from tests.x86.states import execute, fault_of, flat

LOAD = "8b 1a"  # ebx, [rdx]
U57, U48 = 1 << 61, 1 << 62  # CR3
LA57, SUP = 1 << 12, 1 << 28  # CR4
UAIE = 1 << 20 | 0x500  # EFER, with long mode
GP = (13, 0)


def tagged(address: int, **control: int) -> VcpuState:
    """64-bit code that loads from there."""
    return flat(Mode.CODE64, rdx=address, **control)


@pytest.mark.parametrize(
    ("address", "control", "linear"),
    [
        # LAM48, user: 62:48 are ignored, 63 has to be 47.
        (0x7FFF_1234_5678_9ABC, {"cr3": U48}, 0x1234_5678_9ABC),
        (0x0001_1234_5678_9ABC, {"cr3": U48}, 0x1234_5678_9ABC),
        (0x7FFF_9234_5678_9ABC, {"cr3": U48}, None),
        (0x7FFF_1234_5678_9ABC, {}, None),
        # LAM57, user: 62:57 are ignored, 56:47 are not.
        (0x7E00_1234_5678_9ABC, {"cr3": U57}, 0x1234_5678_9ABC),
        (0x7F00_1234_5678_9ABC, {"cr3": U57}, None),  # 63 is not 56
        (0x7E01_1234_5678_9ABC, {"cr3": U57}, None),
        (0x7E01_1234_5678_9ABC, {"cr3": U57, "cr4": LA57}, 0x0001_1234_5678_9ABC),
        (0x7E00_1234_5678_9ABC, {"cr3": U57 | U48}, 0x1234_5678_9ABC),
        (0x7FFE_1234_5678_9ABC, {"cr3": U57 | U48}, None),  # LAM57 goes first
        # Supervisor addresses: CR4.LAM_SUP, as wide as addresses are.
        (0x8000_9234_5678_9ABC, {"cr4": SUP}, 0xFFFF_9234_5678_9ABC),
        (0x8000_1234_5678_9ABC, {"cr4": SUP}, None),
        (0x8100_1234_5678_9ABC, {"cr4": SUP | LA57}, 0xFF00_1234_5678_9ABC),
        (0x8000_9234_5678_9ABC, {"cr4": SUP | LA57}, None),
        (0x8000_9234_5678_9ABC, {"cr3": U48 | U57}, None),
        (0x7FFF_1234_5678_9ABC, {"cr4": SUP}, None),
        # UAI: 63:57 are ignored, whatever the half.
        (0xFE00_1234_5678_9ABC, {"efer": UAIE}, 0x1234_5678_9ABC),
        (0x7E00_1234_5678_9ABC, {"efer": UAIE}, 0x1234_5678_9ABC),
        (0x01FF_9234_5678_9ABC, {"efer": UAIE}, 0xFFFF_9234_5678_9ABC),
        (0x0100_1234_5678_9ABC, {"efer": UAIE}, None),
        (0x0100_1234_5678_9ABC, {"efer": UAIE, "cr4": LA57}, 0xFF00_1234_5678_9ABC),
    ],
)
def test_tag_is_ignored(address: int, control: dict[str, int], linear: int | None) -> None:
    """What is left is canonical or #GP(0) (SDM vol. 3, 4.4; APM vol. 2, 5.10)."""
    if linear is None:
        assert GP == fault_of(LOAD, tagged(address, **control))
        return
    driver = Driver()
    execute(LOAD, tagged(address, **control), driver)
    assert [linear] == [effect.address for effect in driver.trace]


def test_operand_may_not_leave_its_half_behind_the_tag() -> None:
    """The last byte counts, without the tag."""
    assert GP == fault_of(LOAD, tagged(0x7E00_7FFF_FFFF_FFFD, cr3=U57))
    assert None is fault_of(LOAD, tagged(0x7E00_7FFF_FFFF_FFFC, cr3=U57))


def test_base_is_added_before_the_tag_goes() -> None:
    """The tag may be in FS's base."""
    vcpu, driver = tagged(0x10, cr3=U57), Driver()
    vcpu.segments[FS].base = 0x7E00_0000_0000_1000
    execute("64 8b 1a", vcpu, driver)
    assert [0x1010] == [effect.address for effect in driver.trace]


def test_code_has_no_tag() -> None:
    """Only accesses of data are masked: a jump to a tagged address is #GP(0)."""
    vcpu = tagged(0x1000, cr3=U57, efer=UAIE)
    driver = Driver()
    driver.memory.write(0x1000, 8, 0x7E00_0000_0000_2000)
    assert GP == _fault("ff 22", vcpu, driver)


def _fault(code: str, vcpu: VcpuState, driver: Driver) -> tuple[int, int | None] | None:
    """The fault of an instruction that may have read its operand before it."""
    try:
        execute(code, vcpu, driver)
    except GuestFault as fault:
        return fault.vector, fault.error_code
    return None
