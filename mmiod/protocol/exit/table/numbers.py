"""Names of bits and values."""

from __future__ import annotations

from typing import Final

TEXT: Final = """
enum capability             # bits of hello and welcome
    GUEST_TIME 0            # guest_ns drives the clock; timers run only between exits
    INTR 1                  # the interrupt controller is here: INTR, EXIT_INTA, EXIT_HALT
    LEVELS 2                # the interrupt controller is the hypervisor's: SET_LEVEL, EOI
    MSI 3
    REQUESTS 4
    MEMORY_MESSAGES 5       # slots without descriptor: NEED_MEMORY, memory supplements
    SAVE 6
    SHARED_MEMORY 7
    PUBLISHED 8
    VECTORS 9               # NEED_REGISTERS and register supplements
    GRANTS 10               # pages and doorbells that need no exit; with PUBLISHED

enum source values          # see docs/sources.md
    NONE 0
    GHCB 1
    SVM 2
    TDVMCALL 3
    TD_L2 4
    KVM 5
    HYPERV 6
    XEN 7
    ACRN 8
    BHYVE 9

enum hello_flag
    JOIN 0                  # a further channel of a session; needs its token

enum welcome_flag
    CONTINUED 0             # the session went on where it was

enum map_flag
    READ_ONLY 0
    NO_DESCRIPTOR 1         # memory that only messages reach

enum exit_raw_flag
    GPA 0
    GVA 1
    INTENT 2
    EVENT_DELIVERY 3        # the access came from delivering an event

enum done_flag
    SHADOW 0                # MOV SS, POP SS: interrupts and `debug` wait for one more instruction

enum fault_flag
    ERROR_CODE 0
    CR2 1
    DELTA 2                 # gpr, rip, rflags and supplements are to be applied first

enum space values
    MMIO 0
    PIO 1
    PCI_CONFIG 2            # address: bus << 20 | device << 15 | function << 12 | register
    MSR 3

enum direction values
    READ 0
    WRITE 1

enum intent values
    READ 0
    WRITE 1
    EXECUTE 2

enum register_set           # each is a component of XSAVE, or three
    X87 0                   # 160 bytes: FXSAVE's image up to the end of ST7
    SSE 1                   # 256 bytes: bits 127:0 of zmm0..15
    AVX 2                   # 256 bytes: bits 255:128 of zmm0..15
    AVX512 3                # 1600 bytes: k0..7; bits 511:256 of zmm0..15; zmm16..31
    GENERAL 4               # supplement VCPU: asked for where a source's structure lacks it
    PASID 5                 # 8 bytes: IA32_PASID
    DEBUG 6                 # 32 bytes: DR0-3

enum register_file values   # what a DONE changes
    XMM 0                   # 16 bytes: bits 127:0 of zmm `number`; those above stay
    ZMM 1                   # 64 bytes: all of zmm `number`, as much of it as the vCPU has
    K 2                     # 8 bytes: k `number`
    FX 3                    # 160 bytes: like the set X87; `number` is 0

enum refusal values
    EVENT_DELIVERY 1        # the access came from delivering an event
    ADDRESS_MISMATCH 2      # the instruction does not touch the page that the exit names
    MMIO_FETCH 3            # the instruction would have to be fetched from a device

enum supplement_kind values
    TRANSLATION 1
    MEMORY 2
    REGISTERS 3
    VECTOR 4
    CODE 5                  # EXIT_SOURCE: 1..15 instruction bytes, the first ones of the instruction
    VCPU 6                  # EXIT_SOURCE: what NEED_REGISTERS calls GENERAL
    SEGMENT 7

enum request_kind values
    SHUTDOWN 1
    RESET 2
    NMI 3
    EXIT 4

enum unclaimed_policy values
    ONES 1
    ZEROS 2
    IGNORE 3
    FORWARD 4

enum shared_state values    # the client writes FREE and READY, the daemon what answers READY
    FREE 0
    READY 1                 # an exit is there
    COMPLETE 2              # its completion is there
    BY_MESSAGE 3            # send the exit as a message: the completion does not fit, or the slots end

enum published_kind values
    DEVICE 0                # no register of the device is published while its policy is 0
    READ 1
    WRITE 2
    SPAN 3                  # nobody is at these addresses: they read as `value`; writes are lost
    WINDOW 4                # reads are those of space `rate`, from `value` on
    CONFIG_WINDOW 5         # reads are those of the PCI register that `value`, as at CF8h, selects

enum grant_kind values
    PAGE 0                  # reads of 4096 bytes of guest memory, which no exit need be made for
    DOORBELL 1              # a write of one value to one address, which no exit need be made for

enum published_policy       # what needs no message now
    READ 0
    COUNTER 1               # value + (guest time - since) * rate / 10^9, modulo 2^bits
    POST 2
    OPEN 3                  # of a DEVICE
    ECHO 4                  # a write of all of it that is on its way decides the bits `rate` of the value

enum error values           # fatal unless it says otherwise; error.fatal tells
    MALFORMED 1             # size, alignment, reserved or flag bits
    UNKNOWN_TYPE 2          # or a message that goes the other way
    VERSION 3               # no version in common
    CAPABILITY 4            # one that is not offered, or was not granted
    IDENTITY 5              # VM name or token
    BUSY 6                  # the VM has a client
    STATE 7                 # not now: before HELLO; not fatal: while paused
    RANGE 8                 # a value outside what the field allows
    DESCRIPTOR 9            # count or kind of descriptors, not sealed, too short
    SLOT 10                 # unknown slot, or overlapping one
    SEQUENCE 11             # a gap, an exit too many, another exit under the same number
    LIMIT 12                # more than WELCOME allows
    UNAVAILABLE 13          # not fatal in an open session: this daemon does not offer it
    MISMATCH 14             # not fatal: a saved state that does not fit
"""
