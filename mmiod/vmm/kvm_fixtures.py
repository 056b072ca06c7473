"""Pages and doorbells in KVM: accesses of the guest that end in the kernel.

A page is a memory slot of its own with KVM_MEM_READONLY: the guest reads the memory that the daemon
shares, and writes come as KVM_EXIT_MMIO.  A doorbell is an ioeventfd with its value as datamatch:
another value, or size, is an exit as ever.

Taking a slot away waits in the kernel until no vCPU uses it.
"""

from __future__ import annotations

import ctypes
from fcntl import ioctl
from typing import Final

from attrs import define, field

from mmiod.values import Space
from mmiod.vmm import kvm_abi as abi

FIRST_SLOT: Final = 16
"""Those before are the guest's memory."""
_FLAGS: Final = {
    Space.MMIO: abi.KVM_IOEVENTFD_FLAG_DATAMATCH,
    Space.PIO: abi.KVM_IOEVENTFD_FLAG_DATAMATCH | abi.KVM_IOEVENTFD_FLAG_PIO,
}


@define(eq=False)
class KvmFixtures:
    """Those of one VM."""

    vm: int
    _slots: dict[int, tuple[int, memoryview]] = field(factory=dict)
    """By address of the page; the memory is kept as long as the kernel has its place."""

    def show(self, gpa: int, memory: memoryview) -> None:
        """Let the guest read a page, and have its writes as exits."""
        used = {slot for slot, _ in self._slots.values()}
        slot = next(number for number in range(FIRST_SLOT, FIRST_SLOT + len(used) + 1) if number not in used)
        self._slots[gpa] = slot, memory
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._region(slot, abi.KVM_MEM_READONLY, gpa, len(memory), at)

    def hide(self, gpa: int) -> None:
        """Have its reads as exits, too."""
        slot, _memory = self._slots.pop(gpa)
        self._region(slot, 0, gpa, 0, 0)

    def wire(self, space: Space, address: int, size: int, value: int, eventfd: int) -> None:
        """Signal an eventfd instead of an exit, when the guest writes this."""
        self._ioeventfd(space, address, size, value, eventfd, 0)

    def unwire(self, space: Space, address: int, size: int, value: int, eventfd: int) -> None:
        """Have the exit again."""
        self._ioeventfd(space, address, size, value, eventfd, abi.KVM_IOEVENTFD_FLAG_DEASSIGN)

    def _region(self, slot: int, flags: int, gpa: int, length: int, address: int) -> None:
        ioctl(
            self.vm, abi.KVM_SET_USER_MEMORY_REGION, abi.MEMORY_REGION.pack(slot, flags, gpa, length, address)
        )

    def _ioeventfd(self, space: Space, address: int, size: int, value: int, eventfd: int, more: int) -> None:
        packed = abi.IOEVENTFD.pack(value, address, size, eventfd, _FLAGS[space] | more)
        ioctl(self.vm, abi.KVM_IOEVENTFD, packed)
