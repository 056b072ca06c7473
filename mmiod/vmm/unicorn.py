"""The accelerator on Unicorn: one vCPU that runs until something is not its own affair.

Memory outside the guest's slots is not mapped.  The hook for such an access refuses it,
and Unicorn then stops with RIP and all registers exactly at the instruction (a REP: at
the iteration), so that it can go out as a raw exit.

Port I/O cannot be stopped like that: Unicorn finishes an IN or OUT whose hook asks it to
stop, and without a code hook even what follows in the same block.  So the hook itself
asks for the value, one element at a time, and the exit is a decoded one.

Unicorn delivers no interrupts and no exceptions; `delivery` does.

HLT stops the run without a reason; what has no other reason is therefore HLT.

Unicorn does not see what somebody else writes into guest RAM.  A device that overwrites
code which the vCPU already ran goes unnoticed until the next reset.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from attrs import frozen
from unicorn import unicorn_const as uc, x86_const as x86
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

from mmiod.values import CS, READ, WRITE, Delta, ExtendedState, Intent, RegisterSet, Space, VcpuState
from mmiod.vmm import delivery, meter, vectors
from mmiod.vmm.accelerator import MAX_CODE, Halted, Paused, Perform, Stop, Touched, fetch
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.registers import Registers

NEVER: Final = 1 << 63
"""An address to run "until" that no guest reaches: it is not canonical."""
MAXPHYADDR: Final = 40
"""Of Unicorn's default processor."""

_IF: Final = 1 << 9
_DB: Final = 1
_LMA: Final = 1 << 10
_INVALID_OPCODE: Final = 6
_INTENTS: Final = {
    uc.UC_MEM_READ_UNMAPPED: Intent.READ,
    uc.UC_MEM_READ_PROT: Intent.READ,
    uc.UC_MEM_WRITE_UNMAPPED: Intent.WRITE,
    uc.UC_MEM_WRITE_PROT: Intent.WRITE,
    uc.UC_MEM_FETCH_UNMAPPED: Intent.EXECUTE,
    uc.UC_MEM_FETCH_PROT: Intent.EXECUTE,
}
_PROTECTION: Final = {
    Intent.READ: uc.UC_PROT_READ,
    Intent.WRITE: uc.UC_PROT_WRITE,
    Intent.EXECUTE: uc.UC_PROT_EXEC,
}

_translate = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.POINTER(ctypes.c_uint64)
)(("uc_vmem_translate", uclib))


@frozen
class _Raised:
    """The instruction raised exception or software interrupt `vector`; RIP is where it returns to."""

    vector: int
    error_code: int | None


