"""From an access to registers: parts, wide accesses, holes, banks, whole registers, PENDING."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device import PENDING, Device, Pending, Region, Register
from mmiod.errors import DeclarationError
from mmiod.testing import Harness
from mmiod.values import READ, WRITE

LENGTH = 16

layouts = st.lists(st.tuples(st.booleans(), st.integers(1, 5)), min_size=3, max_size=8)
accesses = st.tuples(
    st.booleans(),
    st.integers(0, LENGTH - 1),
    st.sampled_from([1, 2, 4, 8]),
    st.binary(min_size=8, max_size=8),
)


def layout(parts: list[tuple[bool, int]]) -> dict[str, Register]:
    """Registers and holes of these sizes, one behind the other."""
    registers, offset = {}, 0
    for is_register, size in parts:
        if is_register and offset + size <= LENGTH:
            registers[f"at_{offset:x}"] = Register(offset, size=size)
        offset += size
    return registers


@settings(max_examples=150)
@given(parts=layouts, script=st.lists(accesses, max_size=12), hole=st.sampled_from([0, 0xFF]))
def test_a_region_of_plain_registers_is_bytes(
    parts: list[tuple[bool, int]], script: list[tuple[bool, int, int, bytes]], hole: int
) -> None:
    """Any accesses to `rw` registers act as on bytes; what is between them reads `hole` and keeps nothing."""
    registers = layout(parts)
    region = Region(LENGTH, hole=hole)
    harness: Harness[Device] = Harness(type("Plain", (Device,), {"bank": region, **registers}))
    model = bytearray([hole] * LENGTH)
    owned = {at for register in registers.values() for at in range(register.offset, register.end)}
    for at in owned:
        model[at] = 0
    for is_write, offset, size, data in script:
        end = min(offset + size, LENGTH)
        taken = end - offset
        if is_write:
            harness.write_at(offset, int.from_bytes(data[:taken], "little"), taken)
            for at in owned & set(range(offset, end)):
                model[at] = data[at - offset]
        else:
            assert int.from_bytes(model[offset:end], "little") == harness.read_at(offset, taken)


class Counted(Device):
    """Counts hook calls."""

    length = 8
    left = Register(0, size=2)
    right = Register(2, size=2)
    calls: list[str]

    @left.on_read
    def _left_read(self) -> None:
        self.calls.append("read left")

    @right.on_read
    def _right_read(self) -> None:
        self.calls.append("read right")

    @left.on_write
    def _left_written(self, value: int) -> None:
        self.calls.append(f"left {value:x}")

    @right.on_write
    def _right_written(self, value: int) -> None:
        self.calls.append(f"right {value:x}")


def counted() -> Harness[Counted]:
    """With an empty list of calls."""
    harness = Harness(Counted)
    harness.device.calls = []
    return harness


def test_an_access_touches_each_register_once_low_to_high() -> None:
    """A wide access runs one hook per register, in the order of addresses."""
    harness = counted()
    harness.write_at(0, 0x4444_3333_2222_1111, 8)
    harness.read_at(0, 8)
    harness.read_at(1, 2)
    assert [
        "left 1111", "right 2222", "read left", "read right", "read left", "read right"
    ] == harness.device.calls  # fmt: skip


class Banked(Device):
    """Two registers share an offset; a third chooses."""

    length = 2
    bank = Register(1)
    first = Register(0, when=lambda device: device.bank == 0, reset=0x11)
    second = Register(0, when=lambda device: device.bank == 1, reset=0x22)


def test_a_bank_selects_by_the_devices_state() -> None:
    """`when` decides at each access; where no bank is selected there is a hole."""
    harness = Harness(Banked)
    values = []
    for bank in range(3):
        harness.write("bank", bank)
        values.append(harness.read_at(0))
        harness.write_at(0, 0x50 + bank)
    assert [0x11, 0x22, 0] == values
    assert (0x50, 0x51) == (harness.device.first, harness.device.second)


def test_the_harness_says_when_a_bank_is_not_selected() -> None:
    """Access by name to the wrong bank is a mistake of the test's author."""
    with pytest.raises(ValueError, match="second is not selected now; first is at its offset"):
        Harness(Banked).read("second")


