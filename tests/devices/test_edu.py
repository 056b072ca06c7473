"""The educational function by QEMU's docs/specs/edu.rst."""

from __future__ import annotations

import math

import pytest

from devices.pci.edu import BUFFER, Edu, EduConfig
from mmiod.device.work import RANGE
from mmiod.testing import Harness

ONES = 0xFFFF_FFFF
MSI_CONTROL, MSI_ADDRESS, MSI_DATA = 0x42, 0x44, 0x4C
BUS_MASTER = 6


class Function(Harness[Edu]):
    """The function, with bus mastering on."""

    def __init__(self, computing_ns: int = 10_000) -> None:
        super().__init__(Edu, EduConfig(computing_ns))
        self.write("command", BUS_MASTER)

    def dma(self, source: int, destination: int, count: int, command: int) -> None:
        """Program one, start it, and let it end."""
        for name, value in (("source", source), ("destination", destination), ("count", count)):
            self.write(f"dma_{name}", value)
        self.write("dma_command", command)
        self.advance(100_000_000)


@pytest.fixture
def function() -> Function:
    """After reset."""
    return Function()


def test_it_says_who_it_is(function: Function) -> None:
    """PCI ID 1234:11e8; at 00h 0xRRrr00ed, version 1.0; 1 MiB of BAR 0."""
    assert (0x11E8_1234, 0x0100_00ED) == (
        function.read_at(0, 4, "config_space"),
        function.read("identification"),
    )
    function.write_at(0x10, ONES, 4, "config_space")
    assert 0xFFF0_0000 == function.read_at(0x10, 4, "config_space")


def test_liveness_inverts(function: Function) -> None:
    """04h: a bitwise negation of what was written."""
    function.write("liveness", 0x1234_5678)
    assert 0xEDCB_A987 == function.read("liveness")


def test_sizes_that_are_no_register_read_ones(function: Function) -> None:
    """Below 80h 4 bytes only, from there on 4 or 8; DMA registers begin at multiples of 8."""
    function.write_at(0x00, 0, 8, "registers")
    reads = [function.read_at(offset, size, "registers") for offset, size in ((0, 8), (0x84, 4), (0x60, 4))]
    assert [(1 << 64) - 1, ONES, ONES] == reads


@pytest.mark.parametrize("number", [0, 1, 12, 13, 33, 34, 100, ONES])
def test_factorial_is_that_modulo_2_to_the_32(function: Function, number: int) -> None:
    """08h, once COMPUTING (20h bit 0) is 0."""
    function.write("factorial", number)
    during = function.read("computation")
    function.write("factorial", 5)
    function.advance(10_000)
    expected = math.factorial(number) & ONES if number <= 100 else 0
    assert (1, 0, expected) == (during, function.read("computation"), function.read("factorial"))


def test_factorial_interrupts_if_asked(function: Function) -> None:
    """20h bit 7; 24h then has 1; 64h acknowledges."""
    levels = []
    for asked in (0, 0x80):
        function.write("computation", asked | 1)
        function.write("factorial", 4)
        function.advance(10_000)
        levels.append((function.levels["intx"], function.read("interrupt_status")))
    function.write("interrupt_acknowledge", 1)
    levels.append((function.levels["intx"], function.read("interrupt_status")))
    assert [(False, 0), (True, 1), (False, 0)] == levels


def test_without_time_a_factorial_is_there_at_once() -> None:
    """`computing_ns` 0."""
    function = Function(computing_ns=0)
    function.write("factorial", 6)
    assert (720, 0) == (function.read("factorial"), function.read("computation"))


def test_interrupts_are_raised_and_acknowledged_bit_by_bit(function: Function) -> None:
    """60h ORs, 64h clears; the pin is asserted while a bit is left."""
    levels = []
    for register, value in (
        ("raise", 0x0F0),
        ("raise", 0x00F),
        ("acknowledge", 0x0F3),
        ("acknowledge", 0x00C),
    ):
        function.write(f"interrupt_{register}", value)
        levels.append((function.levels["intx"], function.read("interrupt_status")))
    assert [(True, 0xF0), (True, 0xFF), (True, 0x0C), (False, 0)] == levels


