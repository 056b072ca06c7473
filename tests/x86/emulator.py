"""Unicorn as an oracle: one instruction, with its accesses as QEMU makes them.

Hooks tell address, size and value of each access; `mmio_map` would not (it splits into four
bytes).  Unicorn knows neither VEX nor EVEX, and checks neither LOCK nor segments.
"""

from __future__ import annotations

from typing import Final

from attrs import define, evolve, field
from unicorn import unicorn_const as uc, x86_const as ux
from unicorn.unicorn_py3.unicorn import Uc, UcContext, UcError

from mmiod.values import CS
from mmiod.x86 import Mode
from tests.x86.forms import BY_NAME, mnemonic, operand_kinds
from tests.x86.layout import (
    BASES,
    CONTENT,
    ENTRY,
    GDT,
    LOW,
    WINDOW,
    descriptors,
    selectors,
)
from tests.x86.oracle import FLAGS, Effect, Outcome, merged, port_value
from tests.x86.situations import Case

_MODES: Final = {Mode.CODE16: uc.UC_MODE_16, Mode.CODE32: uc.UC_MODE_32, Mode.CODE64: uc.UC_MODE_64}


def _numbers(names: str) -> list[int]:
    return [getattr(ux, f"UC_X86_REG_{name}") for name in names.split()]


_GPR: Final = _numbers("RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15")
_GPR32: Final = _numbers("EAX ECX EDX EBX ESP EBP ESI EDI")
_SEGMENTS: Final = _numbers("ES CS SS DS FS GS")
_XMM: Final = [ux.UC_X86_REG_XMM0 + number for number in range(16)]
_FP: Final = [ux.UC_X86_REG_FP0 + number for number in range(8)]
"""(mantissa, exponent); the mantissa is that of MMX's register while TOP is 0."""
_OSFXSR: Final = 1 << 9
_BASES64: Final = {4: ux.UC_X86_REG_FS_BASE, 5: ux.UC_X86_REG_GS_BASE}
_LOW128: Final = (1 << 128) - 1


