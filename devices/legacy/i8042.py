"""The 8042 keyboard controller of a PC, with no keyboard and no mouse plugged in.

Specification: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and
Auxiliary Device Controller" (status register, commands, output port); IBM PC AT Technical
Reference (1502494), "Keyboard controller".
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define

from mmiod.device import Device, IrqOutput, Region, Register, Request, plain

API = 1


Status = enum.IntFlag("Status", "OBF IBF SYS CD UNLOCKED AUX TIMEOUT PARITY")
"""Port 64h, read; CD: the last write was a command."""
CommandByte = enum.IntFlag("CommandByte", "KEYBOARD_IRQ AUX_IRQ SYS D3 KEYBOARD_OFF AUX_OFF TRANSLATE")
"""What commands 20h and 60h reach."""
OutputPort = enum.IntFlag("OutputPort", "NOT_RESET A20 D2 D3 KEYBOARD_IRQ AUX_IRQ")
"""What commands D0h and D1h reach; the interrupt bits tell when the output buffer changes."""
for flags in (Status, CommandByte, OutputPort):
    plain(flags)
SELF_TEST_PASSED: Final = 0x55
INTERFACE_PASSED: Final = 0x00
RESEND: Final = 0xFE
"""The controller's answer for a device that does not clock a byte in ("Transmit time-out")."""
UNLOCKED: Final = 0x80
"""Input port: the keyboard is not locked."""
IDLE: Final = 0xCC | OutputPort.NOT_RESET | OutputPort.A20
"""Output port: clock and data lines of keyboard and mouse are idle."""
INTERRUPTS: Final = int(OutputPort.KEYBOARD_IRQ | OutputPort.AUX_IRQ)


SWITCHES: Final = {
    0xA7: (0, CommandByte.AUX_OFF),
    0xA8: (CommandByte.AUX_OFF, 0),
    0xAD: (0, CommandByte.KEYBOARD_OFF),
    0xAE: (CommandByte.KEYBOARD_OFF, 0),
}
"""Commands that change the command byte: (bits cleared, bits set)."""
A20_SWITCHES: Final = {0xDD: 0, 0xDF: OutputPort.A20}
"""Commands that chipsets added for speed."""


@define
class KeyboardState:
    """The controller's memory."""

    command_byte: int = CommandByte.KEYBOARD_IRQ | CommandByte.AUX_IRQ
    output: int = 0
    """The output buffer; it keeps what was read last."""
    source: int = 0
    """Status bits that say what is in the output buffer; OBF among them while it is unread."""
    awaiting: int = 0
    """The command that takes the next write of port 60h."""
    commanded: bool = True
    latch: int = IDLE
    """The output port."""
    system: bool = False
    """SYS of the status register: a passed self-test sets it, a new command byte decides it."""


class I8042(Device):
    """8042 as a PS/2 has it: both interfaces, nothing plugged into them.

    A byte for the keyboard or the mouse is answered as the controller does when no device
    clocks it in: FEh with the time-out bit, at once, so that firmware need not wait.  Self-test,
    interface tests, command byte, input and output port, buffer writes, disable, enable,
    interrupts, and a reset by command FEh (any even Fxh) or output port bit 0.

    Not modelled: keys, a mouse, password commands, controller RAM other than the command byte,
    the masking of address line 20 (the bit is kept; memory is the hypervisor's).

    Threat: nothing grows; the output buffer is one byte and a later one replaces it.
    """

    data_port = Region(1)
    command_port = Region(1)
    keyboard_irq = IrqOutput()
    aux_irq = IrqOutput()
    state: KeyboardState

    data = Register(0, region=data_port)
    status = Register(0, access="r", region=command_port, fields=Status, published=True)
    command = Register(0, access="w", region=command_port)

    # --- output buffer

    def _answer(self, value: int, source: int = 0) -> None:
        self.state.output = value
        if not self.state.source:  # else it takes the place of an unread one
            self._show(Status.OBF | source)

    def _show(self, source: int) -> None:
        full = INTERRUPTS if source & Status.AUX else OutputPort.KEYBOARD_IRQ if source else 0
        self.state.source, self.state.latch = source, self.state.latch & ~INTERRUPTS | full
        self._drive()

    def _drive(self) -> None:
        source, enabled = self.state.source, self.state.command_byte
        aux = bool(source & Status.AUX)
        self.keyboard_irq.set_level(bool(source and not aux and enabled & CommandByte.KEYBOARD_IRQ))
        self.aux_irq.set_level(bool(aux and enabled & CommandByte.AUX_IRQ))

    def _output_port(self) -> int:
        return self.state.latch

    @data.value
    def _output(self) -> int:
        return self.state.output

    @data.on_read
    def _output_was_read(self) -> None:
        if self.state.source:
            self._show(0)

    @status.value
    def _status(self) -> int:
        system = Status.SYS if self.state.system else 0
        commanded = Status.CD if self.state.commanded else 0
        return self.state.source | system | commanded | Status.UNLOCKED

    # --- commands

    @command.on_write
    def _commanded(self, value: int) -> None:
        self.state.commanded, self.state.awaiting = True, 0
        if value in self._takers:
            self.state.awaiting = value
        elif value in self._answers:
            self._answer(self._answers[value](self))
        elif value in SWITCHES:
            cleared, risen = SWITCHES[value]
            self._set_command_byte(self.state.command_byte & ~int(cleared) | risen)
        elif value in A20_SWITCHES:
            self.state.latch = self.state.latch & ~int(OutputPort.A20) | A20_SWITCHES[value]
        elif value & 0xF1 == 0xF0:
            self.context.request(Request.RESET)

    @data.on_write
    def _data_written(self, value: int) -> None:
        command, self.state.awaiting, self.state.commanded = self.state.awaiting, 0, False
        self._takers[command](self, value)

    def _command_byte(self) -> int:
        return self.state.command_byte

    def _set_command_byte(self, value: int) -> None:
        self.state.command_byte = value
        self.state.system = bool(value & CommandByte.SYS)
        self._drive()

    def _self_test(self) -> int:
        self.state.system = True
        return SELF_TEST_PASSED

    def _interface_test(self) -> int:
        return INTERFACE_PASSED

    def _input_port(self) -> int:
        return UNLOCKED

    def _set_output_port(self, value: int) -> None:
        self.state.latch = value
        if not value & OutputPort.NOT_RESET:
            self.context.request(Request.RESET)

    def _fill_as_aux(self, value: int) -> None:
        self._answer(value, Status.AUX)

    def _to_keyboard(self, _value: int) -> None:
        self.state.command_byte &= ~int(CommandByte.KEYBOARD_OFF)  # sending enables the interface
        self._answer(RESEND, Status.TIMEOUT)

    def _to_aux(self, _value: int) -> None:
        self.state.command_byte &= ~int(CommandByte.AUX_OFF)
        self._answer(RESEND, Status.AUX | Status.TIMEOUT)

    _answers: ClassVar = {
        0x20: _command_byte,
        0xA9: _interface_test,
        0xAA: _self_test,
        0xAB: _interface_test,
        0xC0: _input_port,
        0xD0: _output_port,
    }
    _takers: ClassVar = {
        0x00: _to_keyboard,
        0x60: _set_command_byte,
        0xD1: _set_output_port,
        0xD2: _answer,
        0xD3: _fill_as_aux,
        0xD4: _to_aux,
    }
