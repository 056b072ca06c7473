"""Registers that are there several times."""

from __future__ import annotations

import pytest

from mmiod.device import Device, Field, Region, Register
from mmiod.errors import DeclarationError
from mmiod.testing import Harness

BASE, STRIDE, COUNT = 0x10, 8, 4


class Channels(Device):
    """A plain array, one with hooks, one of derived values."""

    main = Region(0x40, hole=0xEE)
    source = Register(BASE, size=4, reset=7).array(COUNT, stride=STRIDE)
    status = Register(BASE + 4, size=2, access="w1c", reset=0xF0, fields={"DONE": Field(0, 4)}).array(
        COUNT, stride=STRIDE
    )
    number = Register(0, access="r").array(2)
    seen: list[tuple[int, ...]]

    def on_reset(self) -> None:
        """Nothing seen."""
        self.seen = []

    @status.on_write
    def _status_written(self, number: int, value: int) -> None:
        self.seen.append((number, value))

    @status.on_read
    def _status_read(self, number: int) -> None:
        self.seen.append((number,))

    @number.value
    def _number(self, number: int) -> int:
        return 0x40 + number


@pytest.fixture
def channels() -> Harness[Channels]:
    """The device, reset."""
    return Harness(Channels)


@pytest.mark.parametrize("number", range(COUNT))
def test_each_element_is_a_register(channels: Harness[Channels], number: int) -> None:
    """It has its offset, its name and its value; the others keep theirs."""
    channels.write_at(BASE + number * STRIDE, 0x1234_5678, 4)
    assert [0x1234_5678 if other == number else 7 for other in range(COUNT)] == list(channels.device.source)
    assert channels.read(f"source{number}") == 0x1234_5678
    assert channels.device.inspect()[f"source{number}"] == 0x1234_5678


def test_hooks_get_the_number(channels: Harness[Channels]) -> None:
    """First; a getter too."""
    channels.write_at(BASE + 4 + 2 * STRIDE, 0x30, 2)
    channels.read_at(BASE + 4 + 3 * STRIDE, 2)
    assert channels.device.seen == [(2, 0x30), (3,)]
    assert list(channels.device.status) == [0xF0, 0xF0, 0xC0, 0xF0]
    assert [0x40, 0x41] == [channels.read_at(0), channels.read_at(1)]


def test_elements_are_a_sequence(channels: Harness[Channels]) -> None:
    """Read, written, sliced and counted by the device."""
    source = channels.device.source
    source[1] = 9
    source[-1] = 11
    assert ([7, 9], 11, COUNT) == (list(source[:2]), source[COUNT - 1], len(source))
    with pytest.raises(IndexError):
        source[COUNT] = 0
    with pytest.raises(ValueError, match="source0: 0x100000000 does not fit 4 bytes"):
        source[0] = 1 << 32


def test_bytes_between_elements_are_a_hole(channels: Harness[Channels]) -> None:
    """A stride that is larger than the registers leaves them."""
    assert channels.read_at(BASE + 6, 2) == 0xEEEE


@pytest.mark.parametrize(("count", "stride"), [(0, 4), (2, 3), (2, -4)])
def test_what_cannot_be_an_array_is_refused(count: int, stride: int) -> None:
    """No elements, or elements that overlap."""
    with pytest.raises(DeclarationError, match=f"an array of {count} registers of 4 bytes, {stride} apart"):
        Register(0, size=4).array(count, stride=stride)


def test_names_are_not_given_twice() -> None:
    """A register that is called as an element of an array is refused."""
    with pytest.raises(DeclarationError, match="two registers are called lane1"):

        class Twice(Device):
            length = 8
            lane = Register(0).array(2)
            lane1 = Register(4)


def test_an_array_ends_inside_its_region() -> None:
    """The element that does not fit is named."""
    with pytest.raises(DeclarationError, match=r"lane3 at 0xc\.\.0xf is outside region main of 0xe bytes"):

        class Long(Device):
            length = 14
            lane = Register(0, size=4).array(4)
