"""The debug console of Bochs and QEMU: a port that takes the firmware's log.

Specification: QEMU `-device isa-debugcon` (default `readback` 0xe9); SeaBIOS, docs/Debugging.
"""

from __future__ import annotations

from typing import Final

from mmiod.device import Device, Register, Stream

API = 1

READBACK: Final = 0xE9


class DebugCon(Device):
    """Debug console: a byte written goes to `console`, a read tells that it is there.

    Threat: nothing is kept here; the backend bounds what it takes.
    """

    length = 1
    console = Stream()
    port = Register(0, constant=True, published=True, posted=True, unaffected_by=("port",))

    @port.value
    def _readback(self) -> int:
        return READBACK

    @port.on_write
    def _written(self, value: int) -> None:
        self.console.send(bytes((value,)))

    @port.on_write_batch
    def _written_many(self, data: bytes) -> None:
        self.console.send(data)
