"""A KVM vCPU's registers: read for an exit, changed by what mmiod executed, reset.

They are read by ioctls when an instruction goes to mmiod, not with every exit
(KVM_SYNC_REGS): accesses that KVM decodes need none of them.
"""

from __future__ import annotations

import struct
from fcntl import ioctl
from typing import Final

from attrs import define, field

from mmiod.values import SS, Delta, Segment, VcpuState
from mmiod.vmm import kvm_abi as abi

_GPR: Final = (0, 3, 1, 2, 6, 7, 4, 5, *range(8, 16))
"""Which general register is at each place of kvm_regs."""
_SEGMENTS: Final = (2, 0, 5, 1, 3, 4, 6, 7)
"""Where kvm_sregs has es cs ss ds fs gs tr ldtr."""
_RIP, _RFLAGS = 16, 17
_PE: Final = 1 << 0
_VM: Final = 1 << 17
_WHOLE: Final = (
    (abi.KVM_GET_SREGS, abi.KVM_SET_SREGS, abi.SREGS_SIZE),
    (abi.KVM_GET_REGS, abi.KVM_SET_REGS, abi.REGS_SIZE),
    (abi.KVM_GET_FPU, abi.KVM_SET_FPU, abi.FPU_SIZE),
    (abi.KVM_GET_DEBUGREGS, abi.KVM_SET_DEBUGREGS, abi.DEBUGREGS_SIZE),
    (abi.KVM_GET_VCPU_EVENTS, abi.KVM_SET_VCPU_EVENTS, abi.EVENTS_SIZE),
)
"""What a reset sets, as KVM has it when the vCPU is new."""


@define
class Registers:
    """The registers of the vCPU `descriptor`, which must be new."""

    descriptor: int
    _after_reset: list[bytearray] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._after_reset = [self._get(get, size) for get, _, size in _WHOLE]
        events = self._after_reset[-1]
        struct.pack_into("<I", events, abi.EVENTS_FLAGS, abi.KVM_VCPUEVENT_VALID_SHADOW)

    def reset(self) -> None:
        """The state after a reset."""
        for (_, set_, _), image in zip(_WHOLE, self._after_reset, strict=True):
            ioctl(self.descriptor, set_, image)

    def load(self) -> VcpuState:
        """All that an exit tells of the vCPU."""
        words = abi.REGS.unpack(self._get(abi.KVM_GET_REGS, abi.REGS_SIZE))
        sregs = self._get(abi.KVM_GET_SREGS, abi.SREGS_SIZE)
        debug = abi.DEBUGREGS.unpack_from(self._get(abi.KVM_GET_DEBUGREGS, abi.DEBUGREGS_SIZE))
        *segments, tr, ldtr = (_segment(sregs, place) for place in _SEGMENTS)
        cr0, cr2, cr3, cr4, _, efer, _ = abi.SREGS_CONTROL.unpack_from(sregs, abi.SREGS_CONTROL_AT)
        return VcpuState(
            gpr=[words[_GPR.index(number)] for number in range(16)], rip=words[_RIP], rflags=words[_RFLAGS],
            segments=segments, tr=tr, ldtr=ldtr, gdtr=_table(sregs, 0), idtr=_table(sregs, 1),
            cpl=_privilege(cr0, words[_RFLAGS], segments[SS]),
            cr0=cr0, cr2=cr2, cr3=cr3, cr4=cr4, efer=efer, xcr0=self._xcr0(), dr6=debug[4], dr7=debug[5],
        )  # fmt: skip

    def apply(self, delta: Delta) -> None:
        """Write back what an instruction did; an interrupt shadow ends with it."""
        words = list(abi.REGS.unpack(self._get(abi.KVM_GET_REGS, abi.REGS_SIZE)))
        for number, value in delta.registers.items():
            words[_GPR.index(number)] = value
        words[_RIP], words[_RFLAGS] = delta.rip, delta.rflags
        ioctl(self.descriptor, abi.KVM_SET_REGS, abi.REGS.pack(*words))
        self._end_shadow()

    def fault(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Have an exception delivered at the next entry."""
        if cr2 is not None:
            sregs = self._get(abi.KVM_GET_SREGS, abi.SREGS_SIZE)
            struct.pack_into("<Q", sregs, abi.SREGS_CR2, cr2)
            ioctl(self.descriptor, abi.KVM_SET_SREGS, sregs)
        events = self._get(abi.KVM_GET_VCPU_EVENTS, abi.EVENTS_SIZE)
        has_code = error_code is not None
        abi.EVENTS_EXCEPTION.pack_into(events, 0, True, vector, has_code, False, error_code or 0)
        self._set_events(events)

    def _end_shadow(self) -> None:
        events = self._get(abi.KVM_GET_VCPU_EVENTS, abi.EVENTS_SIZE)
        if events[abi.EVENTS_SHADOW]:
            events[abi.EVENTS_SHADOW] = 0
            self._set_events(events)

    def _set_events(self, events: bytearray) -> None:
        struct.pack_into("<I", events, abi.EVENTS_FLAGS, abi.KVM_VCPUEVENT_VALID_SHADOW)
        ioctl(self.descriptor, abi.KVM_SET_VCPU_EVENTS, events)

    def _xcr0(self) -> int:
        count, _, number, _, value = abi.XCR.unpack_from(self._get(abi.KVM_GET_XCRS, abi.XCRS_SIZE))
        return value if count and not number else 1  # a processor without XSAVE: as after a reset

    def _get(self, request: int, size: int) -> bytearray:
        image = bytearray(size)
        ioctl(self.descriptor, request, image)
        return image


def _segment(sregs: bytearray, place: int) -> Segment:
    found = abi.SEGMENT.unpack_from(sregs, abi.SREGS_SEGMENTS + place * abi.SEGMENT.size)
    base, limit, selector, type_, present, dpl, db, s, l, g, avl, _unusable = found
    attributes = type_ | s << 4 | dpl << 5 | present << 7 | avl << 12 | l << 13 | db << 14 | g << 15
    return Segment(base, limit, selector, attributes)


def _table(sregs: bytearray, place: int) -> Segment:
    base, limit = abi.TABLE.unpack_from(sregs, abi.SREGS_TABLES + place * abi.TABLE.size)
    return Segment(base, limit)


def _privilege(cr0: int, rflags: int, ss: Segment) -> int:
    """As the processor keeps it: the DPL of SS, but for real and virtual-8086 mode."""
    if not cr0 & _PE:
        return 0
    return 3 if rflags & _VM else ss.attributes >> 5 & 3
