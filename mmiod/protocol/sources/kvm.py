"""Linux KVM: struct kvm_run, as far as it is mapped.

Body: the mapping from its beginning, through the data of an I/O exit (4096 bytes in).  An
emulation failure needs the registers: KVM_CAP_SYNC_REGS lays them into the mapping (set
kvm_valid_regs to REGS and SREGS, and to EVENTS if KVM shall inject exceptions), or they
come as supplement VCPU, and then the answer is DONE.  The answer is the mapping for the
next KVM_RUN; whatever KVM decoded, KVM completes.

Specification: Linux, Documentation/virt/kvm/api.rst, 5 (kvm_run) and 7.18; layouts:
include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.exit.exits import MAX_ELEMENTS, MSR_SIZE
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import GPRS, SEGMENTS, apply, direction_of, fits, gprs
from mmiod.protocol.sources.source import Memory, Settle, access, instruction, supplied_state
from mmiod.values import (
    READ,
    SS,
    Completion,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Exit,
    Fault,
    Forward,
    Segment,
    Space,
    Values,
    VcpuState,
)

RUN: Final = layout(
    "kvm_run",
    """
    8   u32 exit_reason
    288 u64 kvm_valid_regs
    296 u64 kvm_dirty_regs
    """,
)
IO: Final = layout("kvm_run.io", "32 u8 direction\n33 u8 size\n34 u16 port\n36 u32 count\n40 u64 data_offset")
MMIO: Final = layout("kvm_run.mmio", "32 u64 phys_addr\n40 u8[8] data\n48 u32 len\n52 u8 is_write")
MSR: Final = layout("kvm_run.msr", "32 u8 error\n44 u32 index\n48 u64 data")
FAILURE: Final = layout(
    "kvm_run.emulation_failure",
    "32 u32 suberror\n40 u64 flags\n48 u8 insn_size\n49 u8[15] insn_bytes",
)
_GPR_ORDER: Final = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *GPRS[8:], "rip", "rflags")
REGS: Final = layout("kvm_regs", "\n".join(f"{8 * at} u64 {name}" for at, name in enumerate(_GPR_ORDER)))
SREGS: Final = layout(
    "kvm_sregs",
    """
    0   u8[24] cs
    24  u8[24] ds
    48  u8[24] es
    72  u8[24] fs
    96  u8[24] gs
    120 u8[24] ss
    144 u8[24] tr
    168 u8[24] ldt
    192 u64    gdt_base
    200 u16    gdt_limit
    208 u64    idt_base
    216 u16    idt_limit
    224 u64    cr0
    232 u64    cr2
    240 u64    cr3
    248 u64    cr4
    264 u64    efer
    """,
    length=312,
)
SEGMENT: Final = layout(
    "kvm_segment",
    """
    0  u64 base
    8  u32 limit
    12 u16 selector
    14 u8  type
    15 u8  present
    16 u8  dpl
    17 u8  db
    18 u8  s
    19 u8  l
    20 u8  g
    21 u8  avl
    """,
    length=24,
)
ATTRIBUTES: Final = {"type": 0, "s": 4, "dpl": 5, "present": 7, "avl": 12, "l": 13, "db": 14, "g": 15}
"""Where the parts of a segment are in the access-rights word."""
EVENTS: Final = layout(
    "kvm_vcpu_events",
    """
    0  u8  injected
    1  u8  nr
    2  u8  has_error_code
    4  u32 error_code
    11 u8  shadow
    20 u32 flags
    """,
    length=64,
)
VALID_SHADOW: Final = 4
"""KVM_VCPUEVENT_VALID_SHADOW, of `flags`."""

REGS_AT, SREGS_AT, EVENTS_AT = 304, 304 + 144, 304 + 144 + 312
"""struct kvm_sync_regs, at the end of kvm_run."""
SYNC_REGS, SYNC_SREGS, SYNC_EVENTS = 1, 2, 4
EMULATION: Final = 1
"""Suberror of KVM_EXIT_INTERNAL_ERROR."""
PASSED: Final = 0xE7
"""XCR0, which is not in the mapping: the CPU has checked it before it exited."""
INSTRUCTION_BYTES: Final = 1
"""Flag of an emulation failure; without it ndata is 6 and there are none."""


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access, or the instruction that KVM could not emulate."""
    run = RUN.view(arrived.body)
    handler = _REASONS.get(run["exit_reason"])
    if handler is None:
        raise Settle(Forward())
    return handler(arrived, run)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The mapping as KVM_RUN is to find it."""
    run = RUN.view(arrived.body)
    if isinstance(exit_, DecodedExit):
        return _accessed(run, exit_, completion)
    if not _synced(run) or not isinstance(completion, Done | Fault) or not fits(completion.delta):
        return completion
    if isinstance(completion, Done):
        return _executed(run, completion.delta)
    if run["kvm_valid_regs"] & SYNC_EVENTS:
        return _faulted(run, completion)
    return completion


# --- what KVM has decoded ------------------------------------------------------------


def _port(arrived: SourceExit, run: View) -> Exit:
    io = IO.within(run, 0)
    size, count, at = io["size"], io["count"], io["data_offset"]
    check(io["direction"] <= 1, "kvm_run.io.direction", io["direction"], "0 in, 1 out")
    check(size in {1, 2, 4}, "kvm_run.io.size", size, "1, 2 or 4")
    check(1 <= count <= MAX_ELEMENTS // size, "kvm_run.io.count", count, f"1..{MAX_ELEMENTS // size}")
    end = at + size * count
    check(end <= len(run.data), "kvm_run.io.data_offset", at, f"the data end at {end}, the body before that")
    direction = direction_of(io["direction"])
    return access(arrived, Space.PIO, direction, io["port"], size, bytes(run.data[at:end]), count=count)


def _mmio(arrived: SourceExit, run: View) -> Exit:
    mmio = MMIO.within(run, 0)
    size = mmio["len"]
    check(1 <= size <= 8, "kvm_run.mmio.len", size, "1..8")
    check(mmio["is_write"] <= 1, "kvm_run.mmio.is_write", mmio["is_write"], "0 or 1")
    direction, address = direction_of(mmio["is_write"]), mmio["phys_addr"]
    return access(arrived, Space.MMIO, direction, address, size, mmio.octets("data")[:size])


def _msr(direction: Direction) -> Callable[[SourceExit, View], Exit]:
    def read_msr(arrived: SourceExit, run: View) -> Exit:
        msr = MSR.within(run, 0)
        return access(arrived, Space.MSR, direction, msr["index"], MSR_SIZE, msr.octets("data"))

    return read_msr


def _accessed(run: View, exit_: DecodedExit, completion: Completion) -> Answer:
    """The data, or for an MSR the error that makes KVM inject #GP."""
    if isinstance(completion, Fault) and exit_.space == Space.MSR:
        MSR.within(run, 0)["error"] = 1
        return Reply(bytes(run.data))
    if not isinstance(completion, Values):
        return completion
    if exit_.space == Space.MSR:
        MSR.within(run, 0)["error"] = 0
    if exit_.direction == READ:
        at = IO.within(run, 0)["data_offset"] if exit_.space == Space.PIO else _DATA[exit_.space]
        run.data[at : at + len(completion.data)] = completion.data
    return Reply(bytes(run.data))


