"""16550A, by the National PC16550D datasheet (section numbers are its)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.uart16550 import Uart16550
from mmiod.device.uart16550 import (
    CONNECTED,
    FCR,
    FIFO_DEPTH,
    IER,
    LSR,
    MCR,
    MSR,
    Cause,
)
from mmiod.testing.harness import Harness
from tests.devices.sources import lines_of_code

IDLE = LSR.THRE | LSR.TEMT
FIFO_14 = FCR.FIFO_ENABLE | FCR.TRIGGER0 | FCR.TRIGGER1
CHARACTER_NS = 10 * 16 * 1_000_000_000 // 1_843_200
"""8N1 at 115,200 baud, divisor 1."""


def make(ier: int = 0, fcr: int = 0, mcr: int = MCR.OUT2) -> Harness[Uart16550]:
    """A UART at 115,200 baud 8N1."""
    uart = Harness(Uart16550)
    uart.write("lcr", 0x83)
    uart.write("dll", 1)
    uart.write("dlm", 0)
    uart.write("lcr", 0x03)
    uart.write("fcr", fcr)
    uart.write("mcr", mcr)
    uart.write("ier", ier)
    return uart


def irq(uart: Harness[Uart16550]) -> bool:
    """The level of the interrupt line."""
    return uart.levels["irq"]


def cause(uart: Harness[Uart16550]) -> Cause:
    """What IIR names, without reading it."""
    return Cause(uart.device.iir & 0xF)


def test_master_reset() -> None:
    """Table I: IER, FCR, LCR and MCR 0, IIR 01h, LSR 60h, no interrupt; MSR shows the inputs."""
    uart = Harness(Uart16550)
    found = [uart.read_at(offset) for offset in range(8)]
    assert found == [0, 0, 0x01, 0, 0, 0x60, CONNECTED, 0]
    assert uart.levels == {"irq": False}


def test_divisor_bank() -> None:
    """8.1: with DLAB the first two ports are the divisor latch, without it RBR, THR and IER."""
    uart = Harness(Uart16550)
    uart.write_at(3, 0x80)
    uart.write_at(0, 0x34)
    uart.write_at(1, 0x12)
    assert (0x34, 0x12) == (uart.read_at(0), uart.read_at(1))
    uart.write_at(3, 0x00)
    assert (0, 0) == (uart.read_at(0), uart.read_at(1))
    assert b"" == uart.sent("serial")
    assert (0x34, 0x12) == (uart.device.dll, uart.device.dlm)


def test_unimplemented_bits_read_0() -> None:
    """8.6, 8.7: IER 7:4 and MCR 7:5 are always 0; the scratchpad (8.9) holds all bits."""
    uart = Harness(Uart16550)
    for offset, expected in ((1, 0x0F), (4, 0x1F), (7, 0xFF)):
        uart.write_at(offset, 0xFF)
        assert expected == uart.read_at(offset)


def test_characters_leave_at_once() -> None:
    """A write of THR is sent and THRE and TEMT are set again before the next access."""
    uart = make()
    for byte in b"ok\n":
        uart.write("thr", byte)
        assert uart.read("lsr") == IDLE
    assert uart.sent("serial") == b"ok\n"


def test_thre_goes_when_iir_names_it() -> None:
    """Table IV: the THRE interrupt is reset by reading IIR if it is the source."""
    uart = make(IER.ETBEI)
    assert irq(uart)
    assert Cause.THR_EMPTY == uart.read("iir") & 0x0F
    assert not irq(uart)
    assert Cause.NONE == uart.read("iir") & 0x0F


def test_thre_stays_when_iir_names_another() -> None:
    """Table IV: reading IIR resets THRE only if it is the source of the interrupt."""
    uart = make(IER.ETBEI | IER.ERBFI)
    uart.receive("serial", b"x")
    assert Cause.DATA == uart.read("iir") & 0x0F
    uart.read("rbr")
    assert cause(uart) is Cause.THR_EMPTY


def test_thre_falls_and_rises_with_each_write_of_thr() -> None:
    """Table IV: writing THR resets the interrupt; an edge-triggered PIC sees each emptying."""
    uart = make(IER.ETBEI)
    uart.context.edges.clear()
    uart.write("thr", 0x41)
    assert uart.context.edges == [("irq", False), ("irq", True)]
    uart.read("iir")
    uart.context.edges.clear()
    uart.write("thr", 0x42)
    assert uart.context.edges == [("irq", True)]


def test_thre_comes_again_when_etbei_rises() -> None:
    """Table IV: the source is an empty THR, so enabling the interrupt anew raises it."""
    uart = make(IER.ETBEI)
    uart.read("iir")
    uart.write("ier", IER.ETBEI)
    assert not irq(uart), "ETBEI did not rise"
    uart.write("ier", 0)
    uart.write("ier", IER.ETBEI)
    assert irq(uart)


def test_without_fifos_each_character_interrupts() -> None:
    """8.4: in 16450 mode received data is available from one character on, until RBR is read."""
    uart = make(IER.ERBFI)
    for character in b"ab":
        uart.receive("serial", bytes((character,)))
        assert Cause.DATA == uart.read("iir")
        assert character == uart.read("rbr")
    assert not irq(uart)
    assert uart.read("lsr") == IDLE


@pytest.mark.parametrize(("code", "trigger"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_trigger_levels(code: int, trigger: int) -> None:
    """8.4: the interrupt comes at the trigger level and goes as the FIFO drops below it."""
    uart = make(IER.ERBFI, fcr=code | FCR.FIFO_ENABLE)
    uart.receive("serial", bytes(trigger - 1))
    assert not irq(uart)
    uart.receive("serial", b"x")
    assert Cause.DATA | 0xC0 == uart.read("iir")
    uart.read("rbr")
    assert not irq(uart)


def test_character_timeout() -> None:
    """8.4: a FIFO that holds a character and rests for four character times interrupts."""
    uart = make(IER.ERBFI, fcr=FIFO_14)
    uart.receive("serial", b"abc")
    uart.advance(4 * CHARACTER_NS - 10)
    assert not irq(uart)
    uart.advance(20)
    assert Cause.TIMEOUT | 0xC0 == uart.read("iir")
    assert uart.read("rbr") == ord("a")
    assert not irq(uart), "cleared by reading one character"
    uart.advance(4 * CHARACTER_NS + 10)
    assert irq(uart), "and restarted by it"
    uart.read("rbr")
    uart.read("rbr")
    uart.advance(10 * CHARACTER_NS)
    assert not irq(uart), "an empty FIFO has no timeout"


def test_a_received_character_restarts_the_timeout() -> None:
    """8.4: the timer is reset when a new character is received."""
    uart = make(IER.ERBFI, fcr=FIFO_14)
    for _ in range(3):
        uart.receive("serial", b"x")
        uart.advance(3 * CHARACTER_NS)
    assert not irq(uart)
    uart.advance(2 * CHARACTER_NS)
    assert cause(uart) is Cause.TIMEOUT


def test_character_time_follows_line_format() -> None:
    """8.4: character times count the whole frame: 2 stop bits and parity make it 12 bits."""
    uart = make(IER.ERBFI, fcr=FIFO_14)
    uart.write("lcr", 0x0F)
    uart.receive("serial", b"x")
    assert {"silence": 4 * 12 * 16 * 1_000_000_000 // 1_843_200} == uart.context.deadlines


def test_fifo_bits_of_fcr_need_bit_0() -> None:
    """8.4: FCR0 must be 1 when other bits are written, or they are not programmed."""
    uart = make(IER.ERBFI, fcr=FCR.FIFO_ENABLE)
    uart.receive("serial", b"abc")
    uart.write("fcr", FIFO_14)
    assert uart.device.state.fifo == b"abc", "a new trigger level loses nothing"
    uart.write("fcr", FIFO_14 | FCR.RCVR_FIFO_RESET)
    assert uart.read("lsr") == IDLE
    uart.write("fcr", FIFO_14 & ~FCR.FIFO_ENABLE)
    assert uart.read("iir") == Cause.NONE
    uart.receive("serial", b"z")
    assert cause(uart) is Cause.DATA, "no trigger level is left"


def test_changing_fcr0_resets_fifos() -> None:
    """8.4: changing between FIFO and 16450 mode clears both FIFOs."""
    uart = make(fcr=FCR.FIFO_ENABLE)
    uart.receive("serial", b"abc")
    uart.write("fcr", 0)
    assert uart.read("lsr") == IDLE


def test_overrun_in_fifo_mode() -> None:
    """8.3: with the FIFO full the shift register is overwritten, the FIFO is kept."""
    uart = make(IER.ELSI, fcr=FCR.FIFO_ENABLE, mcr=MCR.OUT2 | MCR.LOOP)
    for byte in range(FIFO_DEPTH + 2):
        uart.write("thr", byte)
    assert Cause.LINE | 0xC0 == uart.read("iir")
    assert LSR.OE | LSR.DR | IDLE == uart.read("lsr")
    assert LSR.DR | IDLE == uart.read("lsr"), "reading LSR clears OE"
    assert not irq(uart)
    assert list(range(FIFO_DEPTH)) == [uart.read("rbr") for _ in range(FIFO_DEPTH)]
    assert uart.read("lsr") == IDLE


def test_overrun_in_16450_mode() -> None:
    """8.3: the character in RBR is destroyed by the next."""
    uart = make(mcr=MCR.LOOP)
    uart.write("thr", 1)
    uart.write("thr", 2)
    assert LSR.OE | LSR.DR | IDLE == uart.read("lsr")
    assert uart.read("rbr") == 2
    assert uart.read("lsr") == IDLE


def test_loopback_keeps_the_line_out() -> None:
    """8.6, LOOP: what is sent is received, nothing leaves; the line's bytes wait for its end."""
    uart = make(mcr=MCR.LOOP)
    uart.write("thr", 0x55)
    assert uart.room("serial") == 0
    assert uart.read("rbr") == 0x55
    assert (b"", IDLE) == (uart.sent("serial"), uart.read("lsr"))
    uart.context.readied.clear()
    uart.write("mcr", 0)
    assert (1, ["serial"]) == (uart.room("serial"), uart.context.readied)


