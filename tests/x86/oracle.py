"""mmiod driven on memory and ports that a test can see, and what it is compared in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Final, TypeGuard

from attrs import define, evolve, field, frozen

from mmiod.values import Delta, ExtendedState, RegisterSet, VcpuState
from mmiod.x86 import (
    Cas,
    Enqueue,
    GuestFault,
    In,
    Mode,
    Out,
    Plan,
    Probe,
    ProbePort,
    ProbeSystem,
    Read,
    ReadMsr,
    ReadSystem,
    Run,
    Transfer,
    Write,
    WriteMsr,
    WriteSystem,
    decode,
)
from tests.x86.forms import BY_NAME, Judge, judge
from tests.x86.layout import CONTENT, ENTRY, GDT, descriptors, segments
from tests.x86.situations import Case

FLAGS: Final = 0xFFF
_CR4: Final = 0x4_0600  # OSXSAVE, OSXMMEXCPT, OSFXSR
_XCR0: Final = 0xE7
_PASID: Final = 1 << 31 | 0x1234
_X87_REGISTERS: Final = 32
"""Offset of ST0 in what FXSAVE stores; they are 16 bytes apart."""
_VALID: Final = b"\x7f\x03\x00\x00\xff".ljust(_X87_REGISTERS, b"\0")
"""The environment behind an MMX instruction: TOP 0, all tags valid."""


@frozen
class Effect:
    """One access: "read", "write", "in", "out", "rdmsr", "wrmsr" or "enqueue"."""

    kind: str
    address: int
    size: int
    value: int


@define
class Outcome:
    """All that is observable of an executed instruction."""

    trace: list[Effect]
    gpr: list[int]
    rflags: int
    rip: int
    segments: list[tuple[int, int]] = field(factory=list)
    """(selector, base)"""
    zmm: list[int] = field(factory=list)
    k: list[int] = field(factory=list)
    mm: list[int] = field(factory=list)
    fault: int | None = None


def port_value(count: int, size: int) -> int:
    """What the `count`-th IN of a case reads."""
    return Random(count).getrandbits(8 * size)


def merged(trace: Iterable[Effect]) -> list[Effect]:
    """Neighbouring pieces of one direction as one access."""
    whole: list[Effect] = []
    for effect in trace:
        last = whole[-1] if whole else None
        if last and _continues(last, effect):
            value = last.value | effect.value << 8 * last.size
            whole[-1] = evolve(last, size=last.size + effect.size, value=value)
        else:
            whole.append(effect)
    return whole


def _continues(last: Effect, effect: Effect) -> bool:
    of_memory = effect.kind in ("read", "write")
    return of_memory and last.kind == effect.kind and last.address + last.size == effect.address


@define
class Memory:
    """The window's content, repeated everywhere, and what was written over it."""

    written: dict[int, int] = field(factory=dict)

    def read(self, address: int, size: int) -> int:
        """The little-endian number at `address`."""
        data = [self.written.get(at, CONTENT[at % len(CONTENT)]) for at in range(address, address + size)]
        return int.from_bytes(data, "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Store a number."""
        self.written.update(enumerate(value.to_bytes(size, "little"), address))


@define
class Driver:
    """Answers a plan's steps from memory and ports, and records them.

    `interfere(step)` may raise into the plan, by returning an exception, at a probe and at an access
    that was not probed.  No device takes batches.
    """

    memory: Memory = field(factory=Memory)
    trace: list[Effect] = field(factory=list)
    probes: list[Probe] = field(factory=list)
    interfere: Callable[[Probe | Read | Write], Exception | None] = lambda _: None
    accepts: bool = True
    """What a queue says to a command."""

    def drive(self, run: Run) -> Delta:
        """Run a plan to its end."""
        try:
            step = next(run)
            while True:
                fault = self.interfere(step) if self._checks(step) else None
                step = run.throw(fault) if fault else run.send(self._answer(step))
        except StopIteration as end:
            delta: Delta = end.value
            return delta

    def _checks(self, step: object) -> TypeGuard[Probe | Read | Write]:
        """Whether the plan leaves it to the driver to check this."""
        return isinstance(step, Probe) or (isinstance(step, Read | Write) and not self.probes)

    def _answer(self, step: object) -> int:
        match step:
            case Probe():
                self.probes.append(step)
                return 0
            case Read(address, size) | ReadSystem(address, size):
                return self._record("read", address, size, self.memory.read(address, size))
            case Write(address, size, value) | WriteSystem(address, size, value):
                self.memory.write(address, size, value)
                return self._record("write", address, size, value)
            case Cas(address, size, old, new):
                found = self.memory.read(address, size)
                if found == old:
                    self.memory.write(address, size, new)
                    self._record("write", address, size, new)
                return found
            case In(port, size):
                value = port_value(sum(effect.kind == "in" for effect in self.trace), size)
                return self._record("in", port, size, value)
            case Out(port, size, value):
                return self._record("out", port, size, value)
            case ReadMsr(number):
                return self._record("rdmsr", number, 8, port_value(number, 8))
            case WriteMsr(number, value):
                return self._record("wrmsr", number, 8, value)
            case Enqueue(address, value):
                self._record("enqueue", address, 64, value)
                return int(self.accepts)
            case Transfer() | ProbePort() | ProbeSystem():
                return 0
        raise AssertionError(step)

    def _record(self, kind: str, address: int, size: int, value: int) -> int:
        self.trace.append(Effect(kind, address, size, value))
        return value


# --- cases -------------------------------------------------------------------------------


def start(case: Case) -> VcpuState:
    """The state of a case; real mode in 16-bit code, but where the instruction needs protected mode."""
    real = case.mode is Mode.CODE16 and judge(BY_NAME[case.form]) is Judge.UNICORN
    state = VcpuState(
        gpr=list(case.gpr),
        rip=ENTRY[case.mode],
        rflags=case.rflags,
        segments=segments(case.mode),
        cr0=0x10 if real else 0x11,
        cr4=_CR4,
        efer=0x500 if case.mode is Mode.CODE64 else 0,
        xcr0=_XCR0,
    )
    state.gdtr.base, state.gdtr.limit = GDT, len(descriptors(case.mode)) - 1
    x87 = _VALID + b"".join(number.to_bytes(8, "little") + b"\xff\xff".ljust(8, b"\0") for number in case.mm)
    sets = RegisterSet.X87 | RegisterSet.SSE | RegisterSet.AVX | RegisterSet.AVX512 | RegisterSet.PASID
    state.extended = ExtendedState(sets, list(case.zmm), list(case.k), x87, _PASID)
    return state


def memory_of(case: Case) -> Memory:
    """Memory as the case begins."""
    memory = Memory(dict(enumerate(descriptors(case.mode), GDT)))
    for address, data in case.memory.items():
        memory.written.update(enumerate(data, address))
    return memory


def execute(case: Case) -> Outcome:
    """The case in mmiod.  Raises AssertionError where there is no plan."""
    plan = decode(case.code, case.mode)
    assert isinstance(plan, Plan), f"no plan: {plan}"
    vcpu, driver = start(case), Driver(memory_of(case))
    try:
        delta = driver.drive(plan.run(vcpu))
    except GuestFault as fault:
        return outcome(vcpu, Delta(vcpu.rip, vcpu.rflags), driver.trace, fault.vector)
    return outcome(vcpu, delta, driver.trace)


def outcome(vcpu: VcpuState, delta: Delta, trace: list[Effect], fault: int | None = None) -> Outcome:
    """What a delta leaves behind."""
    gpr = [delta.registers.get(number, value) for number, value in enumerate(vcpu.gpr)]
    registers = [delta.segments.get(number, segment) for number, segment in enumerate(vcpu.segments)]
    places = [(segment.selector, segment.base) for segment in registers]
    table = range(GDT, GDT + len(descriptors(Mode.CODE64)))
    seen = merged(effect for effect in trace if effect.address not in table or effect.kind in ("in", "out"))
    found = Outcome(seen, gpr, delta.rflags & FLAGS, delta.rip, places, fault=fault)
    if vcpu.extended is not None:
        _add_vectors(found, vcpu.extended, delta)
    return found


def _add_vectors(found: Outcome, before: ExtendedState, delta: Delta) -> None:
    found.zmm, found.k, x87 = list(before.zmm), list(before.k), before.x87
    changes = delta.vectors
    if changes is not None:
        for number, value in changes.xmm.items():
            found.zmm[number] = found.zmm[number] >> 128 << 128 | value
        for number, value in changes.zmm.items():
            found.zmm[number] = value
        for number, value in changes.k.items():
            found.k[number] = value
        x87 = changes.x87 or x87
    places = range(_X87_REGISTERS, _X87_REGISTERS + 128, 16)
    found.mm = [int.from_bytes(x87[at : at + 8], "little") for at in places]
