"""A KVM vCPU's registers: read for an exit, changed by what mmiod executed, reset.

KVM leaves copies of most registers behind the `kvm_run` structure at each exit, and takes
changed ones from there (KVM_SYNC_REGS).  That costs the accesses which KVM decodes nothing
that can be measured, and is five ioctls less for an instruction that goes to mmiod: 38 us
instead of 96, nested.
"""

from __future__ import annotations

import mmap
import struct
from fcntl import ioctl
from operator import itemgetter
from typing import Final

from attrs import define, field

from mmiod.values import SS, Delta, Segment, VcpuState
from mmiod.vmm import kvm_abi as abi

_GPR: Final = (0, 2, 3, 1, 6, 7, 4, 5, *range(8, 16))
"""Where kvm_regs has each general register."""
_gpr: Final = itemgetter(*_GPR)
_SEGMENTS: Final = (2, 0, 5, 1, 3, 4, 6, 7)
"""Where kvm_sregs has es cs ss ds fs gs tr ldtr."""
_RIP, _RFLAGS = 16, 17
_PE: Final = 1 << 0
_VM: Final = 1 << 17
_COPIED: Final = (
    (abi.KVM_GET_SREGS, abi.KVM_SET_SREGS, abi.SREGS_SIZE, abi.RUN_SREGS),
    (abi.KVM_GET_REGS, abi.KVM_SET_REGS, abi.REGS_SIZE, abi.RUN_REGS),
    (abi.KVM_GET_VCPU_EVENTS, abi.KVM_SET_VCPU_EVENTS, abi.EVENTS_SIZE, abi.RUN_EVENTS),
)
"""What KVM keeps copies of, and where."""
_OTHERS: Final = (
    (abi.KVM_GET_XCRS, abi.KVM_SET_XCRS, abi.XCRS_SIZE),
    (abi.KVM_GET_XSAVE, abi.KVM_SET_XSAVE, abi.XSAVE_SIZE),
    (abi.KVM_GET_DEBUGREGS, abi.KVM_SET_DEBUGREGS, abi.DEBUGREGS_SIZE),
    (abi.KVM_GET_MP_STATE, abi.KVM_SET_MP_STATE, abi.MP_STATE_SIZE),
)
"""What a reset sets besides, as KVM has it when the vCPU is new."""
_ALL_COPIES: Final = abi.KVM_SYNC_X86_REGS | abi.KVM_SYNC_X86_SREGS | abi.KVM_SYNC_X86_EVENTS
_WORD: Final = struct.Struct("<Q")


