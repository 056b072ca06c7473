"""8042, by IBM's PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.i8042 import I8042, CommandByte, Status
from mmiod.device import Request
from mmiod.testing.harness import Harness

READY = Status.UNLOCKED | Status.CD


def ask(controller: Harness[I8042], command: int, *data: int) -> int | None:
    """Send a command and its data; give the answer, if there is one."""
    controller.write("command", command)
    for byte in data:
        controller.write("data", byte)
    return controller.read("data") if controller.device.status & Status.OBF else None


def test_after_reset() -> None:
    """The output buffer is empty, SYS is clear, the keyboard is not locked, no interrupt."""
    controller = Harness(I8042)
    assert controller.read("status") == READY
    assert controller.levels == {"keyboard_irq": False, "aux_irq": False}


@pytest.mark.parametrize(
    ("command", "answer"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00), (0xC0, 0x80), (0xD0, 0xDF)]
)
def test_commands_that_answer(command: int, answer: int) -> None:
    """Self-test 55h, interface tests 00h, input port unlocked, output port with IRQ1 up."""
    controller = Harness(I8042)
    controller.write("command", 0xD2)
    controller.write("data", 0)
    assert answer == ask(controller, command)
    assert not controller.read("status") & Status.OBF


def test_self_test_sets_the_system_flag() -> None:
    """SYS is 0 after power-on and 1 after the self-test."""
    controller = Harness(I8042)
    ask(controller, 0xAA)
    assert READY | Status.SYS == controller.read("status")


def test_command_byte() -> None:
    """60h writes it, 20h reads it; A7h/A8h and ADh/AEh switch the interfaces off and on."""
    controller = Harness(I8042)
    assert ask(controller, 0x60, 0x45) is None
    found = []
    for switch in (0xA7, 0xAD, 0xA8, 0xAE):
        ask(controller, switch)
        found.append(ask(controller, 0x20))
    assert found == [0x65, 0x75, 0x55, 0x45]
    assert controller.read("status") & Status.SYS, "bit 2 is the system flag"


def test_status_tells_command_from_data() -> None:
    """CD is 1 after a write of port 64h and 0 after one of port 60h."""
    controller = Harness(I8042)
    ask(controller, 0x60, 0x00)
    assert not controller.read("status") & Status.CD
    controller.write("command", 0xAE)
    assert controller.read("status") & Status.CD


def test_a_byte_for_no_keyboard_times_out() -> None:
    """Nobody clocks the byte in: FEh with the time-out bit, at once, as keyboard data."""
    controller = Harness(I8042)
    controller.write("data", 0xFF)
    assert Status.OBF | Status.TIMEOUT | Status.UNLOCKED == controller.read("status")
    assert controller.read("data") == 0xFE
    assert Status.UNLOCKED == controller.read("status")


def test_a_byte_for_no_mouse_times_out() -> None:
    """D4h sends to the auxiliary device: FEh with time-out and AUX."""
    controller = Harness(I8042)
    controller.write("command", 0xD4)
    controller.write("data", 0xFF)
    assert Status.OBF | Status.TIMEOUT | Status.AUX | Status.UNLOCKED == controller.read("status")
    assert controller.read("data") == 0xFE


def test_sending_enables_the_interface() -> None:
    """A byte for the keyboard clears "disable keyboard", one for the mouse "disable auxiliary"."""
    controller = Harness(I8042)
    ask(controller, 0x60, CommandByte.KEYBOARD_OFF | CommandByte.AUX_OFF)
    controller.write("data", 0xED)
    controller.read("data")
    found = [ask(controller, 0x20)]
    assert ask(controller, 0xD4, 0xED) == 0xFE
    found.append(ask(controller, 0x20))
    assert found == [CommandByte.AUX_OFF, 0]


def test_buffer_writes_interrupt() -> None:
    """D2h and D3h fill the output buffer as keyboard and mouse would; each has its interrupt."""
    controller = Harness(I8042)
    found = []
    for command in (0xD2, 0xD3):
        controller.write("command", command)
        controller.write("data", 0x5A)
        found.append((controller.read("status") & Status.AUX, dict(controller.levels)))
        assert controller.read("data") == 0x5A
        assert not any(controller.levels.values()), "reading port 60h ends the interrupt"
    assert found == [
        (0, {"keyboard_irq": True, "aux_irq": False}),
        (Status.AUX, {"keyboard_irq": False, "aux_irq": True}),
    ]


def test_interrupts_can_be_disabled() -> None:
    """Bits 0 and 1 of the command byte enable the interrupts, also of what is there already."""
    controller = Harness(I8042)
    ask(controller, 0x60, 0x00)
    controller.write("command", 0xD2)
    controller.write("data", 0x5A)
    controller.write("command", 0x60)
    found = [controller.levels["keyboard_irq"]]
    controller.write("data", CommandByte.KEYBOARD_IRQ)
    found.append(controller.levels["keyboard_irq"])
    assert found == [False, True]


def test_output_port_keeps_a20() -> None:
    """D1h writes A20 with bit 1; DDh and DFh do it in one command."""
    controller = Harness(I8042)
    found = []
    for send in ((0xD1, 0xDD), (0xD1, 0xDF), (0xDD,), (0xDF,)):
        controller.write("command", send[0])
        for byte in send[1:]:
            controller.write("data", byte)
        found.append((ask(controller, 0xD0) or 0) & 2)
    assert found == [0, 2, 0, 2]
    assert controller.context.requests == []


@pytest.mark.parametrize("command", [0xFE, 0xF0, 0xFC])
def test_pulsing_bit_0_resets(command: int) -> None:
    """F0h-FFh pulse the output port bits that are 0; bit 0 is the reset line."""
    controller = Harness(I8042)
    controller.write("command", command)
    assert controller.context.requests == [(Request.RESET, 0)]


def test_other_pulses_do_nothing() -> None:
    """FFh pulses nothing, F1h pulses A20 and unused bits for 6 us."""
    controller = Harness(I8042)
    for command in (0xFF, 0xF1):
        controller.write("command", command)
    assert controller.context.requests == []


def test_output_port_bit_0_resets() -> None:
    """D1h with bit 0 clear holds the system in reset."""
    controller = Harness(I8042)
    controller.write("command", 0xD1)
    controller.write("data", 0xDE)
    assert controller.context.requests == [(Request.RESET, 0)]


def test_a_command_drops_the_one_that_waits_for_data() -> None:
    """After 60h without data another command takes its place; the next data is the keyboard's."""
    controller = Harness(I8042)
    controller.write("command", 0x60)
    assert ask(controller, 0xAA) == 0x55
    controller.write("data", 0x00)
    assert controller.read("data") == 0xFE


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 255)), max_size=60))
def test_no_input_is_ever_stuck(writes: list[tuple[bool, int]]) -> None:
    """IBF is never set: firmware that waits to write never times out."""
    controller = Harness(I8042)
    for command, value in writes:
        controller.write("command" if command else "data", value)
        assert not controller.read("status") & Status.IBF
