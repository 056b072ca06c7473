"""PCI host: configuration mechanism #1 (PCI 3.0, 3.2.2.3.2) and RC (PIIX3 datasheet)."""

from __future__ import annotations

import pytest

from devices.pci.host import PciHost
from mmiod.device import Request
from mmiod.testing import Harness
from mmiod.values import READ, WRITE, Space


def host(confadd: int = 0) -> Harness[PciHost]:
    """A host with this CONFADD."""
    harness = Harness(PciHost)
    harness.write("confadd", confadd)
    return harness


def test_confadd_keeps_enable_bus_device_function_and_register() -> None:
    """82441FX, CONFADD: bits 30:24 and 1:0 are reserved."""
    harness = host(0xFFFF_FFFF)
    assert harness.read("confadd") == 0x80FF_FFFC
    fields = PciHost.confadd.describe(0x8012_345C)
    assert {"CFGE": 1, "BUS": 0x12, "DEVICE": 6, "FUNCTION": 4, "REGISTER": 0x17} == fields


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (2, 1), (3, 1), (2, 2)])
def test_confadd_takes_doublewords_only(offset: int, size: int) -> None:
    """82441FX: a byte or word reference passes on to the bus as an I/O cycle, where nobody answers."""
    harness = host(0x8000_1800)
    assert (1 << 8 * size) - 1 == harness.read_at(offset, size, "address")
    harness.write_at(offset, 0, size, "address")
    assert harness.read("confadd") == 0x8000_1800


@pytest.mark.parametrize(
    ("confadd", "address"),
    [
        (0x8000_0000, 0x000_0000),
        (0x8000_1840, 0x0_1_8_040),
        (0x8000_0BD0, 0x000_B0D0),
        (0x80FF_FFFC, 0xFFF_F0FC),
    ],
)
@pytest.mark.parametrize(("offset", "size"), [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (2, 2), (1, 2), (0, 4)])
def test_an_access_of_confdata_is_one_access_in_configuration_space(
    confadd: int, address: int, offset: int, size: int
) -> None:
    """Bus, device and function move to bits 27:12; the port's low bits choose the byte."""
    harness = host(confadd)
    value = 0x4433_2211 & (1 << 8 * size) - 1
    harness.write_at(offset, value, size, "data")
    assert value == harness.read_at(offset, size, "data")
    at = address + offset
    expected = [(Space.PCI_CONFIG, way, at, size, value) for way in (WRITE, READ)]
    assert expected == harness.context.bus.accesses


def test_without_the_enable_bit_confdata_reaches_nobody() -> None:
    """82441FX: with CFGE 0 the access is an ordinary I/O cycle."""
    harness = host(0x0000_0800)
    harness.write_at(0, 0x1234, 4, "data")
    assert [0xFF, 0xFFFF, 0xFFFF_FFFF] == [harness.read_at(0, size, "data") for size in (1, 2, 4)]
    assert [] == harness.context.bus.accesses


def test_rc_asks_for_a_reset_when_rcpu_is_written() -> None:
    """PIIX3, RC: SRST alone chooses the kind; RCPU starts it.  CONFADD is not touched."""
    harness = host(0x8000_0000)
    for value in (0x02, 0xF9):
        harness.write("rc", value)
    assert [] == harness.context.requests
    harness.write("rc", 0x06)
    assert [(Request.RESET, 0)] == harness.context.requests
    assert (0x06, 0x8000_0000) == (harness.read("rc"), harness.read("confadd"))
    harness.device.reset()
    assert harness.read("rc") == 0
