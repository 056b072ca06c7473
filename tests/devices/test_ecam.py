"""ECAM: PCI Express Base 3.0, 7.2.2."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from devices.pci.ecam import Ecam
from mmiod.testing import Harness
from mmiod.values import READ, WRITE, Space


@settings(max_examples=50)
@given(
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(0, 7),
    st.integers(0, 1023),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 2**32 - 1),
)
def test_an_access_is_one_in_configuration_space(
    bus: int, device: int, function: int, register: int, size: int, value: int
) -> None:
    """Table 7-1: bus in bits 27:20, device 19:15, function 14:12, register 11:0."""
    harness = Harness(Ecam)
    address = bus << 20 | device << 15 | function << 12 | register << 2
    value &= (1 << 8 * size) - 1
    harness.write_at(address, value, size)
    assert value == harness.read_at(address, size)
    expected = [(Space.PCI_CONFIG, direction, address, size, value) for direction in (WRITE, READ)]
    assert expected == harness.context.bus.accesses


def test_it_covers_256_buses() -> None:
    """1 MiB each; an access of 8 bytes is the bus's to split."""
    region = Ecam.regions["configuration"]
    assert (256 << 20, (1, 4)) == (region.length, region.implemented)