class UnicornCpu:
    """One vCPU.  `perform` is called for ports while it runs, between two instructions.

    RDTSC reads `now()`, if that is given, instead of the host's counter.
    """

    def __init__(self, memory: GuestMemory, perform: Perform, now: Callable[[], int] | None = None) -> None:
        self._engine = Uc(uc.UC_ARCH_X86, uc.UC_MODE_64)
        self.memory = memory
        self._stop: Touched | _Raised | None = None
        for slot in memory.slots:
            rights = uc.UC_PROT_READ | uc.UC_PROT_EXEC
            rights |= 0 if slot.read_only else uc.UC_PROT_WRITE
            self._engine.mem_map_ptr(slot.gpa, slot.length, rights, slot.address)
        self.registers = Registers(self._engine)
        self.meter = meter.install(self._engine)
        self._install(perform)
        if now is not None:
            self._time_stamps = meter.count_time_stamps(self._engine, now)

    def _install(self, perform: Perform) -> None:
        def read_port(_engine: object, port: int, size: int, _data: object) -> int:
            return int.from_bytes(perform(Space.PIO, READ, port, size, 1, b""), "little")

        def write_port(_engine: object, port: int, size: int, value: int, _data: object) -> None:
            perform(Space.PIO, WRITE, port, size, 1, value.to_bytes(size, "little"))

        add = self._engine.hook_add
        add(uc.UC_HOOK_INSN, read_port, aux1=x86.UC_X86_INS_IN)
        add(uc.UC_HOOK_INSN, write_port, aux1=x86.UC_X86_INS_OUT)
        add(uc.UC_HOOK_MEM_UNMAPPED | uc.UC_HOOK_MEM_PROT, self._touched)
        add(uc.UC_HOOK_INTR, self._raised)

    # --- running -----------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Instructions that began."""
        return self.meter.count

    def arm(self, limit: int, *, interrupt: bool) -> None:
        """Pause before the instruction behind `limit`, or where an interrupt can be taken."""
        self.meter.limit = limit
        self.meter.window = interrupt

    def run(self) -> Stop:
        """Execute until the meter or something else stops the vCPU.

        Raises:
            TripleFault, Unable: see `delivery.deliver`.
            UcError: Unicorn cannot go on, for a reason that is none of `Stop`.
        """
        if self.meter.window and self.registers.shadow:
            self.arm(min(self.meter.limit, self.count + 1), interrupt=False)
        while isinstance(stop := self._run(), _Raised):
            self._deliver(stop.vector, stop.error_code)
        return stop

    def _run(self) -> Stop | _Raised:
        self._stop = None
        try:
            self._engine.emu_start(self.registers.rip, NEVER)
        except UcError as error:
            if error.errno == uc.UC_ERR_INSN_INVALID:
                self._stop = _Raised(_INVALID_OPCODE, None)
            elif self._stop is None:
                raise
        finally:
            self.registers.rip = self._engine.reg_read(x86.UC_X86_REG_RIP)
        paused = self.meter.take_stop()
        return self._stop or (Paused() if paused else Halted())

    def _touched(self, _engine: object, kind: int, gpa: int, _size: int, _value: int, _data: object) -> bool:
        if self._stop is None:  # a straddling access asks for each byte
            self._stop = Touched(gpa, _INTENTS[kind])
        return False

    def _raised(self, engine: Uc, vector: int, _data: object) -> None:
        error_code, software = self.registers.exception()
        pushes = vector in delivery.ERROR_CODE and not software
        self._stop = _Raised(vector, error_code if pushes else None)
        engine.emu_stop()

    # --- between runs ------------------------------------------------------------------

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt would be taken now."""
        return self.interrupts_enabled and not self.registers.shadow

    @property
    def interrupts_enabled(self) -> bool:
        """EFLAGS.IF."""
        return bool(self.registers.rflags & _IF)

    def state(self) -> VcpuState:
        """The registers, for an exit."""
        return self.registers.load()

    def code(self) -> bytes:
        """Up to 15 bytes of the instruction at RIP."""
        at = self.state().segments[CS].base + self.registers.rip
        return fetch(self, self.memory, at, MAX_CODE)

    def translate(self, linear: int, intent: Intent) -> int | None:
        """The physical address, with accessed and dirty bits set; None where that would fault."""
        gpa = ctypes.c_uint64()
        at = linear if self._long else linear & 0xFFFF_FFFF
        status = _translate(meter.handle(self._engine), at, _PROTECTION[intent], ctypes.byref(gpa))
        return None if status else gpa.value

    @property
    def _long(self) -> bool:
        return bool(self.registers.load().efer & _LMA)

    def vectors(self, sets: RegisterSet) -> ExtendedState:
        """Vector registers, see `vectors.load`."""
        return vectors.load(self._engine, sets)

    def apply(self, delta: Delta) -> None:
        """Write back what an instruction did that mmiod executed."""
        for gpa, data in delta.memory:
            self.memory.write(gpa, data)
            self._engine.ctl_remove_cache(gpa, gpa + len(data))
        if delta.vectors is not None:
            vectors.apply(self._engine, delta.vectors)
        self.registers.apply(delta)

    def interrupt(self, vector: int) -> None:
        """Take an interrupt: see `delivery.deliver`."""
        self._deliver(vector, None)

    def fault(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Raise an exception: see `delivery.deliver`."""
        if cr2 is not None:
            self._engine.reg_write(x86.UC_X86_REG_CR2, cr2)
        self._deliver(vector, error_code)

    def trap(self, bits: int) -> None:
        """Raise #DB: see `delivery.deliver`."""
        self._engine.reg_write(x86.UC_X86_REG_DR6, self.state().dr6 | bits)
        self._deliver(_DB, None)

    def reset(self) -> None:
        """The state after a reset; memory keeps what it holds."""
        self.registers.reset()
        self._engine.ctl_flush_tb()

    def _deliver(self, vector: int, error_code: int | None) -> None:
        delivery.deliver(self._engine, self.registers, self.memory, vector, error_code)