@define
class Emulator:
    """Unicorn in one mode."""

    mode: Mode
    trace: list[Effect] = field(factory=list)
    fault: int | None = None
    _machine: Uc = field(init=False)
    _clean: UcContext = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._machine = machine = Uc(uc.UC_ARCH_X86, _MODES[self.mode])
        machine.ctl_set_cpu_model(ux.UC_CPU_X86_ICELAKE_SERVER)
        for place in (LOW, WINDOW):
            machine.mem_map(place.start, len(place))
        machine.mem_write(WINDOW.start, CONTENT)
        machine.mem_write(GDT, descriptors(self.mode))
        machine.reg_write(ux.UC_X86_REG_CR4, machine.reg_read(ux.UC_X86_REG_CR4) | _OSFXSR)
        self._load_segments()
        machine.hook_add(uc.UC_HOOK_MEM_READ, self._on_read)
        machine.hook_add(uc.UC_HOOK_MEM_WRITE, self._on_write)
        machine.hook_add(uc.UC_HOOK_INTR, self._on_interrupt)
        machine.hook_add(uc.UC_HOOK_INSN, self._on_in, None, 1, 0, ux.UC_X86_INS_IN)
        machine.hook_add(uc.UC_HOOK_INSN, self._on_out, None, 1, 0, ux.UC_X86_INS_OUT)
        self._clean = machine.context_save()

    def _load_segments(self) -> None:
        """All as `layout` has them; 64-bit code gets bases without descriptors."""
        machine = self._machine
        if self.mode is not Mode.CODE16:
            machine.reg_write(ux.UC_X86_REG_GDTR, (0, GDT, len(descriptors(self.mode)) - 1, 0))
        for number, selector in enumerate(selectors(self.mode)):
            if number != CS:
                self._load_segment(number, selector)
        if self.mode is not Mode.CODE16:
            machine.reg_write(_SEGMENTS[CS], selectors(self.mode)[CS])
        if self.mode is Mode.CODE64:
            for number, register in _BASES64.items():
                machine.reg_write(register, BASES[self.mode][number])

    def _load_segment(self, number: int, selector: int) -> None:
        """By MOV: a register that is written from outside has no descriptor in 64-bit mode."""
        entry = ENTRY[self.mode]
        self._machine.mem_write(entry, bytes([0x8E, 0xC0 | number << 3]))
        self._machine.reg_write(ux.UC_X86_REG_AX, selector)
        self._machine.ctl_remove_cache(entry, entry + 2)
        self._machine.emu_start(entry, entry + 2)

    def run(self, case: Case) -> Outcome:
        """Execute the case."""
        machine, entry = self._machine, ENTRY[self.mode]
        self.trace.clear()
        self.fault = None
        machine.context_restore(self._clean)
        machine.mem_write(entry, case.code)
        machine.ctl_remove_cache(entry, entry + 16)
        for address, data in case.memory.items():
            machine.mem_write(address, data)
        self._load(case)
        try:
            self._execute(case)
            return self._outcome(case)
        finally:
            self._restore_memory(case)

    def _execute(self, case: Case) -> None:
        """Up to the next instruction; a jump ends where it cannot be fetched from."""
        entry, jumps = ENTRY[self.mode], mnemonic(BY_NAME[case.form]) in _JUMPS
        try:
            self._machine.emu_start(entry, entry + len(case.code), count=1 if jumps else 0)
        except UcError as error:
            if not jumps or error.errno != uc.UC_ERR_FETCH_UNMAPPED:
                raise

    def _restore_memory(self, case: Case) -> None:
        for address, data in case.memory.items():
            self._restore(address, len(data))
        for effect in self.trace:
            if effect.kind == "write":
                self._restore(effect.address, effect.size)

    def _restore(self, address: int, size: int) -> None:
        at = address - WINDOW.start
        self._machine.mem_write(address, CONTENT[at : at + size])

    # --- registers ---------------------------------------------------------------

    def _vectors(self, case: Case) -> tuple[list[int], list[int]]:
        """The registers of vectors that the form may touch."""
        kinds = operand_kinds(BY_NAME[case.form])
        xmm = _XMM[: 16 if self.mode is Mode.CODE64 else 8]
        return (
            xmm if any(kind.startswith("XMM") for kind in kinds) else [],
            _FP if any(kind.startswith("MM") for kind in kinds) else [],
        )

    def _load(self, case: Case) -> None:
        xmm, mm = self._vectors(case)
        for number, register in enumerate(xmm):
            self._machine.reg_write(register, case.zmm[number] & _LOW128)
        for number, register in enumerate(mm):
            self._machine.reg_write(register, (case.mm[number], 0xFFFF))
        general = zip(_GPR if self.mode is Mode.CODE64 else _GPR32, case.gpr, strict=False)
        self._machine.reg_write_batch([*general, (ux.UC_X86_REG_EFLAGS, case.rflags)])

    def _outcome(self, case: Case) -> Outcome:
        machine, long = self._machine, self.mode is Mode.CODE64
        registers = _GPR if long else _GPR32
        pointer = ux.UC_X86_REG_RIP if long else ux.UC_X86_REG_EIP
        *gpr, rflags, rip = machine.reg_read_batch([*registers, ux.UC_X86_REG_EFLAGS, pointer])
        gpr += [0] * (16 - len(gpr))
        xmm, mm = self._vectors(case)
        zmm, mms = list(case.zmm), list(case.mm)
        for number, register in enumerate(xmm):
            zmm[number] = zmm[number] & ~_LOW128 | machine.reg_read(register)
        for number, register in enumerate(mm):
            mms[number], _ = machine.reg_read(register)
        found = Outcome(
            self._canonical(case), gpr, rflags & FLAGS, rip, self._segments(), zmm, list(case.k), mms
        )
        if self.fault is not None:
            faulted = evolve(found, gpr=list(case.gpr), rflags=case.rflags & FLAGS, rip=ENTRY[self.mode])
            return evolve(faulted, fault=self.fault)
        return found

    def _segments(self) -> list[tuple[int, int]]:
        """(selector, base); what the descriptor says where Unicorn does not tell a base."""
        machine, found = self._machine, []
        for number, register in enumerate(_SEGMENTS):
            selector = machine.reg_read(register)
            if self.mode is Mode.CODE16:
                base = selector << 4
            elif self.mode is Mode.CODE64 and number in _BASES64:
                base = machine.reg_read(_BASES64[number])
            else:
                base = _base(selector, self.mode)
            found.append((selector, base))
        return found

    def _canonical(self, case: Case) -> list[Effect]:
        """Without descriptors, the 0 that INS stores to probe, and with MOVBE's value as it is stored."""
        trace = [
            effect
            for effect in self.trace
            if effect.kind in ("in", "out") or not GDT <= effect.address < GDT + 0x100
        ]
        if case.form.startswith("INS"):
            trace = [effect for number, effect in enumerate(trace) if number % 3]
        if case.form.startswith("MOVBE_M"):
            trace = [
                evolve(one, value=int.from_bytes(one.value.to_bytes(one.size), "little")) for one in trace
            ]
        return merged(trace)

    # --- hooks -------------------------------------------------------------------

    def _on_read(self, machine: Uc, _kind: int, address: int, size: int, _v: int, _data: object) -> None:
        value = int.from_bytes(machine.mem_read(address, size), "little")
        self.trace.append(Effect("read", address, size, value))

    def _on_write(self, _m: Uc, _kind: int, address: int, size: int, value: int, _data: object) -> None:
        self.trace.append(Effect("write", address, size, value & (1 << 8 * size) - 1))

    def _on_interrupt(self, machine: Uc, number: int, _data: object) -> None:
        self.fault = number
        machine.emu_stop()

    def _on_in(self, _machine: Uc, port: int, size: int, _data: object) -> int:
        value = port_value(sum(effect.kind == "in" for effect in self.trace), size)
        self.trace.append(Effect("in", port, size, value))
        return value

    def _on_out(self, _machine: Uc, port: int, size: int, value: int, _data: object) -> None:
        self.trace.append(Effect("out", port, size, value & (1 << 8 * size) - 1))


_JUMPS: Final = frozenset({"CALL", "JMP", "RET"})


def _base(selector: int, mode: Mode) -> int:
    raw = descriptors(mode)[selector & ~7 :][:8]
    return int.from_bytes(raw[2:5] + raw[7:8], "little")
