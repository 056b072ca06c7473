"""Shared memory as a PCI function: QEMU docs/specs/ivshmem-spec.rst."""

from __future__ import annotations

from devices.pci.ivshmem import SIZE, Ivshmem
from mmiod.testing import Harness


def test_a_driver_knows_it_by_its_header() -> None:
    """1AF4:1110, revision 1, RAM; 256 bytes in BAR 0, the memory in BAR 2 with 64 bits; no interrupt."""
    harness = Harness(Ivshmem)
    assert harness.read_at(0x00, 4, "config_space") == 0x1110_1AF4
    assert harness.read_at(0x08, 4, "config_space") == 0x0500_0001
    assert harness.read_at(0x3D, 1, "config_space") == 0
    for bar, size in {0x10: 0xFFFF_FF00, 0x18: 0x1_0000_0000 - SIZE | 0xC, 0x1C: 0xFFFF_FFFF}.items():
        harness.write_at(bar, 0xFFFF_FFFF, 4, "config_space")
        assert harness.read_at(bar, 4, "config_space") == size


def test_registers_have_no_use_without_interrupts() -> None:
    """Its section: mask and status are read and written, the number is 0, a doorbell is ignored."""
    harness = Harness(Ivshmem)
    harness.write("interrupt_mask", 0xFFFF_FFFF)
    harness.write("interrupt_status", 1)
    harness.write("doorbell", 0x0001_0000)
    assert harness.read("interrupt_mask") == 0xFFFF_FFFF
    assert [harness.read("interrupt_status") for _ in range(2)] == [1, 0], "reading it clears it"
    assert harness.read("iv_position") == 0
    assert not harness.context.edges


def test_memory_is_memory() -> None:
    """Any access, and it stays over a reset: it belongs to others too."""
    harness = Harness(Ivshmem)
    harness.write_at(SIZE - 8, 0x0123_4567_89AB_CDEF, 8, "memory_bar")
    harness.write_at(3, 0xFF, 1, "memory_bar")
    harness.device.reset()
    assert harness.read_at(SIZE - 8, 8, "memory_bar") == 0x0123_4567_89AB_CDEF
    assert harness.device.shared.read(0, 5) == b"\0\0\0\xff\0"
