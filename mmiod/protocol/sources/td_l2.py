"""Intel TD partitioning: exits of an L2 guest, as the L1 paravisor gets them.

Body: the sixteen general registers that TDG.VP.ENTER returned to L1 (rax rcx rdx rbx rsp
rbp rsi rdi r8..r15), and L2_ENTER_GUEST_STATE, 256 bytes, with the guest's own.  Segments
and control registers are in the L2 VMCS: an instruction needs them as supplement VCPU.
The answer is the state page with registers, RFLAGS and RIP.

Specification: Intel 348551, TDX Module ABI, TDG.VP.ENTER (returned registers),
L2_ENTER_GUEST_STATE; SDM vol. 3, 28.2.1 (tables 28-5, I/O, and 28-7, EPT violations),
appendix C (exit reasons).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import (
    GPRS,
    apply,
    direction_of,
    fits,
    gprs,
    msr_access,
    port_access,
    put_result,
)
from mmiod.protocol.sources.source import Memory, Settle, instruction, supplied_state
from mmiod.values import Completion, DecodedExit, Direction, Done, Exit, Forward, Intent, Values

_GPR_TEXT: Final = "\n".join(f"{8 * number} u64 {name}" for number, name in enumerate(GPRS))
RETURNED: Final = layout("td_l2", _GPR_TEXT)
GUEST_STATE: Final = layout(
    "l2_enter_guest_state",
    _GPR_TEXT
    + """
    0x80 u64 rflags
    0x88 u64 rip
    """,
    length=0x100,
)

EXITED: Final = frozenset({0, 0x1102})
"""Status, RAX[63:32]: an exit of L2; the second one with an interrupt pending for L1."""
VALID: Final = 1 << 31
"""Of the IDT-vectoring information: the access came from delivering an event."""
IO_SIZES: Final = {0: 1, 1: 2, 3: 4}
IO_IN, IO_STRING = 1 << 3, 1 << 4
EPT_WRITE, EPT_FETCH, EPT_GLA, EPT_FINAL = 1 << 1, 1 << 2, 1 << 7, 1 << 8


@frozen
class Exited:
    """What TDG.VP.ENTER returned, taken apart, and the guest's state."""

    arrived: SourceExit
    reason: int
    qualification: int
    gla: int
    gpa: int
    vectoring: int
    length: int
    """Of the instruction; only some reasons have one."""
    cpl: int
    state: View


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access, or the instruction, of the exit."""
    exited = _exited(arrived)
    handler = _REASONS.get(exited.reason)
    if handler is None:
        raise Settle(Forward())
    return handler(exited)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The state page after the instruction; exceptions are injected by L1 through the VMCS."""
    exited = _exited(arrived)
    state = exited.state
    if isinstance(completion, Values) and isinstance(exit_, DecodedExit):
        put_result(state, exit_, completion.data)
        state["rip"] = state["rip"] + exited.length & (1 << 64) - 1
        return Reply(bytes(state.data))
    if isinstance(completion, Done) and fits(completion.delta):
        apply(state, completion.delta)
        return Reply(bytes(state.data), completion.delta.memory, completion.delta.vectors)
    return completion


def _exited(arrived: SourceExit) -> Exited:
    returned = RETURNED.view(arrived.body)
    status = returned["rax"] >> 32
    check(status in EXITED, "td_l2.rax", returned["rax"], "its upper half is 0, or 0x1102: an exit of L2")
    return Exited(
        arrived,
        reason=returned["rax"] & 0xFFFF,
        qualification=returned["rcx"],
        gla=returned["rdx"],
        gpa=returned["r8"],
        vectoring=returned["r10"],
        length=returned["r11"] >> 32,
        cpl=returned["r12"] & 3,
        state=GUEST_STATE.within(returned, RETURNED.length),
    )


# --- exit reasons --------------------------------------------------------------------


def _ept_violation(exited: Exited) -> Exit:
    bits = exited.qualification
    intent = Intent.WRITE if bits & EPT_WRITE else Intent.EXECUTE if bits & EPT_FETCH else Intent.READ
    # While walking the guest's tables the address is that of a table, not of the operand.
    if not bits & EPT_GLA or not bits & EPT_FINAL:
        return _instruction(exited)
    return _instruction(exited, exited.gpa, exited.gla, intent)


def _port(exited: Exited) -> Exit:
    bits = exited.qualification
    check(bits & 7 in IO_SIZES, "td_l2.rcx", bits, "bits 2:0 are 0, 1 or 3")
    if bits & IO_STRING:
        return _instruction(exited)
    port, size = bits >> 16 & 0xFFFF, IO_SIZES[bits & 7]
    return port_access(exited.arrived, exited.state, direction_of(not bits & IO_IN), port, size)


def _msr(direction: Direction) -> Callable[[Exited], Exit]:
    def read_msr(exited: Exited) -> Exit:
        return msr_access(exited.arrived, exited.state, direction, exited.state["rcx"] & 0xFFFF_FFFF)

    return read_msr


_REASONS: Final[dict[int, Callable[[Exited], Exit]]] = {
    30: _port,
    31: _msr(Direction.READ),
    32: _msr(Direction.WRITE),
    48: _ept_violation,
}


def _instruction(
    exited: Exited, gpa: int | None = None, gva: int | None = None, intent: Intent | None = None
) -> Exit:
    page = exited.state
    lacking = supplied_state(exited.arrived)
    state = evolve(lacking, gpr=gprs(page), rip=page["rip"], rflags=page["rflags"], cpl=exited.cpl)
    delivering = bool(exited.vectoring & VALID)
    return instruction(exited.arrived, state, gpa=gpa, gva=gva, intent=intent, event_delivery=delivering)
