"""What a device class declares besides registers: regions, lines, timers, channels.

Each is a class attribute; on an instance it gives the live object:

    registers = Region(8)       self.registers      -> the Region (for `place`)
    irq = IrqOutput()           self.irq            -> Line: set_level, pulse, level
    ir = IrqInputs(8)           self.ir[3]          -> bool
    tick = Timer()              self.tick           -> Alarm: set, cancel, deadline_ns
    serial = Stream()           self.serial         -> Channel: send, ready
    tpm = Requests({...})       self.tpm            -> Client: send, cancel
"""

from __future__ import annotations

from mmiod.device.declarations.channels import (
    Channel as Channel,
    Client as Client,
    Effect as Effect,
    Requests as Requests,
    Stream as Stream,
)
from mmiod.device.declarations.lines import (
    IrqInput as IrqInput,
    IrqInputs as IrqInputs,
    IrqOutput as IrqOutput,
    IrqOutputs as IrqOutputs,
    Line as Line,
)
from mmiod.device.declarations.regions import Region as Region
from mmiod.device.declarations.timers import Alarm as Alarm, Timer as Timer

Declaration = Region | IrqOutput | IrqOutputs | IrqInput | IrqInputs | Timer | Stream | Requests
