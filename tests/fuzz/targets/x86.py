"""Any bytes in any state decode to a plan, need-more, a fault or unsupported, by the bytes they use alone.

A plan ends within its bound, whatever it is answered: in a delta that fits the registers, a fault
or a suspension.  It accesses what it has probed, probes all before its first effect (a string
instruction: in each iteration) or makes one access only, leaves the vCPU as it is, and its direct
form goes to the same place.
A page walk reads at most five entries and ends in an address, a page fault or a question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

from mmiod.errors import MmiodError
from mmiod.values import (
    CS,
    Delta,
    ExtendedState,
    Forward,
    Intent,
    NeedRegisters,
    NeedTranslation,
    RegisterSet,
    Retry,
    Segment,
    Unsupported,
    VcpuState,
    VectorDelta,
)
from mmiod.x86 import (
    SLOW,
    Cas,
    Enqueue,
    GuestFault,
    In,
    Linear,
    Mode,
    NeedMore,
    NotSupported,
    Out,
    Plan,
    Probe,
    ProbePort,
    ProbeSystem,
    Read,
    ReadMsr,
    ReadSystem,
    Step,
    Suspend,
    Transfer,
    Undefined,
    Write,
    WriteMsr,
    WriteSystem,
    decode,
    mode_of,
    walk,
)
from tests.fuzz.datagrams import exits
from tests.fuzz.reader import Reader, written

LONGEST: Final = 15
STEPS_PER_ITERATION: Final = 9
STEPS: Final = 256
"""Of an instruction that is no string; ENTER copies up to 31 frames."""
WIDEST: Final = 64
PAGE: Final = 4096
JUMPS: Final = frozenset({"jump", "call", "call_relative", "ret", "jump_far", "call_far"})
WALK_READS: Final = 5
CODE: Final = (0x009B, 0xC09B, 0xA09B)
VECTORS: Final = frozenset({0, 6, 7, 11, 12, 13, 14, 16, 17})
LIMIT: Final = 1 << 64
CR4: Final = 0x4_0600  # OSXSAVE, OSXMMEXCPT, OSFXSR
XCR0: Final = 0xE7
SETS: Final = 0x2F
"""The sets of registers that a plan may ask for."""
VECTORS_ON: Final = 1 | 32


class Broken(MmiodError):
    """Nothing that a plan may raise."""


MOVES: Final = """
0f1000 660f7f00 f30f6f00 0f6f00 0fe700 660f3a1400 c5fe6f00 c5f828c0 c4e2795800 c4e2792c00 c5f89000 c4e260f300
62f17c4810 62f1fe4a6f00 62f17dca6f4001 62f27d487c00 62f27d0a5840 62f57e081008 660f383100 f20f38f81e 0f38fc18
"""


def seeds() -> list[bytes]:
    """Instructions that access memory or ports, in each mode, with small registers."""
    codes = [exit_.code for exit_ in exits() if hasattr(exit_, "code")]
    prefixed = [prefix + code for prefix in (b"", b"\x66", b"\x67", b"\xf2") for code in codes]
    longer = [
        bytes.fromhex(text)
        for text in (
            "48a11122334455667788 c7042511223344556677 66f3a5 d7 f00fb108 480fc708 0fab08 f730 d310 0fad08 "
            "c5fe6f00 ff30 8f00 60 61 9d c8100003 c9 ff10 ff18 ff28 c3 8e18 1f 660f38f808 0f38fc08 0fae38 "
            "0f30"
        ).split()
    ]
    return [_seed(code, mode, 1) for code in [*prefixed, *longer] for mode in range(3)] + [
        _seed(bytes.fromhex(code), mode, VECTORS_ON) for code in MOVES.split() for mode in range(3)
    ]


def _seed(code: bytes, mode: int, wild: int) -> bytes:
    """Small registers, and where `wild` has vectors all sets of them."""
    vectors = written(SETS, bytes(range(64)), (0x5555, 8), bytes(160), (0, 4)) if wild & 32 else b""
    return written(len(code), code.ljust(LONGEST, b"\x90"), mode, wild, bytes([3] * 16), 1) + vectors


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
    state.cr4, state.xcr0 = CR4, XCR0
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
        state.xcr0 = reader.number(2)
    if wild & 32:
        state.extended = _vectors(reader)
    return state


def _vectors(reader: Reader) -> ExtendedState:
    """Sets of registers, of which each kind holds one number."""
    sets, zmm, k = RegisterSet(reader.number() & SETS), reader.number(64), reader.number(8)
    x87 = reader.take(160) if RegisterSet.X87 in sets else b""
    return ExtendedState(sets, [zmm] * 32, [k] * 8, x87, reader.number(4))


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
    wrap: int = LIMIT
    """Where linear addresses begin anew."""
    fresh: bool = True
    """No effect since the last probes of this instruction, or of this iteration."""
    alone: bool = False
    """There was an access that was not probed."""

    def answer(self, step: Step) -> int:
        """Check a step; its answer, or the exception that the driver of a plan may throw."""
        self._check(step)
        if isinstance(step, Probe | ProbePort | ProbeSystem) or self.alone:
            self._throw()
        if isinstance(step, Probe | ProbePort | ProbeSystem):
            return 0
        if isinstance(step, Cas):
            return step.old if self.reader.number() % 4 else step.old ^ 1
        if isinstance(step, Write | WriteSystem | WriteMsr | Out):
            return 0
        if isinstance(step, Transfer):
            return self.reader.number() % (step.count + 1)
        if isinstance(step, Enqueue):
            return self.reader.number() & 1
        return self.reader.number(8 if isinstance(step, ReadMsr) else step.size)

    def _throw(self) -> None:
        chance = self.reader.number()
        if chance == 0xFF:
            raise GuestFault(14, 2, 0x1000)
        if chance == 0xFE:
            raise Suspend(Forward())

    def _check(self, step: Step) -> None:
        assert not self.alone, "a step behind an access that was not probed"
        if isinstance(step, In | Out | ProbePort):
            assert step.size in {1, 2, 4}
            assert 0 <= step.port <= 0xFFFF
        elif isinstance(step, ReadMsr | WriteMsr):
            assert 0 <= step.number < 1 << 32
        elif isinstance(step, Transfer):
            self._check_transfer(step)
        else:
            assert 1 <= _size(step) <= (PAGE if isinstance(step, ProbeSystem | ReadSystem) else WIDEST)
            assert 0 <= step.address < LIMIT
        for value in (getattr(step, name) for name in ("value", "old", "new") if hasattr(step, name)):
            assert 0 <= value < 1 << 8 * _size(step)
        if isinstance(step, Probe):
            self._probe(step)
        elif not isinstance(step, ProbePort | ProbeSystem | ReadSystem | WriteSystem):
            self._effect(step)

    def _check_transfer(self, step: Transfer) -> None:
        assert self.string
        assert step.size in {1, 2, 4, 8}
        assert step.count > 1
        for end in (step.source, step.target):
            if isinstance(end, Linear):
                last = end.address + (-1 if step.down else 1) * (step.count - 1) * step.size
                assert end.address // PAGE == last // PAGE

    def _probe(self, step: Probe) -> None:
        assert self.fresh or self.string, "a probe behind an effect"
        if not self.fresh:
            self.probed.clear()
        self.fresh = True
        self.probed.append((step.address, step.size, step.intent))

    def _effect(self, step: Step) -> None:
        first, self.fresh = self.fresh, False
        self.effects += not isinstance(step, Read | Transfer)
        if isinstance(step, In | Out | ReadMsr | WriteMsr | Transfer):
            return
        if isinstance(step, Read | Write) and first and not self.probed:
            self.alone = True
            return
        assert isinstance(step, Read | Write | Cas | Enqueue)
        intents = [
            intent
            for address, size, intent in self.probed
            if (step.address - address) % self.wrap + _size(step) <= size
        ]
        assert intents, "an access that was not probed"
        assert isinstance(step, Read) or Intent.WRITE in intents, "a write that was probed for reading"


def _size(step: Step) -> int:
    return getattr(step, "size", 8 if isinstance(step, WriteMsr) else WIDEST)


def _drive(plan: Plan, vcpu: VcpuState, reader: Reader) -> None:
    bound = 1 + reader.number() % 16
    driver = Driver(reader, plan.shape is None, wrap=LIMIT if mode_of(vcpu) is Mode.CODE64 else 1 << 32)
    steps = plan.run(vcpu, bound)
    action: Callable[[], Step] = lambda: next(steps)  # noqa: E731
    first: Probe | Read | Write | None = None
    try:
        for _ in range(STEPS_PER_ITERATION * (bound + 1) if driver.string else STEPS):
            step = action()
            if first is None and isinstance(step, Probe | Read | Write):
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
        assert isinstance(stop.completion, Forward | Retry | Unsupported | NeedRegisters)
        assert not driver.effects or isinstance(stop.completion, Retry)
    _check_direct(plan, vcpu, first)


def _check_direct(plan: Plan, vcpu: VcpuState, first: Probe | Read | Write | None) -> None:
    if plan.direct is None or (linear := plan.direct.linear(vcpu)) == SLOW:
        return
    assert first is not None
    assert (linear, plan.direct.size) == (first.address, first.size)
    _check_delta(plan.direct.delta(vcpu, (1 << 8 * plan.direct.size) - 1), plan, vcpu)


def _check_delta(delta: Delta, plan: Plan, vcpu: VcpuState) -> None:
    mask = (1 << mode_of(vcpu)) - 1
    if plan.instruction.opcode.shape in JUMPS:
        assert 0 <= delta.rip < LIMIT
    else:
        assert delta.rip in {vcpu.rip, vcpu.rip + plan.length & mask}
    assert 0 <= delta.rflags < LIMIT
    assert set(delta.registers) <= set(range(16))
    assert all(0 <= value < LIMIT for value in delta.registers.values())
    assert not delta.memory
    assert set(delta.segments) <= set(range(6))
    if delta.vectors is not None:
        _check_vectors(delta.vectors)


def _check_vectors(changes: VectorDelta) -> None:
    widths = ((changes.xmm, 32, 128), (changes.zmm, 32, 512), (changes.k, 8, 64))
    for registers, count, bits in widths:
        assert set(registers) <= set(range(count))
        assert all(0 <= value < 1 << bits for value in registers.values())
    assert len(changes.x87) in {0, 160}


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
