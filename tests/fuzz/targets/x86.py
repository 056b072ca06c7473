"""Any bytes in any state decode to a plan, need-more, a fault or unsupported, by the bytes they use alone.

A plan ends within its bound, whatever it is answered: in a delta that fits the registers, a fault
or a suspension.  It accesses what it has probed, probes all before its first effect (a string
instruction: in each iteration), leaves the vCPU as it is, and its direct form goes to the same place.
A page walk reads at most five entries and ends in an address, a page fault or a question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

from mmiod.errors import MmiodError
from mmiod.values import CS, Delta, Forward, Intent, NeedTranslation, Retry, Segment, VcpuState
from mmiod.x86 import (
    SLOW,
    Cas,
    GuestFault,
    In,
    Mode,
    NeedMore,
    NotSupported,
    Out,
    Plan,
    Probe,
    Read,
    ReadSystem,
    Step,
    Suspend,
    Undefined,
    Write,
    decode,
    mode_of,
    walk,
)
from tests.fuzz.datagrams import exits
from tests.fuzz.reader import Reader, written

LONGEST: Final = 15
STEPS_PER_ITERATION: Final = 8
WALK_READS: Final = 5
CODE: Final = (0x009B, 0xC09B, 0xA09B)
VECTORS: Final = frozenset({6, 12, 13, 14, 17})
LIMIT: Final = 1 << 64


class Broken(MmiodError):
    """Nothing that a plan may raise."""


def seeds() -> list[bytes]:
    """Instructions that access memory or ports, in each mode, with small registers."""
    codes = [exit_.code for exit_ in exits() if hasattr(exit_, "code")]
    prefixed = [prefix + code for prefix in (b"", b"\x66", b"\x67", b"\xf2") for code in codes]
    longer = [
        bytes.fromhex(text) for text in ("48a11122334455667788", "c7042511223344556677", "66f3a5", "d7")
    ]
    return [
        written(len(code), code.ljust(LONGEST, b"\x90"), mode, 1, bytes([3] * 16), 1)
        for code in [*prefixed, *longer]
        for mode in range(3)
    ]


def run(data: bytes) -> None:
    """Code, state, then answers."""
    reader = Reader(data)
    length = reader.number() % (LONGEST + 1)
    code = reader.take(LONGEST)[:length]
    at = reader.at
    vcpu = _state(reader)
    outcome = _decoded(code, mode_of(vcpu))
    if isinstance(outcome, Plan):
        _drive(outcome, vcpu, reader)
    _walk(vcpu, reader)
    assert vcpu == _state(Reader(data, at)), "the vCPU was changed"


# --- states ----------------------------------------------------------------------------------


def _state(reader: Reader) -> VcpuState:
    """Flat segments and small registers, or with a bit of the second byte anything at all."""
    mode, wild = reader.number() % 3, reader.number()
    state = VcpuState(segments=[Segment(0, 0xFFFF_FFFF, 8, 0xC093) for _ in range(6)], cr0=1)
    state.segments[CS].attributes = CODE[mode]
    state.efer = 0x500 if mode == 2 else 0
    state.gpr = [reader.number() for _ in range(16)]
    state.rflags = 2 | reader.number(3 if wild & 2 else 1)
    if wild & 4:
        state.gpr = [reader.number(8) for _ in range(16)]
        state.rip = reader.number(8)
    if wild & 8:
        state.segments = [Segment(*(reader.number(size) for size in (8, 4, 2, 2))) for _ in range(6)]
        state.tr = Segment(*(reader.number(size) for size in (8, 4, 2, 2)))
    if wild & 16:
        state.cpl = reader.number() & 3
        state.cr0, state.cr3, state.cr4, state.efer = (reader.number(size) for size in (8, 8, 8, 2))
    return state


# --- decoding --------------------------------------------------------------------------------


def _decoded(code: bytes, mode: Mode) -> Plan | NeedMore | Undefined | NotSupported:
    outcome = decode(code, mode)
    if isinstance(outcome, NeedMore):
        assert 1 <= outcome.count
        assert len(code) + outcome.count <= LONGEST
    elif isinstance(outcome, Plan):
        assert 1 <= outcome.length <= len(code)
        assert isinstance(decode(code[: outcome.length - 1], mode), NeedMore)
        exact = decode(code[: outcome.length], mode)
        assert isinstance(exact, Plan)
        assert exact.instruction == outcome.instruction
    elif isinstance(outcome, Undefined):
        assert outcome.vector in VECTORS
    else:
        assert isinstance(outcome, NotSupported)
    return outcome


# --- running ---------------------------------------------------------------------------------


@define
class Driver:
    """Answers steps out of the input, and watches their order."""

    reader: Reader
    string: bool
    probed: list[tuple[int, int, Intent]] = field(factory=list)
    effects: int = 0
    fresh: bool = True
    """No effect since the last probes of this instruction, or of this iteration."""

    def answer(self, step: Step) -> int:
        """Check a step; its answer, or the exception that the driver of a plan may throw."""
        self._check(step)
        if isinstance(step, Probe):
            self._throw()
            return 0
        if isinstance(step, Cas):
            return step.old if self.reader.number() % 4 else step.old ^ 1
        if isinstance(step, Write | Out):
            return 0
        return self.reader.number(step.size)

    def _throw(self) -> None:
        chance = self.reader.number()
        if chance == 0xFF:
            raise GuestFault(14, 2, 0x1000)
        if chance == 0xFE:
            raise Suspend(Forward())

    def _check(self, step: Step) -> None:
        if isinstance(step, In | Out):
            assert step.size in {1, 2, 4}
            assert 0 <= step.port <= 0xFFFF
        else:
            assert step.size in {1, 2, 4, 8}
            assert 0 <= step.address < LIMIT
        for value in (getattr(step, name) for name in ("value", "old", "new") if hasattr(step, name)):
            assert 0 <= value < 1 << 8 * step.size
        if isinstance(step, Probe):
            self._probe(step)
        elif not isinstance(step, ReadSystem):
            self._effect(step)

    def _probe(self, step: Probe) -> None:
        assert self.fresh or self.string, "a probe behind an effect"
        if not self.fresh:
            self.probed.clear()
        self.fresh = True
        self.probed.append((step.address, step.size, step.intent))

    def _effect(self, step: Step) -> None:
        self.fresh = False
        self.effects += isinstance(step, Write | Out | Cas | In)
        if isinstance(step, In | Out):
            return
        assert isinstance(step, Read | Write | Cas)
        intents = [
            intent for address, size, intent in self.probed if (address, size) == (step.address, step.size)
        ]
        assert intents, "an access that was not probed"
        assert isinstance(step, Read) or Intent.WRITE in intents, "a write that was probed for reading"


def _drive(plan: Plan, vcpu: VcpuState, reader: Reader) -> None:
    bound = 1 + reader.number() % 16
    driver = Driver(reader, string=plan.shape is None)
    steps = plan.run(vcpu, bound)
    action: Callable[[], Step] = lambda: next(steps)  # noqa: E731
    first: Probe | None = None
    try:
        for _ in range(STEPS_PER_ITERATION * bound + STEPS_PER_ITERATION):
            step = action()
            if first is None and isinstance(step, Probe):
                first = step
            try:
                answer = driver.answer(step)
            except (GuestFault, Suspend) as stop:
                action = lambda stop=stop: steps.throw(stop)  # type: ignore[misc]  # noqa: E731
            else:
                action = lambda answer=answer: steps.send(answer)  # type: ignore[misc]  # noqa: E731
        raise Broken("the plan does not end")
    except StopIteration as finished:
        _check_delta(finished.value, plan, vcpu)
    except GuestFault as fault:
        assert fault.vector in VECTORS
        if fault.delta is not None:
            _check_delta(fault.delta, plan, vcpu)
            assert fault.delta.rip == vcpu.rip
    except Suspend as stop:
        assert isinstance(stop.completion, Forward | Retry)
        assert not driver.effects or isinstance(stop.completion, Retry)
    _check_direct(plan, vcpu, first)


def _check_direct(plan: Plan, vcpu: VcpuState, first: Probe | None) -> None:
    if plan.direct is None or (linear := plan.direct.linear(vcpu)) == SLOW:
        return
    assert first is not None
    assert (linear, plan.direct.size) == (first.address, first.size)
    _check_delta(plan.direct.delta(vcpu, (1 << 8 * plan.direct.size) - 1), plan, vcpu)


def _check_delta(delta: Delta, plan: Plan, vcpu: VcpuState) -> None:
    mask = (1 << mode_of(vcpu)) - 1
    assert delta.rip in {vcpu.rip, vcpu.rip + plan.length & mask}
    assert 0 <= delta.rflags < LIMIT
    assert set(delta.registers) <= set(range(16))
    assert all(0 <= value < LIMIT for value in delta.registers.values())
    assert not delta.memory


# --- paging ----------------------------------------------------------------------------------


def _walk(vcpu: VcpuState, reader: Reader) -> None:
    reads: list[int] = []

    def read(gpa: int, size: int) -> int | None:
        assert size in {4, 8}
        assert 0 <= gpa < LIMIT
        reads.append(gpa)
        control = reader.number()
        return None if control == 0 else reader.number(size) & ~0xFFF | control

    address, intent = reader.number(8), reader.pick(tuple(Intent))
    system = bool(reader.number() & 1)
    found = walk(vcpu, address, intent, read, system=system)
    assert len(reads) <= WALK_READS
    if isinstance(found, GuestFault):
        assert (found.vector, found.cr2) == (14, address)
    elif not isinstance(found, NeedTranslation):
        assert 0 <= found < LIMIT