def test_msi_takes_the_place_of_the_pin(function: Function) -> None:
    """Interrupts may be MSI instead of INTx: each raise is a message."""
    for offset, value in ((MSI_ADDRESS, 0xFEE0_0000), (MSI_DATA, 0x31), (MSI_CONTROL, 1)):
        function.write_at(offset, value, 2 if offset == MSI_CONTROL else 4, "config_space")
    for value in (1, 2):
        function.write("interrupt_raise", value)
    assert ([(0xFEE0_0000, 0x31)] * 2, False) == (function.context.messages, function.levels["intx"])


def test_dma_copies_in_and_out(function: Function) -> None:
    """80h-98h: into the buffer at 40000h with direction 0, out of it with 1; bit 2 interrupts with 100h."""
    ram = function.context.memory.ram
    ram[0x1000:0x1010] = bytes(range(16))
    function.dma(0x1000, BUFFER + 8, 16, 1)
    before = function.read("interrupt_status")
    function.dma(BUFFER + 10, 0x2000, 6, 1 | 2 | 4)
    assert bytes(range(2, 8)) == ram[0x2000:0x2006]
    assert (0, 0x100, 6) == (before, function.read("interrupt_status"), function.read("dma_command"))


def test_dma_works_by_message_too(function: Function) -> None:
    """Where nobody shares memory: it ends, and raises its interrupt, when it is answered."""
    function.context.memory.messages = True
    function.dma(0x1000, BUFFER + 8, 4, 1 | 4)
    assert [("moving", 0, "read", RANGE.pack(0x1000, 4))] == function.context.asked
    assert (0, 5) == (function.read("interrupt_status"), function.read("dma_command"))
    function.reply("moving", 0, b"ABCD")
    assert (0x100, 4) == (function.read("interrupt_status"), function.read("dma_command"))
    function.dma(BUFFER + 8, 0x2000, 4, 1 | 2)
    assert ("moving", 0, "write", RANGE.pack(0x2000, 4) + b"ABCD") == function.context.asked[-1]
    function.reply("moving", 0, b"")
    assert 2 == function.read("dma_command")


def test_dma_takes_100_ms_and_holds_its_registers(function: Function) -> None:
    """98h bit 0 is set until then; a write without it starts nothing."""
    function.write("dma_command", 4)
    assert 0 == function.read("dma_command")
    function.write("dma_command", 5)
    function.write("dma_source", 0x1234)
    function.advance(99_999_999)
    assert (5, 0) == (function.read("dma_command"), function.read("dma_source"))
    function.advance(1)
    assert 4 == function.read("dma_command")


def test_dma_registers_take_4_bytes_too(function: Function) -> None:
    """4 bytes are the whole value."""
    function.write("dma_count", (1 << 64) - 1)
    function.write_at(0x90, 0x1234, 4, "registers")
    assert (0x1234, 0x1234) == (function.read("dma_count"), function.read_at(0x90, 4, "registers"))


def test_addresses_have_28_bits(function: Function) -> None:
    """The mask `dma_mask`, by default 28 bits, cuts the rest off."""
    function.context.memory.ram[0x1000:0x1004] = b"abcd"
    function.dma(5 << 28 | 0x1000, BUFFER, 4, 1)
    assert b"abcd" == function.device.state.buffer[:4]


@pytest.mark.parametrize(
    ("destination", "count"),
    [(BUFFER - 1, 4), (BUFFER + 4095, 2), (BUFFER, 4097), (0, 4), (BUFFER, 1 << 63), ((1 << 64) - 1, 2)],
)
def test_dma_beyond_the_buffer_moves_nothing(function: Function, destination: int, count: int) -> None:
    """The buffer has 4096 bytes; the command ends all the same."""
    function.context.memory.ram[:0x2000] = b"x" * 0x2000
    function.dma(0, destination, count, 1)
    assert (bytes(4096), 0) == (bytes(function.device.state.buffer), function.read("dma_command"))


def test_dma_needs_bus_mastering(function: Function) -> None:
    """PCI 3.0, 6.2.2, command bit 2."""
    function.context.memory.ram[:4] = b"abcd"
    function.write("command", 2)
    function.dma(0, BUFFER, 4, 1)
    assert bytes(4) == function.device.state.buffer[:4]
