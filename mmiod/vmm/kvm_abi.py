"""Numbers and structures of the Linux KVM interface, as far as `kvm` uses them.

Specification: Linux, Documentation/virt/kvm/api.rst; include/uapi/linux/kvm.h and
arch/x86/include/uapi/asm/kvm.h.  A test compares everything here with those headers.
"""

from __future__ import annotations

import struct
from typing import Final

API_VERSION: Final = 12

# --- ioctls (asm-generic/ioctl.h: direction << 30 | size << 16 | type << 8 | number) ---------

_KVMIO: Final = 0xAE
_WRITE, _READ = 1, 2


def _io(number: int, direction: int = 0, size: int = 0) -> int:
    return direction << 30 | size << 16 | _KVMIO << 8 | number


REGS_SIZE: Final = 144
SREGS_SIZE: Final = 312
EVENTS_SIZE: Final = 64
DEBUGREGS_SIZE: Final = 128
FPU_SIZE: Final = 416
XCRS_SIZE: Final = 392
ENABLE_CAP_SIZE: Final = 104
IRQCHIP_SIZE: Final = 520
LAPIC_SIZE: Final = 1024
MP_STATE_SIZE: Final = 4
XSAVE_SIZE: Final = 4096

KVM_GET_API_VERSION: Final = _io(0x00)
KVM_CREATE_VM: Final = _io(0x01)
KVM_CHECK_EXTENSION: Final = _io(0x03)
KVM_GET_VCPU_MMAP_SIZE: Final = _io(0x04)
KVM_GET_SUPPORTED_CPUID: Final = _io(0x05, _READ | _WRITE, 8)
KVM_CREATE_VCPU: Final = _io(0x41)
KVM_SET_USER_MEMORY_REGION: Final = _io(0x46, _WRITE, 32)
KVM_CREATE_IRQCHIP: Final = _io(0x60)
KVM_IRQ_LINE: Final = _io(0x61, _WRITE, 8)
KVM_GET_IRQCHIP: Final = _io(0x62, _READ | _WRITE, IRQCHIP_SIZE)
KVM_SET_IRQCHIP: Final = _io(0x63, _READ, IRQCHIP_SIZE)
KVM_IRQFD: Final = _io(0x76, _WRITE, 32)
KVM_IOEVENTFD: Final = _io(0x79, _WRITE, 64)
KVM_RUN: Final = _io(0x80)
KVM_GET_REGS: Final = _io(0x81, _READ, REGS_SIZE)
KVM_SET_REGS: Final = _io(0x82, _WRITE, REGS_SIZE)
KVM_GET_SREGS: Final = _io(0x83, _READ, SREGS_SIZE)
KVM_SET_SREGS: Final = _io(0x84, _WRITE, SREGS_SIZE)
KVM_TRANSLATE: Final = _io(0x85, _READ | _WRITE, 24)
KVM_INTERRUPT: Final = _io(0x86, _WRITE, 4)
KVM_SET_SIGNAL_MASK: Final = _io(0x8B, _WRITE, 4)
KVM_GET_FPU: Final = _io(0x8C, _READ, FPU_SIZE)
KVM_SET_FPU: Final = _io(0x8D, _WRITE, FPU_SIZE)
KVM_GET_LAPIC: Final = _io(0x8E, _READ, LAPIC_SIZE)
KVM_SET_LAPIC: Final = _io(0x8F, _WRITE, LAPIC_SIZE)
KVM_SET_CPUID2: Final = _io(0x90, _WRITE, 8)
KVM_GET_MP_STATE: Final = _io(0x98, _READ, MP_STATE_SIZE)
KVM_SET_MP_STATE: Final = _io(0x99, _WRITE, MP_STATE_SIZE)
KVM_GET_VCPU_EVENTS: Final = _io(0x9F, _READ, EVENTS_SIZE)
KVM_SET_VCPU_EVENTS: Final = _io(0xA0, _WRITE, EVENTS_SIZE)
KVM_GET_DEBUGREGS: Final = _io(0xA1, _READ, DEBUGREGS_SIZE)
KVM_SET_DEBUGREGS: Final = _io(0xA2, _WRITE, DEBUGREGS_SIZE)
KVM_ENABLE_CAP: Final = _io(0xA3, _WRITE, ENABLE_CAP_SIZE)
KVM_GET_XSAVE: Final = _io(0xA4, _READ, XSAVE_SIZE)
KVM_SET_XSAVE: Final = _io(0xA5, _WRITE, XSAVE_SIZE)
KVM_SIGNAL_MSI: Final = _io(0xA5, _WRITE, 32)
KVM_GET_XCRS: Final = _io(0xA6, _READ, XCRS_SIZE)
KVM_SET_XCRS: Final = _io(0xA7, _WRITE, XCRS_SIZE)

# --- capabilities ----------------------------------------------------------------------------

KVM_CAP_IRQCHIP: Final = 0
KVM_CAP_USER_MEMORY: Final = 3
KVM_CAP_EXT_CPUID: Final = 7
KVM_CAP_IOEVENTFD: Final = 36
KVM_CAP_VCPU_EVENTS: Final = 41
KVM_CAP_DEBUGREGS: Final = 50
KVM_CAP_XSAVE: Final = 55
KVM_CAP_XCRS: Final = 56
KVM_CAP_SYNC_REGS: Final = 74
KVM_CAP_SIGNAL_MSI: Final = 77
KVM_CAP_READONLY_MEM: Final = 81
KVM_CAP_IRQFD_RESAMPLE: Final = 82
KVM_CAP_IMMEDIATE_EXIT: Final = 136
KVM_CAP_EXIT_ON_EMULATION_FAILURE: Final = 204