def test_one_offset_may_hold_a_register_to_read_and_one_to_write() -> None:
    """Directions do not clash: rbr and thr of a UART."""

    class Uart(Device):
        length = 1
        rbr = Register(0, access="r", reset=0x41)
        thr = Register(0, access="w")

    harness = Harness(Uart)
    harness.write_at(0, 0x42)
    assert harness.read_at(0) == 0x41
    assert harness.device.thr == 0x42
    names = [harness.device.answerers["main"].at(harness.device, 0, way) for way in (READ, WRITE)]
    assert [Uart.rbr, Uart.thr] == names


class Sized(Device):
    """A doubleword that decodes its size, over a byte, as CONFADD and RC are."""

    length = 8
    address = Register(0, size=4, whole=True)
    control = Register(1)


def test_a_whole_register_takes_only_accesses_of_its_offset_and_size() -> None:
    """Parts, larger accesses and parts of larger accesses go to what lies beneath."""
    harness = Harness(Sized)
    harness.write_at(0, 0x1234_5678, 4)
    assert harness.read_at(0, 4) == 0x1234_5678
    harness.write_at(1, 0xAB)
    harness.write_at(0, 0xEE)
    assert (0x1234_5678, 0xAB) == (harness.device.address, harness.device.control)
    assert [0, 0xAB, 0xAB00, 0xAB00] == [
        harness.read_at(0), harness.read_at(1), harness.read_at(0, 2), harness.read_at(0, 8)
    ]  # fmt: skip
    harness.write_at(0, 0xCD00, 2)
    harness.write_at(0, 0x9900, 8)
    assert (0x1234_5678, 0x99) == (harness.device.address, harness.device.control)


def test_the_record_names_what_an_access_meets() -> None:
    """`at` knows size and offset; without a size it names the register that begins there."""
    device = Harness(Sized).device
    at = device.answerers["main"].at
    assert [Sized.address, None, Sized.control, Sized.address] == [
        at(device, 0, READ, 4), at(device, 0, READ, 1), at(device, 1, READ), at(device, 0, READ)
    ]  # fmt: skip


class Slow(Device):
    """A register that answers later."""

    length = 8
    answer = Register(0, size=4)
    after = Register(4, size=4)

    @answer.on_read
    def _read(self) -> Pending:
        return PENDING

    @answer.on_write
    def _written(self, value: int) -> Pending:  # noqa: ARG002
        return PENDING


def test_pending_goes_up_for_an_access_of_the_register_alone() -> None:
    """A whole read, a whole write and the last part of a write may wait."""
    device = Harness(Slow).device
    answerer = device.answerers["main"]
    assert PENDING is answerer.read(device, 0, 4)
    assert PENDING is answerer.write(device, 0, 4, 1)
    assert PENDING is answerer.write(device, 2, 2, 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 8), (2, 2)])
def test_pending_to_a_part_of_a_read_is_the_plugins_mistake(offset: int, size: int) -> None:
    """There is nobody who would put the parts together later."""
    device = Harness(Slow).device
    with pytest.raises(TypeError, match="answer answered PENDING to a read of a part of it"):
        device.answerers["main"].read(device, offset, size)


def test_pending_to_a_write_that_goes_on_is_the_plugins_mistake() -> None:
    """The rest of the write would overtake."""
    device = Harness(Slow).device
    with pytest.raises(TypeError, match="answer answered PENDING to a write that goes on behind it"):
        device.answerers["main"].write(device, 0, 8, 0)


def test_two_registers_on_one_byte_are_refused() -> None:
    """The message names both, the direction and the offset."""
    with pytest.raises(
        DeclarationError, match="high and wide both claim reads at offset 0x1; give both a bank"
    ):
        type("Clash", (Device,), {"length": 4, "wide": Register(0, size=2), "high": Register(1, access="r")})


def test_a_bank_beside_a_register_without_one_is_refused() -> None:
    """One of them would never be reached."""
    banked = Register(0, when=lambda _: True)
    with pytest.raises(DeclarationError, match="other and banked both claim reads at offset 0x0"):
        type("Clash", (Device,), {"length": 1, "banked": banked, "other": Register(0)})


def test_a_register_outside_its_region_is_refused() -> None:
    """The message gives both ranges."""
    with pytest.raises(DeclarationError, match=r"far at 0x2\.\.0x5 is outside region main of 0x4 bytes"):
        type("Outside", (Device,), {"length": 4, "far": Register(2, size=4)})
