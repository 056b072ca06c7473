"""The test function: its own docstring is the specification."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from devices.pci.testdev import RAM_LENGTH, TestFunction as Function
from mmiod.testing import Harness

CONFIG = "config_space"


def test_its_bars_size_as_declared() -> None:
    """BAR 0 4 KiB of memory, BAR 2 64 KiB prefetchable 64-bit, BAR 4 16 ports."""
    harness = Harness(Function)
    sized = []
    for number in range(6):
        harness.write_at(0x10 + 4 * number, 0xFFFF_FFFF, 4, CONFIG)
        sized.append(harness.read_at(0x10 + 4 * number, 4, CONFIG))
    assert [0xFFFF_F000, 0, 0xFFFF_000C, 0xFFFF_FFFF, 0xFFFF_FFF1, 0] == sized


def test_it_says_who_it_is() -> None:
    """Vendor and device ID, and IDENTIFICATION in ASCII."""
    harness = Harness(Function)
    assert harness.read_at(0, 4, CONFIG) == 0x6D6D_1234
    assert harness.read("identification").to_bytes(4, "little") == b"mmio"


def test_scratch_registers_keep_values_in_parts_too() -> None:
    """SCRATCH64 as a whole, then in halves; SCRATCH is the same by its port."""
    harness = Harness(Function)
    harness.write("scratch64", 0x1122_3344_5566_7788)
    harness.write_at(0x0C, 0xAABB_CCDD, 4, "registers")
    assert harness.read("scratch64") == 0xAABB_CCDD_5566_7788
    harness.write("scratch", 0x1234_5678)
    harness.write_at(1, 0xFF, 1, "ports")
    assert (0x1234_FF78, 0x1234_FF78) == (harness.read("scratch"), harness.read("port_scratch"))


def test_count_counts_every_access_to_it_and_no_other() -> None:
    """The value is that from before the access; writes count and store nothing; looking does not count."""
    harness = Harness(Function)
    assert [0, 1] == [harness.read("count") for _ in range(2)]
    harness.write_at(0x10, 0xFFFF_FFFF, 4, "registers")
    harness.read("scratch")
    assert harness.device.inspect()["count"] == 3
    assert harness.read_at(0x10, 1, "registers") == 3
    harness.device.count = 0xFFFF_FFFF
    assert [0xFFFF_FFFF, 0] == [harness.read("count") for _ in range(2)]


def test_intx_is_asserted_while_an_enabled_cause_is_there() -> None:
    """Raise by memory or by port, enable, acknowledge by ones."""
    harness = Harness(Function)
    levels = []
    for register, value in (
        ("interrupt_raise", 0b01),
        ("interrupt_enable", 0b11),
        ("port_interrupt_raise", 0b10),
        ("interrupt_status", 0b01),
        ("interrupt_status", 0b10),
        ("interrupt_raise", 0b100),
        ("interrupt_enable", 0b100),
    ):
        harness.write(register, value)
        levels.append(harness.levels["intx"])
    assert [False, True, True, True, False, False, True] == levels
    assert (0b100, 0) == (harness.read("interrupt_status"), harness.read_at(0x20, 4, "registers"))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, RAM_LENGTH - 64),
            st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
            st.binary(min_size=64, max_size=64),
        ),
        max_size=10,
    )
)
def test_ram_is_bytes(script: list[tuple[int, int, bytes]]) -> None:
    """Any sizes and alignments, against a bytearray."""
    harness = Harness(Function)
    model = bytearray(RAM_LENGTH)
    for offset, size, data in script:
        harness.write_at(offset, int.from_bytes(data[:size], "little"), size, "ram")
        model[offset : offset + size] = data[:size]
    assert model == harness.device.state.data
    for offset, size, _ in script:
        assert int.from_bytes(model[offset : offset + size], "little") == harness.read_at(offset, size, "ram")


def test_a_reset_clears_everything() -> None:
    """RAM, counter, causes and the line."""
    harness = Harness(Function)
    harness.write_at(0, 1, 1, "ram")
    harness.write("interrupt_enable", 1)
    harness.write("interrupt_raise", 1)
    harness.read("count")
    harness.device.reset()
    assert (0, 0, 0) == (
        harness.read_at(0, 8, "ram"), harness.read("interrupt_status"), harness.read("count")
    )  # fmt: skip
    assert not harness.levels["intx"]
