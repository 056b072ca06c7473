"""Inter-VM shared memory of QEMU without interrupts (ivshmem-plain).

Specification: QEMU docs/specs/ivshmem-spec.rst.
"""

from __future__ import annotations

from typing import ClassVar

from mmiod.device import Register, Storage
from mmiod.device.pci import Bar, Identity, PciFunction

API = 1

SIZE = 4 << 20


class Ivshmem(PciFunction):
    """Registers in BAR 0, of which nothing follows without interrupts, and 4 MiB of memory in BAR 2.

    The memory keeps its bytes over resets, as it belongs to others too.

    Not modelled: interrupts, and so peers: this one's number is 0, a doorbell is rung in vain.

    Threat: the memory's size is fixed; the device makes nothing of what is in it.
    """

    identity = Identity(0x1AF4, 0x1110, 0x050000, revision=1, subsystem_vendor=0x1AF4, subsystem=0x1100)
    survives_reset: ClassVar[frozenset[str]] = frozenset({"shared"})
    registers = Bar(0x100, number=0, valid=(4, 4), implemented=(4, 4))
    memory_bar = Bar(SIZE, number=2, wide=True, prefetchable=True)

    interrupt_mask = Register(0x0, size=4, region=registers)
    interrupt_status = Register(0x4, size=4, region=registers)
    iv_position = Register(0x8, size=4, access="r", region=registers)
    doorbell = Register(0xC, size=4, access="w", region=registers)
    shared = Storage(0, SIZE, region=memory_bar)

    @interrupt_status.on_read
    def _take_status(self) -> int:
        status, self.interrupt_status = self.interrupt_status, 0
        return status
