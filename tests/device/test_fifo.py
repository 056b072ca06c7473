"""Registers in front of a FIFO."""

from __future__ import annotations

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.device import Device, Fifo
from mmiod.errors import DeclarationError
from mmiod.testing import Harness, contract

DEPTH = 3


@define
class State:
    """The elements, and what hooks were told."""

    received: list[int] = field(factory=list)
    to_send: bytearray = field(factory=bytearray)
    told: list[str] = field(factory=list)


class Port(Device):
    """One in each direction."""

    length = 8
    state: State
    received = Fifo(0, size=4, depth=DEPTH, access="r", empty=0xE0E0_E0E0)
    to_send = Fifo(4, depth=DEPTH, access="w")

    @received.on_read
    def _read(self) -> None:
        self.state.told[:] = ["read"]

    @received.on_underrun
    def _underrun(self) -> None:
        self.state.told[:] = ["underrun"]

    @to_send.on_write
    def _written(self) -> None:
        self.state.told[:] = ["written"]

    @to_send.on_overrun
    def _overrun(self, value: int) -> None:
        self.state.told[:] = [f"overrun {value:#x}"]


test_contract = contract(Port, accesses=1000)


def filled(*elements: int) -> Harness[Port]:
    """A device that has received something."""
    port = Harness(Port)
    for element in elements:
        assert port.device.received.push(element)
    return port


def test_a_read_takes_the_oldest_element() -> None:
    """In order; then it reads what an empty one does."""
    port = filled(0x11, 0x22)
    assert [0x11, 0x22, 0xE0E0_E0E0] == [port.read_at(0, 4) for _ in range(3)]
    assert port.device.state.told == ["underrun"]


def test_a_part_of_a_read_takes_the_element() -> None:
    """As a whole register, it is read once for each access."""
    port = filled(0x1122_3344, 0x55)
    assert (0x3344, 0x55) == (port.read_at(0, 2), port.read_at(0, 4))


def test_a_write_appends() -> None:
    """Up to the depth; what comes then is lost, and told."""
    port = Harness(Port)
    for byte in b"abcd":
        port.write_at(4, byte)
    assert list(b"abc") == list(port.device.to_send)
    assert (True, ["overrun 0x64"]) == (port.device.to_send.full, port.device.state.told)
    assert port.device.to_send.pop() == ord("a")
    assert len(port.device.to_send) == 2


def test_the_device_pushes_no_more_than_fits() -> None:
    """False: nothing was kept; a value that is too wide is the author's mistake."""
    port = filled(1, 2, 3)
    assert not port.device.received.push(4)
    assert [1, 2, 3] == list(port.device.received)
    port.device.received.clear()
    assert len(port.device.received) == 0
    with pytest.raises(ValueError, match="0x100000000 does not fit 4 bytes"):
        port.device.received.push(1 << 32)


def test_directions() -> None:
    """One that is read lets writes through to what else is there, and the other way round."""
    port = filled(1)
    port.write_at(0, 5, 4)
    assert [1] == list(port.device.received)
    assert port.read_at(4) == 0


@settings(max_examples=40)
@given(st.integers(0, DEPTH), st.integers(1, 5))
def test_a_batch_is_as_many_reads_as_there_are_elements(held: int, count: int) -> None:
    """Elements leave in order; an empty FIFO answers none, so that underruns come one by one."""
    port = filled(*range(held))
    found = port.device.answerers["main"].read_batch(port.device, 0, 4, count, 0)
    assert b"".join(n.to_bytes(4, "little") for n in range(min(held, count))) == found
    assert max(0, held - count) == len(port.device.received)


def test_a_batch_is_as_many_writes_as_there_is_room_for() -> None:
    """The rest comes one by one, and is lost then."""
    port = Harness(Port)
    assert DEPTH == port.device.answerers["main"].write_batch(port.device, 4, 1, b"abcde", 0)
    assert list(b"abc") == list(port.device.to_send)


def test_elements_need_a_field_of_the_state() -> None:
    """It has the FIFO's name: so they are saved, restored and reset."""
    with pytest.raises(
        DeclarationError, match="data: a FIFO's elements are the field data of `state`; Empty"
    ):

        class Homeless(Device):
            length = 1
            data = Fifo(0, depth=2)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"depth": 1, "size": 0}, {"depth": 1, "access": "w1c"}])
def test_what_cannot_be_a_fifo_is_refused(wrong: dict[str, int]) -> None:
    """Nothing to hold, or an access mode that has no meaning."""
    with pytest.raises(DeclarationError, match="a FIFO at 0x0"):
        Fifo(0, **wrong)  # type: ignore[arg-type]
