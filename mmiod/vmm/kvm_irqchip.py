"""The PC's interrupt controllers in the kernel: two 8259, an I/O APIC and the vCPU's local APIC.

Devices drive their lines by SET_LEVEL, and signal messages by MSI; HLT and the delivery of
interrupts are KVM's affair.

ISA lines are edges, and each change of level counts: KVM_IRQ_LINE.  The lines that PCI
functions share are levels.  These are held by an eventfd (KVM_IRQFD with RESAMPLE): once
raised, the line stays high until the guest ends the interrupt.  KVM lowers it then and
says so by a second eventfd, which becomes the message EOI, and mmiod raises it again if
the device still wants it.  So a line that falls and rises meanwhile takes no message.

Nothing waits for the second eventfd but a thread of its own: eventfds raise no SIGIO.

Specification: KVM api.rst, KVM_CREATE_IRQCHIP, KVM_IRQ_LINE, KVM_IRQFD, KVM_SIGNAL_MSI.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from fcntl import ioctl
from typing import Final

from attrs import define, field

from mmiod.errors import MmiodError
from mmiod.vmm import kvm_abi as abi

LINES: Final = 24
"""Inputs of the I/O APIC; the first 16 lead to the 8259s as well."""
SHARED: Final = (5, 9, 10, 11, *range(16, LINES))
"""Lines of PCI functions: where the PIIX3 routes its four, the SCI, and the I/O APIC's own."""
_CHIPS: Final = (abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC)


class NoSuchLine(MmiodError):
    """The machine file wires a device to a line that the controllers do not have."""


@define(eq=False)
class Resampled:
    """A shared line: `trigger` raises it, `ended` is told when the guest ended its interrupt."""

    line: int
    trigger: int = field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    ended: int = field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def assign(self, vm: int, flags: int = 0) -> None:
        """Give the line to KVM, or take it away, which lowers it."""
        flags |= abi.KVM_IRQFD_FLAG_RESAMPLE
        ioctl(vm, abi.KVM_IRQFD, abi.IRQFD.pack(self.trigger, self.line, flags, self.ended))

    def close(self) -> None:
        """Close both eventfds."""
        os.close(self.trigger)
        os.close(self.ended)


@define(eq=False)
class KernelIrqchip:
    """The controllers of the virtual machine `vm`, which has no vCPU yet.

    `ring` is called, in a thread of its own, when the guest has ended an interrupt.
    """

    vm: int
    ring: Callable[[], None]
    _vcpu: int = field(init=False, default=-1)
    _after_reset: list[bytearray] = field(init=False)
    _lapic: bytearray = field(init=False, factory=lambda: bytearray(abi.LAPIC_SIZE))
    _levels: dict[int, bool] = field(init=False, factory=dict)
    _shared: dict[int, Resampled] = field(
        init=False, factory=lambda: {line: Resampled(line) for line in SHARED}
    )
    _ended: deque[int] = field(init=False, factory=deque)
    _stop: int = field(init=False, factory=lambda: os.eventfd(0, os.EFD_CLOEXEC))
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        ioctl(self.vm, abi.KVM_CREATE_IRQCHIP, 0)
        self._after_reset = [self._chip(number) for number in _CHIPS]
        for shared in self._shared.values():
            shared.assign(self.vm)
        self._thread = threading.Thread(target=self._listen, name="resample", daemon=True)
        self._thread.start()

    def attach(self, vcpu: int) -> None:
        """The machine's vCPU is there; it is new."""
        self._vcpu = vcpu
        ioctl(vcpu, abi.KVM_GET_LAPIC, self._lapic)

    # --- towards the guest ---------------------------------------------------------------

    def set_level(self, line: int, level: bool) -> None:
        """A device changed a line.

        Raises:
            NoSuchLine: there are `LINES`.
        """
        if line >= LINES:
            raise NoSuchLine(f"the machine has a wire to hypervisor.{line}: lines are 0..{LINES - 1}")
        self._levels[line] = level
        self._drive(line, level)

    def _drive(self, line: int, level: bool) -> None:
        shared = self._shared.get(line)
        if shared is None:
            ioctl(self.vm, abi.KVM_IRQ_LINE, abi.IRQ_LEVEL.pack(line, level))
        elif level:
            os.eventfd_write(shared.trigger, 1)

    def msi(self, address: int, data: int) -> None:
        """A device signals an interrupt by a message; one that nobody takes is lost, as on a bus."""
        message = abi.MSI.pack(address & 0xFFFF_FFFF, address >> 32, data, 0)
        with contextlib.suppress(PermissionError):  # -1, which is EPERM: no local APIC took it
            ioctl(self.vm, abi.KVM_SIGNAL_MSI, message)

    def reset(self) -> None:
        """The state after a reset, with lines as devices drive them."""
        for image in self._after_reset:
            ioctl(self.vm, abi.KVM_SET_IRQCHIP, image)
        ioctl(self._vcpu, abi.KVM_SET_LAPIC, self._lapic)
        for shared in self._shared.values():
            shared.assign(self.vm, abi.KVM_IRQFD_FLAG_DEASSIGN)
            shared.assign(self.vm)
        for line, level in self._levels.items():
            self._drive(line, level)

    def _chip(self, number: int) -> bytearray:
        image = bytearray(abi.IRQCHIP_SIZE)
        abi.IRQCHIP.pack_into(image, 0, number)
        ioctl(self.vm, abi.KVM_GET_IRQCHIP, image)
        return image

    # --- towards devices -------------------------------------------------------------------

    def ended(self) -> Iterator[int]:
        """Lines whose interrupt the guest has ended, each once."""
        while self._ended:
            yield self._ended.popleft()

    def _listen(self) -> None:
        lines = {shared.ended: line for line, shared in self._shared.items()}
        with select.epoll() as poll:
            for descriptor in (self._stop, *lines):
                poll.register(descriptor, select.EPOLLIN)
            while True:
                ready = [descriptor for descriptor, _ in poll.poll()]
                if self._stop in ready:
                    return
                for descriptor in ready:
                    os.eventfd_read(descriptor)
                    self._ended.append(lines[descriptor])
                self.ring()

    def close(self) -> None:
        """End the thread and close what is open."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        for shared in self._shared.values():
            shared.close()