_DATA: Final = {Space.MMIO: MMIO.fields["data"][0], Space.MSR: MSR.fields["data"][0]}


# --- what KVM could not emulate ------------------------------------------------------


def _emulation_failure(arrived: SourceExit, run: View) -> Exit:
    failure = FAILURE.within(run, 0)
    if failure["suberror"] != EMULATION:
        raise Settle(Forward())
    size = failure["insn_size"] if failure["flags"] & INSTRUCTION_BYTES else 0
    check(size <= 15, "kvm_run.emulation_failure.insn_size", size, "at most 15")
    state = _state(run) if _synced(run) else supplied_state(arrived)
    return instruction(arrived, state, failure.octets("insn_bytes")[:size])


_REASONS: Final[dict[int, Callable[[SourceExit, View], Exit]]] = {
    2: _port,
    6: _mmio,
    17: _emulation_failure,
    29: _msr(Direction.READ),
    30: _msr(Direction.WRITE),
}
"""KVM_EXIT_IO, _MMIO, _INTERNAL_ERROR, _X86_RDMSR, _X86_WRMSR."""


def _synced(run: View) -> bool:
    """Whether the registers are in the mapping."""
    both = SYNC_REGS | SYNC_SREGS
    return run["kvm_valid_regs"] & both == both


def _state(run: View) -> VcpuState:
    EVENTS.within(run, EVENTS_AT)  # an answer may need them
    regs, sregs = REGS.within(run, REGS_AT), SREGS.within(run, SREGS_AT)
    segments = [_segment(sregs, name) for name in SEGMENTS]
    state = VcpuState(
        gpr=gprs(regs),
        rip=regs["rip"],
        rflags=regs["rflags"],
        segments=segments,
        tr=_segment(sregs, "tr"),
        ldtr=_segment(sregs, "ldt"),
        gdtr=Segment(sregs["gdt_base"], sregs["gdt_limit"]),
        idtr=Segment(sregs["idt_base"], sregs["idt_limit"]),
        cpl=segments[SS].attributes >> 5 & 3,  # DPL of SS (SDM vol. 3, 25.4.1)
        xcr0=PASSED,
    )
    for name in ("cr0", "cr2", "cr3", "cr4", "efer"):
        setattr(state, name, sregs[name])
    return state


def _segment(sregs: View, name: str) -> Segment:
    part = SEGMENT.view(sregs.octets(name))
    attributes = sum(part[field] << bit for field, bit in ATTRIBUTES.items()) & 0xFFFF
    return Segment(part["base"], part["limit"], part["selector"], attributes)


def _executed(run: View, delta: Delta) -> Reply:
    apply(REGS.within(run, REGS_AT), delta)
    run["kvm_dirty_regs"] |= SYNC_REGS
    events = EVENTS.within(run, EVENTS_AT)
    if run["kvm_valid_regs"] & SYNC_EVENTS and events["shadow"]:  # it ends with its instruction
        events["shadow"], events["flags"] = 0, events["flags"] | VALID_SHADOW
        run["kvm_dirty_regs"] |= SYNC_EVENTS
    return Reply(bytes(run.data), delta.memory, delta.vectors)


def _faulted(run: View, fault: Fault) -> Reply:
    """Registers, CR2 and the exception that KVM is to inject."""
    events = EVENTS.within(run, EVENTS_AT)
    events["injected"], events["nr"] = 1, fault.vector
    events["has_error_code"] = int(fault.error_code is not None)
    events["error_code"] = fault.error_code or 0
    run["kvm_dirty_regs"] |= SYNC_EVENTS
    if fault.cr2 is not None:
        SREGS.within(run, SREGS_AT)["cr2"] = fault.cr2
        run["kvm_dirty_regs"] |= SYNC_SREGS
    return Reply(bytes(run.data)) if fault.delta is None else _executed(run, fault.delta)