@pytest.mark.parametrize(
    ("output", "line"), [(MCR.RTS, MSR.CTS), (MCR.DTR, MSR.DSR), (MCR.OUT1, MSR.RI), (MCR.OUT2, MSR.DCD)]
)
def test_modem_lines_in_loopback(output: MCR, line: MSR) -> None:
    """8.6, LOOP: the four outputs are the four inputs."""
    uart = make(mcr=MCR.LOOP)
    uart.read("msr")
    uart.write("mcr", MCR.LOOP | output)
    assert line == uart.device.msr & 0xF0


def test_modem_changes() -> None:
    """8.8: a change of an input sets its delta bit, of RI the trailing edge; reading clears."""
    uart = make(IER.EDSSI, mcr=MCR.LOOP | MCR.OUT2)
    uart.read("msr")
    assert not irq(uart)
    uart.write("mcr", MCR.LOOP | MCR.OUT2 | MCR.OUT1)
    assert MSR.DCD | MSR.RI == uart.read("msr")
    uart.write("mcr", MCR.LOOP | MCR.OUT2 | MCR.RTS)
    assert Cause.MODEM == uart.read("iir")
    assert MSR.DCD | MSR.CTS | MSR.TERI | MSR.DCTS == uart.read("msr")
    assert not irq(uart)


