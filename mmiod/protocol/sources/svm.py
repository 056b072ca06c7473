"""AMD SVM: the intercepts of a guest without enlightenment, with its VMSA.

Body: the VMSA page, and perhaps the 16 bytes of the VMCB at 0x0d0: how many instruction
bytes the CPU fetched, and the 15 (decode assists).  A hypervisor without encryption
lays its save area, its registers and its exit information out in the same way.  The
answer is the page with registers, RIP and an exception to inject.

Specification: AMD64 APM vol. 2, appendix B (layout), 15.8 (decode assists), 15.10.2
(IOIO), 15.11 (MSR), 15.25.6 (nested page faults), 15.20 (event injection).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import (
    SEGMENTS,
    apply,
    direction_of,
    event,
    fits,
    gprs,
    msr_access,
    port_access,
    put_result,
    segment_of,
)
from mmiod.protocol.sources.source import Memory, Settle, instruction
from mmiod.values import (
    Completion,
    DecodedExit,
    Delta,
    Done,
    Exit,
    Fault,
    Forward,
    Intent,
    Values,
    VcpuState,
)

VMSA: Final = layout(
    "vmsa",
    """
    0x000 u8[16] es
    0x010 u8[16] cs
    0x020 u8[16] ss
    0x030 u8[16] ds
    0x040 u8[16] fs
    0x050 u8[16] gs
    0x060 u8[16] gdt
    0x070 u8[16] ldt
    0x080 u8[16] idt
    0x090 u8[16] tr
    0x0cb u8  cpl
    0x0d0 u64 efer
    0x148 u64 cr4
    0x150 u64 cr3
    0x158 u64 cr0
    0x160 u64 dr7
    0x168 u64 dr6
    0x170 u64 rflags
    0x178 u64 rip
    0x1d8 u64 rsp
    0x1f8 u64 rax
    0x240 u64 cr2
    0x308 u64 rcx
    0x310 u64 rdx
    0x318 u64 rbx
    0x328 u64 rbp
    0x330 u64 rsi
    0x338 u64 rdi
    0x340 u64 r8
    0x348 u64 r9
    0x350 u64 r10
    0x358 u64 r11
    0x360 u64 r12
    0x368 u64 r13
    0x370 u64 r14
    0x378 u64 r15
    0x390 u64 exitinfo1
    0x398 u64 exitinfo2
    0x3a0 u64 exitintinfo
    0x3a8 u64 nrip
    0x3c0 u64 exit_code
    0x3e0 u64 event_inj
    0x3e8 u64 xcr0
    """,
    length=0x1000,
)
ASSISTS: Final = layout("vmcb_code", "0x1000 u8 count\n0x1001 u8[15] bytes")

VALID: Final = 1 << 31
"""Of EXITINTINFO: the access came from delivering an event."""
STRING: Final = 1 << 2
IO_SIZES: Final = {0x10: 1, 0x20: 2, 0x40: 4}
NPF_WRITE, NPF_FETCH, NPF_FINAL = 1 << 1, 1 << 4, 1 << 32


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access, or the instruction, of the intercept."""
    page = VMSA.view(arrived.body)
    handler = _INTERCEPTS.get(page["exit_code"])
    if handler is None:
        raise Settle(Forward())
    return handler(arrived, page)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The page after the instruction."""
    page = VMSA.view(arrived.body)
    if isinstance(completion, Values) and isinstance(exit_, DecodedExit):
        put_result(page, exit_, completion.data)
        page["rip"] = page[_NEXT[page["exit_code"]]]
        return Reply(bytes(page.data))
    if not isinstance(completion, Done | Fault) or not fits(completion.delta):
        return completion
    if isinstance(completion, Fault):
        return _faulted(page, completion)
    return _executed(page, completion.delta)


def _executed(page: View, delta: Delta) -> Reply:
    apply(page, delta)
    return Reply(bytes(page.data), delta.memory, delta.vectors)


def _faulted(page: View, fault: Fault) -> Reply:
    page["event_inj"] = event(fault.vector, fault.error_code)
    if fault.cr2 is not None:
        page["cr2"] = fault.cr2
    return Reply(bytes(page.data)) if fault.delta is None else _executed(page, fault.delta)


# --- intercepts ----------------------------------------------------------------------


def _nested_page_fault(arrived: SourceExit, page: View) -> Exit:
    info = page["exitinfo1"]
    intent = Intent.WRITE if info & NPF_WRITE else Intent.EXECUTE if info & NPF_FETCH else Intent.READ
    # While walking the guest's tables the address is that of a table, not of the operand.
    gpa = page["exitinfo2"] if info & NPF_FINAL else None
    return _instruction(arrived, page, gpa=gpa, intent=None if gpa is None else intent)


def _port(arrived: SourceExit, page: View) -> Exit:
    info = page["exitinfo1"]
    check(info & 0x70 in IO_SIZES, "vmsa.exitinfo1", info, "bits 6:4 tell one size")
    if info & STRING:
        return _instruction(arrived, page)
    return port_access(arrived, page, direction_of(not info & 1), info >> 16 & 0xFFFF, IO_SIZES[info & 0x70])


def _msr(arrived: SourceExit, page: View) -> Exit:
    info = page["exitinfo1"]
    check(info <= 1, "vmsa.exitinfo1", info, "0 reads, 1 writes")
    return msr_access(arrived, page, direction_of(info), page["rcx"] & 0xFFFF_FFFF)


_INTERCEPTS: Final[dict[int, Callable[[SourceExit, View], Exit]]] = {
    0x7B: _port,
    0x7C: _msr,
    0x400: _nested_page_fault,
}
_NEXT: Final = {0x7B: "exitinfo2", 0x7C: "nrip"}
"""Where the address of the next instruction is."""


def _instruction(
    arrived: SourceExit, page: View, gpa: int | None = None, intent: Intent | None = None
) -> Exit:
    delivering = bool(page["exitintinfo"] & VALID)
    return instruction(arrived, _state(page), _code(page), gpa=gpa, intent=intent, event_delivery=delivering)


def _code(page: View) -> bytes:
    if len(page.data) < ASSISTS.length:
        return b""
    assists = ASSISTS.within(page, 0)
    check(assists["count"] <= 15, "vmcb_code.count", assists["count"], "at most 15")
    return assists.octets("bytes")[: assists["count"]]


def _state(page: View) -> VcpuState:
    check(page["cpl"] <= 3, "vmsa.cpl", page["cpl"], "0..3")
    state = VcpuState(
        gpr=gprs(page),
        segments=[segment_of(page, name) for name in SEGMENTS],
        tr=segment_of(page, "tr"),
        ldtr=segment_of(page, "ldt"),
        gdtr=segment_of(page, "gdt"),
        idtr=segment_of(page, "idt"),
        cpl=page["cpl"],
    )
    for name in ("rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer", "xcr0", "dr6", "dr7"):
        setattr(state, name, page[name])
    return state
