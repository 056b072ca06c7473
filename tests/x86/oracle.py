"""Unicorn with its accesses recorded, and mmiod driven on the same memory and ports.

Unicorn's memory hooks tell address, size and value of each access as QEMU makes it;
`mmio_map` would not (it splits into four bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Final

from attrs import define, field, frozen
from unicorn import unicorn_const as uc, x86_const as ux
from unicorn.unicorn_py3.unicorn import Uc

from mmiod.values import CS, Delta, Segment, VcpuState
from mmiod.x86 import Cas, In, Mode, Out, Probe, Read, ReadSystem, Run, Write
from tests.x86.forms import Case
from tests.x86.generator import CODE, WINDOW

_MODES: Final = {Mode.CODE16: uc.UC_MODE_16, Mode.CODE32: uc.UC_MODE_32, Mode.CODE64: uc.UC_MODE_64}
_GPR: Final = [
    getattr(ux, f"UC_X86_REG_{name}")
    for name in "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()
]
_GPR32: Final = [getattr(ux, f"UC_X86_REG_{name}") for name in "EAX ECX EDX EBX ESP EBP ESI EDI".split()]
_SEGMENTS: Final = [getattr(ux, f"UC_X86_REG_{name}") for name in "ES CS SS DS FS GS".split()]
_GDT: Final = 0x8000
_ARITHMETIC: Final = 0x8D5

CONTENT: Final = Random("memory").randbytes(len(WINDOW))


@frozen
class Effect:
    """One access: "read", "write", "in" or "out"."""

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


def port_value(count: int, size: int) -> int:
    """What the `count`-th IN of a case reads."""
    return Random(count).getrandbits(8 * size)


@define
class Oracle:
    """Unicorn in one mode."""

    mode: Mode
    trace: list[Effect] = field(factory=list)
    bases: list[int] = field(init=False)
    _selectors: list[int] = field(factory=lambda: [0] * 6)
    _machine: Uc = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._machine = machine = Uc(uc.UC_ARCH_X86, _MODES[self.mode])
        machine.mem_map(0, 0x10000)
        machine.mem_map(WINDOW.start, len(WINDOW))
        machine.mem_write(WINDOW.start, CONTENT)
        self.bases = [0] * 6
        self._load_segments()
        machine.hook_add(uc.UC_HOOK_MEM_READ, self._on_read)
        machine.hook_add(uc.UC_HOOK_MEM_WRITE, self._on_write)
        machine.hook_add(uc.UC_HOOK_INSN, self._on_in, None, 1, 0, ux.UC_X86_INS_IN)
        machine.hook_add(uc.UC_HOOK_INSN, self._on_out, None, 1, 0, ux.UC_X86_INS_OUT)

    def _load_segments(self) -> None:
        """Bases other than 0 wherever the mode has them; code stays at 0."""
        machine = self._machine
        if self.mode is Mode.CODE16:
            self.bases = [0x20000, 0, 0x21230, 0x22340, 0x23450, 0x24560]
            for number in (0, 2, 3, 4, 5):
                self._selectors[number] = self.bases[number] >> 4
                machine.reg_write(_SEGMENTS[number], self._selectors[number])
        elif self.mode is Mode.CODE32:
            self.bases = [0x11000, 0, 0x12300, 0x13400, 0x14500, 0x15600]
            for number, base in enumerate(self.bases):
                machine.mem_write(_GDT + 8 * (number + 1), _descriptor(base, code=number == CS))
            machine.reg_write(ux.UC_X86_REG_GDTR, (0, _GDT, 0x7F, 0))
            for number in (0, 2, 3, 4, 5):
                self._selectors[number] = 8 * (number + 1)
                machine.reg_write(_SEGMENTS[number], self._selectors[number])
        else:
            self.bases[4:] = [0x10000, 0xFFFF_FFFF_FFFF_0000]
            machine.reg_write(ux.UC_X86_REG_FS_BASE, self.bases[4])
            machine.reg_write(ux.UC_X86_REG_GS_BASE, self.bases[5])
        self._selectors = [machine.reg_read(register) for register in _SEGMENTS]

    def state(self, case: Case) -> VcpuState:
        """The state from which both sides start."""
        segments = [
            Segment(base, 0xFFFF_FFFF, selector, 0xC093)
            for base, selector in zip(self.bases, self._selectors, strict=True)
        ]
        # Unicorn checks no limits and types; a writable CS keeps that out of the comparison.
        segments[CS].attributes = {Mode.CODE16: 0x93, Mode.CODE32: 0xC093, Mode.CODE64: 0xA093}[self.mode]
        return VcpuState(
            gpr=list(case.gpr),
            rip=CODE,
            rflags=case.rflags,
            segments=segments,
            cr0=0x10 if self.mode is Mode.CODE16 else 0x11,
            efer=0x500 if self.mode is Mode.CODE64 else 0,
        )

    def run(self, case: Case) -> Outcome:
        """Execute the case in Unicorn."""
        machine = self._machine
        self.trace.clear()
        registers = _GPR if self.mode is Mode.CODE64 else _GPR32
        machine.mem_write(CODE, case.alias)
        machine.ctl_remove_cache(CODE, CODE + 16)
        machine.reg_write_batch(
            [*zip(registers, case.gpr, strict=False), (ux.UC_X86_REG_EFLAGS, case.rflags)]
        )
        machine.emu_start(CODE, CODE + len(case.code))
        pointer = ux.UC_X86_REG_RIP if self.mode is Mode.CODE64 else ux.UC_X86_REG_EIP
        *gpr, rflags, rip = machine.reg_read_batch([*registers, ux.UC_X86_REG_EFLAGS, pointer])
        for effect in self.trace:
            if effect.kind == "write":
                at = effect.address - WINDOW.start
                machine.mem_write(effect.address, CONTENT[at : at + effect.size])
        return Outcome(self._canonical(case), gpr + [0] * (16 - len(gpr)), rflags & 0xFFF, rip)

    def _canonical(self, case: Case) -> list[Effect]:
        """QEMU's INS stores a 0 to probe before it reads the port."""
        trace = list(self.trace)
        if case.form.startswith("INS"):
            return [effect for n, effect in enumerate(trace) if n % 3]
        return trace

    # --- hooks -------------------------------------------------------------------

    def _on_read(self, machine: Uc, _kind: int, address: int, size: int, _v: int, _data: object) -> None:
        value = int.from_bytes(machine.mem_read(address, size), "little")
        self.trace.append(Effect("read", address, size, value))

    def _on_write(self, _m: Uc, _kind: int, address: int, size: int, value: int, _data: object) -> None:
        self.trace.append(Effect("write", address, size, value & (1 << 8 * size) - 1))

    def _on_in(self, _machine: Uc, port: int, size: int, _data: object) -> int:
        value = port_value(sum(effect.kind == "in" for effect in self.trace), size)
        self.trace.append(Effect("in", port, size, value))
        return value

    def _on_out(self, _machine: Uc, port: int, size: int, value: int, _data: object) -> None:
        self.trace.append(Effect("out", port, size, value & (1 << 8 * size) - 1))


