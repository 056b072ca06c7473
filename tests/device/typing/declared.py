"""What mypy sees of a device: test_typing.py holds its remarks against the comments."""

from __future__ import annotations

from typing import reveal_type

from attrs import define, field

from mmiod.device import (
    Device,
    Field,
    Fifo,
    IrqInput,
    IrqInputs,
    IrqOutput,
    IrqOutputs,
    Region,
    Register,
    Requests,
    Stream,
    Timer,
)
from mmiod.device.block import Blocks


@define
class State:
    """Of its own."""

    received: list[int] = field(factory=list)


@define
class Config:
    """From the machine file."""

    threshold: int = 4


class Everything(Device):
    """One of each declaration."""

    registers = Region(0x40)
    state: State
    config: Config
    control = Register(0, size=4, fields={"ENABLE": Field(0)})
    channel = Register(8, size=4).array(4)
    received = Fifo(4, size=4, depth=8)
    irq = IrqOutput()
    irqs = IrqOutputs(2)
    gate = IrqInput()
    gates = IrqInputs(2)
    tick = Timer()
    serial = Stream()
    service = Requests({})
    disk = Blocks()

    def look(self) -> None:
        """Reveal what each is on a device."""
        reveal_type(self.control)  # int
        reveal_type(self.channel)  # Elements
        reveal_type(self.channel[1])  # int
        reveal_type(self.received)  # Queue
        reveal_type(self.received.pop())  # int
        reveal_type(self.irq)  # Line
        reveal_type(self.irqs)  # tuple[Line, ...]
        reveal_type(self.gate)  # bool
        reveal_type(self.gates)  # tuple[bool, ...]
        reveal_type(self.tick)  # Alarm
        reveal_type(self.serial)  # Channel
        reveal_type(self.service)  # Client
        reveal_type(self.disk)  # BlockClient
        reveal_type(self.registers)  # Region
        reveal_type(self.state.received)  # list[int]
        reveal_type(self.config.threshold)  # int


reveal_type(Everything.control)  # Register
reveal_type(Everything.channel)  # RegisterArray
reveal_type(Everything.received)  # Fifo
