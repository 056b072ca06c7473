"""Buffers among registers, and registers that repeat with a stride."""

from __future__ import annotations

import pytest

from mmiod.device import Buffer, Device, Region, Register
from mmiod.errors import DeclarationError
from mmiod.testing import Harness
from mmiod.values import READ, WRITE


class Port(Device):
    """A register, a buffer of both directions, one that only takes; twice."""

    main = Region(0x20, stride=0x10, hole=0xEE)
    head = Register(0, size=2)
    data = Buffer(4, 8)
    sink = Buffer(14, 2)
    seen: list[tuple[int, ...]]

    def on_reset(self) -> None:
        """Nothing seen."""
        self.seen = []

    @data.on_read
    def _read_data(self, offset: int, size: int) -> int:
        self.seen.append((self.copy, offset, size))
        return 0x1122_3344_5566_7788 & ((1 << 8 * size) - 1)

    @data.on_write
    @sink.on_write
    def _written(self, offset: int, size: int, value: int) -> None:
        self.seen.append((self.copy, offset, size, value))

    @head.on_write
    def _head_written(self, value: int) -> None:
        self.seen.append((self.copy, value))


@pytest.fixture
def port() -> Harness[Port]:
    """The device, reset."""
    return Harness(Port)


@pytest.mark.parametrize(("offset", "size"), [(0, 8), (0, 1), (3, 2), (7, 1), (2, 4)])
def test_access_inside_a_buffer_is_one_hook(port: Harness[Port], offset: int, size: int) -> None:
    """A hook gets offset and size as the guest has them, once."""
    assert 0x1122_3344_5566_7788 & ((1 << 8 * size) - 1) == port.read_at(4 + offset, size)
    port.write_at(4 + offset, 0x55, size)
    assert [(0, offset, size), (0, offset, size, 0x55)] == port.device.seen


def test_access_across_a_buffers_end_is_parted(port: Harness[Port]) -> None:
    """What lies in the buffer is one part; the rest is a hole."""
    assert 0xEEEE_7788 == port.read_at(10, 4)
    port.write_at(12, 0xAABB_CCDD, 4)
    assert [(0, 6, 2), (0, 0, 2, 0xAABB)] == port.device.seen


def test_direction_without_hook_is_a_hole(port: Harness[Port]) -> None:
    """A buffer that is only written reads as if nothing was there."""
    assert 0xEEEE == port.read_at(14, 2)


def test_stride_repeats_registers_and_tells_which_is_meant(port: Harness[Port]) -> None:
    """All copies are one register; hooks see the copy's number."""
    port.write_at(0x10, 0x1234, 2)
    assert (0x1234, 0x1234) == (port.read_at(0, 2), port.read_at(0x10, 2))
    port.write_at(0x11, 0xAB)
    port.read_at(0x14)
    assert [(1, 0x1234), (1, 0xAB34), (1, 0, 1)] == port.device.seen


@pytest.mark.parametrize(
    ("offset", "direction", "name"),
    [(0x11, READ, "head"), (0x17, WRITE, "data"), (0x1E, WRITE, "sink"), (0x1E, READ, None)],
)
def test_record_names_buffers(port: Harness[Port], offset: int, direction: bool, name: str | None) -> None:
    """The name of what an access meets, in every copy."""
    found = port.device.answerers["main"].at(port.device, offset, direction)  # type: ignore[arg-type]
    assert name == (found and found.name)


def test_buffer_that_meets_a_register_is_refused() -> None:
    """Two owners of a byte in one direction are a mistake of the author."""
    with pytest.raises(DeclarationError, match="both claim"):

        class _Clash(Device):
            length = 8
            low = Register(2)
            data = Buffer(0, 4)

            @data.on_read
            def _read(self, _offset: int, _size: int) -> int:
                return 0


def test_register_behind_the_stride_is_refused() -> None:
    """Registers lie within one copy."""
    with pytest.raises(DeclarationError, match="outside region"):

        class _Behind(Device):
            main = Region(0x20, stride=0x10)
            low = Register(0x10)
