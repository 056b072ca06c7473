"""Structures that others consist of."""

from __future__ import annotations

from typing import Final

TEXT: Final = """
struct header               # begins every message
    u32 size                # bytes, header and tail included
    u16 type
    u16 flags               # unknown flags are refused

struct segment
    u64 base
    u32 limit
    u16 selector
    u16 attributes          # low 16 bits of the VMX access-rights word

struct vcpu                 # what EXIT_RAW tells of the vCPU
    u64 gpr[16]             # rax rcx rdx rbx rsp rbp rsi rdi r8..r15
    u64 rip
    u64 rflags
    u64 cr0
    u64 cr2
    u64 cr3
    u64 cr4
    u64 efer
    u64 xcr0
    u64 dr6
    u64 dr7
    segment segments[6]     # es cs ss ds fs gs
    segment tr
    segment ldtr
    segment gdtr
    segment idtr

struct exit                 # begins the body of every exit
    u32 vcpu
    u32 reserved
    u64 sequence            # per vCPU; the last one plus 1, or the last one again (a resend)
    u64 guest_ns            # guest time, with capability GUEST_TIME; else 0

struct completion           # begins the body of every completion
    u32 vcpu
    u32 interrupt           # 1: an interrupt is pending for this vCPU (capability INTR)
    u64 sequence
    u64 posted              # highest posted write of this vCPU that was applied
    u64 guest_ns            # guest time after the exit; a halt may have moved it on
    u64 deadline_ns         # guest time of the next timer, all ones if none is armed

struct supplement           # an item in the tail of exits and completions, 8-byte aligned
    u16 kind
    u16 reserved
    u32 length              # bytes, this head included, the padding to 8 not

struct supplement_translation
    u64 gva
    u64 gpa
    u32 intent
    u32 reserved

struct supplement_memory    # the bytes follow
    u64 gpa

struct supplement_vcpu      # the registers that a source's structure lacks
    u32 cpl
    u32 reserved
    vcpu vcpu

struct supplement_registers # to the daemon; register_set tells the bytes of each set, which follow in order
    u32 registers           # bits of register_set
    u32 reserved

struct supplement_vector    # to the client: a register that changed, in a DONE; its bytes follow
    u16 file                # a register_file
    u16 number
    u32 reserved

struct supplement_segment   # to the client: a segment register that was loaded, in a DONE
    u32 number              # es 0, cs 1, ss 2, ds 3, fs 4, gs 5
    u32 reserved
    segment segment

struct claim
    u64 base
    u64 length              # 0 stands for 2^64
    u8 space
    u8 policy               # 0: a device claims it; else an unclaimed_policy
    u16 reserved
    u32 reserved2
    char owner[40]          # device name, NUL-padded
"""