def test_priorities() -> None:
    """Table IV: line status, then received data, then THRE, then modem status."""
    uart = make(IER.ELSI | IER.ERBFI | IER.ETBEI | IER.EDSSI, mcr=MCR.LOOP | MCR.OUT2)
    uart.write("mcr", MCR.LOOP | MCR.OUT2 | MCR.DTR)
    uart.write("thr", 1)
    uart.write("thr", 2)
    found = []
    for served in ("lsr", "rbr", "iir", "msr"):
        found.append(cause(uart))
        uart.read(served)
    found.append(cause(uart))
    expected = [Cause.LINE, Cause.DATA, Cause.THR_EMPTY, Cause.MODEM, Cause.NONE]
    assert found == expected


def test_out2_gates_the_interrupt() -> None:
    """IBM PC AT adapter: the interrupt reaches the bus only while OUT2 is on; IIR tells anyway."""
    uart = make(IER.ERBFI, mcr=0)
    uart.receive("serial", b"x")
    assert (False, Cause.DATA) == (irq(uart), cause(uart))
    uart.write("mcr", MCR.OUT2)
    assert irq(uart)
    uart.write("mcr", 0)
    assert not irq(uart)


@pytest.mark.parametrize("fcr", [0, FCR.FIFO_ENABLE])
def test_the_backend_waits_for_room(fcr: int) -> None:
    """There is room for what the receiver holds; a read of RBR makes it known; the rest overruns."""
    uart = make(fcr=fcr)
    depth = FIFO_DEPTH if fcr else 1
    assert depth == uart.room("serial")
    uart.receive("serial", bytes(depth))
    assert (0, 0) == (uart.room("serial"), uart.read("lsr") & LSR.OE)
    uart.context.readied.clear()
    uart.read("rbr")
    assert (1, ["serial"]) == (uart.room("serial"), uart.context.readied)
    uart.receive("serial", bytes(depth + 1))
    assert uart.read("lsr") & LSR.OE
    assert depth == len(uart.device.state.fifo)


def test_a_word_access_is_two_registers() -> None:
    """A read of two bytes at port 4 is MCR and LSR."""
    assert Harness(Uart16550).read_at(4, size=2) == 0x6000


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 7), st.just(0)),
            st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
            st.tuples(st.just("receive"), st.integers(0, 40), st.just(0)),
            st.tuples(st.just("advance"), st.integers(0, 2_000_000), st.just(0)),
        ),
        max_size=40,
    )
)
def test_the_line_is_what_iir_says(steps: list[tuple[str, int, int]]) -> None:
    """After any sequence: interrupt = IIR bit 0 clear and OUT2; FIFO within its depth."""
    uart = Harness(Uart16550)
    for action, number, value in steps:
        if action == "read":
            uart.read_at(number)
        elif action == "write":
            uart.write_at(number, value)
        elif action == "receive":
            uart.receive("serial", bytes(number))
        else:
            uart.advance(number)
        device = uart.device
        assert irq(uart) == (not device.iir & 1 and bool(device.mcr & MCR.OUT2))
        assert len(device.state.fifo) <= (FIFO_DEPTH if device.fcr & FCR.FIFO_ENABLE else 1)


def test_the_sources_are_short() -> None:
    """All that makes the 16550A are 130 lines, 15 more say what needs no message; pvpanic 25."""
    root = Path(__file__).parents[2]
    parts = [root / "mmiod" / "device" / "uart16550.py", root / "devices" / "legacy" / "uart16550.py"]
    assert 145 >= sum(lines_of_code(part) for part in parts)
    assert 25 >= lines_of_code(root / "devices" / "pseudo" / "pvpanic.py")
