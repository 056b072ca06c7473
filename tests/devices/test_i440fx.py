"""Host bridge: reset values and storage as the 82441FX datasheet (290549) has them."""

from __future__ import annotations

import pytest

from devices.pci.i440fx import I440Fx
from mmiod.testing import Harness

CONFIG = "config_space"


def test_it_is_an_82441fx_in_a_machine_that_firmware_knows() -> None:
    """VID, DID, RID, CLASSC, and the subsystem by which SeaBIOS finds QEMU's extras."""
    harness = Harness(I440Fx)
    expected = [0x1237_8086, 0x0280_0006, 0x0600_0002, 0x1100_1AF4]
    assert expected == [harness.read_at(offset, 4, CONFIG) for offset in (0x00, 0x04, 0x08, 0x2C)]


@pytest.mark.parametrize("number", range(7))
def test_pam_keeps_the_enables_of_its_segments(number: int) -> None:
    """59h-5Fh: RE and WE of two segments; PAM0 has the BIOS area only, in the upper half."""
    harness = Harness(I440Fx)
    assert harness.read_at(0x59 + number, 1, CONFIG) == 0
    harness.write_at(0x59 + number, 0xFF, 1, CONFIG)
    assert (0x30 if number == 0 else 0x33) == harness.read(f"pam{number}")


def test_seabios_opens_and_locks_its_shadow() -> None:
    """The doubleword that holds PAM0-PAM2 shows bytes written one by one."""
    harness = Harness(I440Fx)
    for offset, value in ((0x59, 0x30), (0x5A, 0x33), (0x5B, 0x31)):
        harness.write_at(offset, value, 1, CONFIG)
    assert harness.read_at(0x58, 4, CONFIG) == 0x3133_3000


def test_smram_begins_at_a0000_and_closed() -> None:
    """72h: reset value 02h, C_BASE_SEG 010."""
    harness = Harness(I440Fx)
    assert harness.read("smram") == 0x02
    fields = {"C_BASE_SEG": 2, "G_SMRAME": 1, "DLCK": 0, "DCLS": 0, "DOPEN": 1}
    assert fields == I440Fx.smram.describe(0x4A)


def test_a_reset_restores_registers() -> None:
    """PAM and SMRAM are 0 and 02h again."""
    harness = Harness(I440Fx)
    harness.write("pam0", 0x30)
    harness.write("smram", 0x4A)
    harness.device.reset()
    assert (0, 2) == (harness.read("pam0"), harness.read("smram"))