def _descriptor(base: int, *, code: bool) -> bytes:
    """A flat 4 GiB segment at `base`, DPL 0."""
    access = 0x9B if code else 0x93
    return struct.pack("<HHBBBB", 0xFFFF, base & 0xFFFF, base >> 16 & 0xFF, access, 0xCF, base >> 24)


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

    `interfere(step)` may raise into the plan, by returning an exception.
    """

    memory: Memory = field(factory=Memory)
    trace: list[Effect] = field(factory=list)
    probes: list[Probe] = field(factory=list)
    interfere: Callable[[Probe], Exception | None] = lambda _: None

    def drive(self, run: Run) -> Delta:
        """Run a plan to its end."""
        try:
            step = next(run)
            while True:
                fault = self.interfere(step) if isinstance(step, Probe) else None
                step = run.throw(fault) if fault else run.send(self._answer(step))
        except StopIteration as end:
            delta: Delta = end.value
            return delta

    def _answer(self, step: object) -> int:
        match step:
            case Probe():
                self.probes.append(step)
                return 0
            case Read(address, size) | ReadSystem(address, size):
                return self._record("read", address, size, self.memory.read(address, size))
            case Write(address, size, value):
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
        raise AssertionError(step)

    def _record(self, kind: str, address: int, size: int, value: int) -> int:
        self.trace.append(Effect(kind, address, size, value))
        return value


def outcome(vcpu: VcpuState, delta: Delta, trace: list[Effect]) -> Outcome:
    """What a delta leaves behind."""
    gpr = [delta.registers.get(number, value) for number, value in enumerate(vcpu.gpr)]
    return Outcome(trace, gpr, delta.rflags & 0xFFF, delta.rip)