@define
class Registers:
    """The registers of the vCPU `descriptor`, which must be new; `run` is its kvm_run."""

    descriptor: int
    run: mmap.mmap
    _after_reset: list[bytearray] = field(init=False)

    def __attrs_post_init__(self) -> None:
        copied = [self._get(get, size) for get, _, size, _ in _COPIED]
        struct.pack_into("<I", copied[-1], abi.EVENTS_FLAGS, abi.KVM_VCPUEVENT_VALID_SHADOW)
        self._after_reset = copied + [self._get(get, size) for get, _, size in _OTHERS]
        _WORD.pack_into(self.run, abi.RUN_VALID_REGS, _ALL_COPIES)
        self.reset()

    def reset(self) -> None:
        """The state after a reset."""
        settings = (
            *((set_, size) for _, set_, size, _ in _COPIED),
            *((set_, size) for _, set_, size in _OTHERS),
        )
        for (set_, _), image in zip(settings, self._after_reset, strict=True):
            ioctl(self.descriptor, set_, image)
        for (*_, size, place), image in zip(_COPIED, self._after_reset, strict=False):
            self.run[place : place + size] = bytes(image)
        _WORD.pack_into(self.run, abi.RUN_DIRTY_REGS, 0)

    @property
    def place(self) -> tuple[int, int]:
        """Where the vCPU is: the base of CS, RIP."""
        (base,) = _WORD.unpack_from(self.run, abi.RUN_SREGS + abi.SREGS_SEGMENTS)
        (rip,) = _WORD.unpack_from(self.run, abi.RUN_REGS + _RIP * _WORD.size)
        return base, rip

    def load(self) -> VcpuState:
        """All that an exit tells of the vCPU."""
        words = abi.REGS.unpack_from(self.run, abi.RUN_REGS)
        sregs = self.run[abi.RUN_SREGS : abi.RUN_SREGS + abi.SREGS_SIZE]
        debug = abi.DEBUGREGS.unpack_from(self._get(abi.KVM_GET_DEBUGREGS, abi.DEBUGREGS_SIZE))
        *segments, tr, ldtr = (_segment(sregs, place) for place in _SEGMENTS)
        cr0, cr2, cr3, cr4, _, efer, _ = abi.SREGS_CONTROL.unpack_from(sregs, abi.SREGS_CONTROL_AT)
        return VcpuState(
            gpr=list(_gpr(words)), rip=words[_RIP], rflags=words[_RFLAGS],
            segments=segments, tr=tr, ldtr=ldtr, gdtr=_table(sregs, 0), idtr=_table(sregs, 1),
            cpl=_privilege(cr0, words[_RFLAGS], segments[SS]),
            cr0=cr0, cr2=cr2, cr3=cr3, cr4=cr4, efer=efer, xcr0=self._xcr0(), dr6=debug[4], dr7=debug[5],
        )  # fmt: skip

    def breakpoints(self) -> list[int]:
        """DR0-3."""
        return list(abi.DEBUGREGS.unpack_from(self._get(abi.KVM_GET_DEBUGREGS, abi.DEBUGREGS_SIZE))[:4])

    def set_debug_status(self, bits: int) -> None:
        """Set bits of DR6."""
        image = self._get(abi.KVM_GET_DEBUGREGS, abi.DEBUGREGS_SIZE)
        *addresses, dr6, dr7 = abi.DEBUGREGS.unpack_from(image)
        abi.DEBUGREGS.pack_into(image, 0, *addresses, dr6 | bits, dr7)
        ioctl(self.descriptor, abi.KVM_SET_DEBUGREGS, image)

    def apply(self, delta: Delta) -> None:
        """Write back what an instruction did; an interrupt shadow ends with it."""
        words = list(abi.REGS.unpack_from(self.run, abi.RUN_REGS))
        for number, value in delta.registers.items():
            words[_GPR[number]] = value
        words[_RIP], words[_RFLAGS] = delta.rip, delta.rflags
        abi.REGS.pack_into(self.run, abi.RUN_REGS, *words)
        self._changed(abi.KVM_SYNC_X86_REGS)
        for number, segment in delta.segments.items():
            place = abi.RUN_SREGS + abi.SREGS_SEGMENTS + _SEGMENTS[number] * abi.SEGMENT.size
            abi.SEGMENT.pack_into(self.run, place, *_parts(segment))
            self._changed(abi.KVM_SYNC_X86_SREGS)
        if self.run[abi.RUN_EVENTS + abi.EVENTS_SHADOW]:
            self.run[abi.RUN_EVENTS + abi.EVENTS_SHADOW] = 0
            self._change_events()

    def fault(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Have an exception delivered at the next entry."""
        if cr2 is not None:
            struct.pack_into("<Q", self.run, abi.RUN_SREGS + abi.SREGS_CR2, cr2)
            self._changed(abi.KVM_SYNC_X86_SREGS)
        exception = (True, vector, error_code is not None, False, error_code or 0)
        abi.EVENTS_EXCEPTION.pack_into(self.run, abi.RUN_EVENTS, *exception)
        self._change_events()

    def _changed(self, copies: int) -> None:
        (before,) = _WORD.unpack_from(self.run, abi.RUN_DIRTY_REGS)
        _WORD.pack_into(self.run, abi.RUN_DIRTY_REGS, before | copies)

    def _change_events(self) -> None:
        """No KVM_INTERRUPT may come before the next entry, which would undo it."""
        struct.pack_into("<I", self.run, abi.RUN_EVENTS + abi.EVENTS_FLAGS, abi.KVM_VCPUEVENT_VALID_SHADOW)
        self._changed(abi.KVM_SYNC_X86_EVENTS)

    def _xcr0(self) -> int:
        count, _, number, _, value = abi.XCR.unpack_from(self._get(abi.KVM_GET_XCRS, abi.XCRS_SIZE))
        return value if count and not number else 1  # a processor without XSAVE: as after a reset

    def _get(self, request: int, size: int) -> bytearray:
        image = bytearray(size)
        ioctl(self.descriptor, request, image)
        return image


def _segment(sregs: bytes, place: int) -> Segment:
    found = abi.SEGMENT.unpack_from(sregs, abi.SREGS_SEGMENTS + place * abi.SEGMENT.size)
    base, limit, selector, type_, present, dpl, db, s, l, g, avl, _unusable = found
    attributes = type_ | s << 4 | dpl << 5 | present << 7 | avl << 12 | l << 13 | db << 14 | g << 15
    return Segment(base, limit, selector, attributes)


def _parts(segment: Segment) -> tuple[int, ...]:
    """The mirror of `_segment`."""
    bits = segment.attributes
    type_, s, dpl, present = bits & 0xF, bits >> 4 & 1, bits >> 5 & 3, bits >> 7 & 1
    avl, l, db, g = (bits >> at & 1 for at in range(12, 16))
    return segment.base, segment.limit, segment.selector, type_, present, dpl, db, s, l, g, avl, 1 - present


def _table(sregs: bytes, place: int) -> Segment:
    base, limit = abi.TABLE.unpack_from(sregs, abi.SREGS_TABLES + place * abi.TABLE.size)
    return Segment(base, limit)


def _privilege(cr0: int, rflags: int, ss: Segment) -> int:
    """As the processor keeps it: the DPL of SS, but for real and virtual-8086 mode."""
    if not cr0 & _PE:
        return 0
    return 3 if rflags & _VM else ss.attributes >> 5 & 3