# --- struct kvm_run (offsets) ----------------------------------------------------------------

RUN_REQUEST_INTERRUPT_WINDOW: Final = 0
RUN_IMMEDIATE_EXIT: Final = 1
RUN_EXIT_REASON: Final = 8
RUN_READY_FOR_INTERRUPT_INJECTION: Final = 12
RUN_IF_FLAG: Final = 13
RUN_IO: Final = struct.Struct("<32x BBHIQ")
"""direction, size, port, count, offset of the data in the mapping."""
RUN_MMIO: Final = struct.Struct("<32x Q8sIB")
"""gpa, data, length, is_write."""
RUN_MMIO_DATA: Final = 40
RUN_FAILURE: Final = struct.Struct("<32x IIQB15s")
"""Of KVM_EXIT_INTERNAL_ERROR: suberror, words, flags, number of instruction bytes, these."""
RUN_ENTRY_FAILURE: Final = struct.Struct("<32x Q")
RUN_VALID_REGS: Final = 288
RUN_DIRTY_REGS: Final = 296
RUN_REGS: Final = 304
RUN_SREGS: Final = 448
RUN_EVENTS: Final = 760
"""Where kvm_run has copies of the registers, if `RUN_VALID_REGS` asks for them."""
KVM_SYNC_X86_REGS: Final = 1
KVM_SYNC_X86_SREGS: Final = 2
KVM_SYNC_X86_EVENTS: Final = 4

KVM_EXIT_IO: Final = 2
KVM_EXIT_HLT: Final = 5
KVM_EXIT_MMIO: Final = 6
KVM_EXIT_IRQ_WINDOW_OPEN: Final = 7
KVM_EXIT_SHUTDOWN: Final = 8
KVM_EXIT_FAIL_ENTRY: Final = 9
KVM_EXIT_INTERNAL_ERROR: Final = 17
KVM_EXIT_IO_OUT: Final = 1
KVM_INTERNAL_ERROR_EMULATION: Final = 1
KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: Final = 1

# --- interrupt controllers in the kernel --------------------------------------------------------

KVM_IRQCHIP_PIC_MASTER: Final = 0
KVM_IRQCHIP_PIC_SLAVE: Final = 1
KVM_IRQCHIP_IOAPIC: Final = 2
IRQCHIP: Final = struct.Struct(f"<I{IRQCHIP_SIZE - 4}x")
"""Which of the three; its state follows."""
IRQ_LEVEL: Final = struct.Struct("<II")
"""line, level."""
IRQFD: Final = struct.Struct("<4I16x")
"""eventfd, line, flags, eventfd of a resample."""
KVM_IRQFD_FLAG_DEASSIGN: Final = 1
KVM_IRQFD_FLAG_RESAMPLE: Final = 2
MSI: Final = struct.Struct("<4I16x")
"""address, its upper half, data, flags."""

# --- other structures ------------------------------------------------------------------------

MEMORY_REGION: Final = struct.Struct("<IIQQQ")
"""slot, flags, gpa, length, address in this process."""
KVM_MEM_READONLY: Final = 2
IOEVENTFD: Final = struct.Struct("<QQIiI36x")
"""datamatch, address, length, eventfd, flags."""
KVM_IOEVENTFD_FLAG_DATAMATCH: Final = 1
KVM_IOEVENTFD_FLAG_PIO: Final = 2
KVM_IOEVENTFD_FLAG_DEASSIGN: Final = 4
REGS: Final = struct.Struct("<18Q")
"""rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags."""
SEGMENT: Final = struct.Struct("<QIH9Bx")
"""base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable."""
TABLE: Final = struct.Struct("<QH6x")
"""base, limit."""
SREGS_SEGMENTS: Final = 0
"""cs ds es fs gs ss tr ldt."""
SREGS_TABLES: Final = 192
"""gdt idt."""
SREGS_CONTROL: Final = struct.Struct("<7Q")
"""cr0 cr2 cr3 cr4 cr8 efer apic_base."""
SREGS_CONTROL_AT: Final = 224
SREGS_CR2: Final = 232
DEBUGREGS: Final = struct.Struct("<4QQQ")
"""db0-3, dr6, dr7."""
XCR: Final = struct.Struct("<II II Q")
"""nr_xcrs, flags; xcr, reserved, value of the first."""
EVENTS_EXCEPTION: Final = struct.Struct("<BBBBI")
"""injected, vector, has_error_code, pending, error_code."""
EVENTS_SHADOW: Final = 11
EVENTS_FLAGS: Final = 20
KVM_VCPUEVENT_VALID_SHADOW: Final = 4
TRANSLATION: Final = struct.Struct("<QQB7x")
"""linear, physical, valid."""
ENABLE_CAP: Final = struct.Struct(f"<IIQ{ENABLE_CAP_SIZE - 16}x")
"""cap, flags, args[0]."""
CPUID_HEAD: Final = struct.Struct("<II")
"""Number of entries."""
CPUID_ENTRY: Final = struct.Struct("<7I12x")
"""function, index, flags, eax, ebx, ecx, edx."""
SIGNAL_MASK: Final = struct.Struct("<IQ")
"""Bytes of the kernel's signal set, the set."""
