"""Storage as a device's author declares and uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from mmiod.device import Buffer, Device, Region, Register, Storage
from mmiod.device.storage import MAX_STORAGE
from mmiod.errors import DeclarationError
from mmiod.testing import Harness, contract

KIB = 1024


class Screen(Device):
    """A register, two pages that the guest sees, and one that a reset leaves."""

    survives_reset: ClassVar[frozenset[str]] = frozenset({"font"})
    main = Region(0x5000, unaligned=True)
    total = Register(0, size=4, access="r")
    frames = Storage(0x1000, 0x2000)
    font = Storage(0x4000, 0x1000)

    @total.value
    def _sum(self) -> int:
        return sum(self.frames.read(0, 0x2000))

    @total.on_write
    def _fill(self, value: int) -> None:
        self.frames.write(0, bytes([value & 0xFF]) * 0x2000)


test_contract = contract(Screen)


def test_guest_and_device_see_the_same_bytes() -> None:
    """What one of them writes the other reads; between storages there is nothing."""
    harness = Harness(Screen)
    harness.write_at(0x1FFC, 0x0403_0201, 4)
    harness.write_at(0x2FFF, 0x05)
    assert b"\1\2\3\4" == harness.device.frames.read(0xFFC, 4)
    assert 15 == harness.read("total")
    harness.device.font.write(1, b"abc")
    assert int.from_bytes(b"\0abc", "little") == harness.read_at(0x4000, 4)
    assert 0 == harness.read_at(0x3000, 4)


def test_an_access_across_the_edge_is_composed() -> None:
    """The part that is storage is kept; the rest meets what is there."""
    harness = Harness(Screen)
    harness.write_at(0x2FFE, 0xAABB_CCDD, 4)
    assert 0xCCDD == harness.read_at(0x2FFE, 4)
    assert b"\xdd\xcc" == harness.device.frames.read(0x1FFE, 2)


def test_a_reset_clears_what_does_not_survive_it() -> None:
    """A name in `survives_reset` may be a storage's."""
    harness = Harness(Screen)
    harness.device.frames.write(0, b"gone")
    harness.device.font.write(0, b"kept")
    harness.device.reset()
    assert (bytes(4), b"kept") == (harness.device.frames.read(0, 4), harness.device.font.read(0, 4))


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0x2001), (0x2000, 1), (0, -1)])
def test_a_device_stays_inside(offset: int, length: int) -> None:
    """What is behind belongs to somebody else."""
    with pytest.raises(ValueError, match="the storage has 0x2000"):
        Harness(Screen).device.frames.read(offset, length)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (lambda: {"frames": Storage(0x1800, 0x1000)}, "multiples of 0x1000"),
        (lambda: {"frames": Storage(0, 0)}, "multiples of 0x1000"),
        (lambda: {"frames": Storage(0x8000, 0x1000)}, "is outside region"),
        (lambda: {"a": Storage(0, 0x2000), "b": Storage(0x1000, 0x1000)}, "b and a overlap"),
        (lambda: {"a": Register(0x1FFF), "b": Storage(0x1000, 0x1000)}, "b and a overlap"),
        (lambda: {"main": Region(0x2000, stride=0x1000), "b": Storage(0, 0x1000)}, "has copies"),
        (lambda: {"main": Region(0x2000, published=4), "b": Storage(0, 0x1000)}, "is published"),
        (
            lambda: {"main": Region(2 * MAX_STORAGE), "b": Storage(0, MAX_STORAGE + 0x1000)},
            "at most 0x2000000 are saved",
        ),
    ],
)
def test_what_cannot_be_is_refused(declared: Callable[[], dict[str, object]], reason: str) -> None:
    """When the class is made, with the name."""
    with pytest.raises(DeclarationError, match=reason):
        type("Wrong", (Device,), {"main": Region(0x8000), **declared()})


def test_it_overlaps_no_buffer() -> None:
    """A buffer has hooks, storage has none."""

    class Base(Device):
        main = Region(0x2000)
        port = Buffer(0x1000, 4)

        @port.on_read
        def _read(self, offset: int, size: int) -> int:
            return offset + size

    with pytest.raises(DeclarationError, match="bytes and port overlap"):
        type("Both", (Base,), {"bytes": Storage(0x1000, 0x1000)})
