"""The exit of QEMU's test machines: a write ends the hypervisor."""

from __future__ import annotations

from mmiod.device import Device, Request

API = 1


class DebugExit(Device):
    """A write of v, of any size, asks for exit code 2v + 1; reads give 0.

    Specification: QEMU `-device isa-debug-exit,iobase=0xf4,iosize=4`.  A process hands on the
    low 8 bits of the code.  Nothing is kept here.
    """

    length = 4

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        """Nothing is told."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:  # noqa: ARG002
        """End."""
        self.context.request(Request.EXIT, value << 1 | 1)
