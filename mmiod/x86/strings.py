"""String instructions and REP (SDM vol. 2, "REP/REPE/REPZ/REPNE/REPNZ").

An element function does one iteration; a `Batch` repeats it.  Between iterations all
state is consistent: a fault, a suspension or the bound leaves a delta that holds RIP
at the instruction and the registers where the next iteration begins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from attrs import define

from mmiod.values import Delta, Intent, VcpuState
from mmiod.x86.decoder import Instruction
from mmiod.x86.encoding import REP
from mmiod.x86.execution import completed, reach
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.flags import DF, ZF, subtract
from mmiod.x86.operands import RCX, Memory, Register
from mmiod.x86.ports import permit
from mmiod.x86.steps import In, Out, Read, Run, Step, Write


@define
class Batch:
    """The iterations of one run of a string instruction, `done` of them so far."""

    i: Instruction
    vcpu: VcpuState
    done: int = 0
    loaded: int | None = None
    flags: int | None = None

    def run(self, bound: int) -> Run:
        """Repeat until RCX, a comparison, `bound`, a fault or a suspension ends it."""
        element = ELEMENTS[self.i.opcode.shape]
        total = self._counter.read(self.vcpu) if self.i.repeat else 1
        try:
            while self.done < total and not self._decided:
                if self.done == bound:
                    return self._partial()
                yield from element(self, *self.i.operands)
                self.done += 1
        except GuestFault as fault:
            if self.done:
                fault.delta = self._partial()
            raise
        except Suspend:
            if not self.done:
                raise
            return self._partial()
        return completed(self.i, self.vcpu, self._registers(), self.flags)

    def reach(self, memory: Memory, intent: Intent) -> Generator[Step, int, int]:
        """Check and probe this iteration's element of `memory`; gives its linear address."""
        return reach(self.i, self.vcpu, memory, self._offset(memory), intent)

    def fetch(self, memory: Memory) -> Generator[Step, int, int]:
        """Read this iteration's element of `memory`."""
        address = yield from self.reach(memory, Intent.READ)
        return (yield Read(address, memory.size))

    @property
    def _counter(self) -> Register:
        return Register(RCX, self.i.address_size)

    @property
    def _decided(self) -> bool:
        """Whether REPE or REPNE found what it was looking for."""
        return self.flags is not None and bool(self.flags & ZF) != (self.i.repeat == REP)

    def _offset(self, memory: Memory) -> int:
        stride = -memory.size if self.vcpu.rflags & DF else memory.size
        return memory.offset(self.vcpu) + self.done * stride & memory.mask

    def _registers(self) -> dict[int, int]:
        """RSI, RDI, RCX as far as they are used, and what LODS loaded."""
        registers: dict[int, int] = {}
        if not self.done:
            return registers
        for operand in self.i.operands:
            if isinstance(operand, Memory) and operand.base is not None:
                pointer = Register(operand.base, self.i.address_size)
                registers[operand.base] = pointer.merged(self.vcpu, self._offset(operand))
            elif isinstance(operand, Register) and self.loaded is not None:
                registers[operand.number] = operand.merged(self.vcpu, self.loaded)
        if self.i.repeat:
            counter = self._counter
            registers[RCX] = counter.merged(self.vcpu, counter.read(self.vcpu) - self.done)
        return registers

    def _partial(self) -> Delta:
        """Flags stay: a repeated comparison that faults has none, and RF still holds."""
        return Delta(self.vcpu.rip, self.vcpu.rflags, self._registers())


def movs(batch: Batch, destination: Memory, source: Memory) -> Generator[Step, int, None]:
    """Memory to memory."""
    address = yield from batch.reach(source, Intent.READ)
    target = yield from batch.reach(destination, Intent.WRITE)
    value = yield Read(address, source.size)
    yield Write(target, destination.size, value)


def stos(batch: Batch, destination: Memory, accumulator: Register) -> Generator[Step, int, None]:
    """Accumulator to memory."""
    target = yield from batch.reach(destination, Intent.WRITE)
    yield Write(target, destination.size, accumulator.read(batch.vcpu))


def lods(batch: Batch, _accumulator: Register, source: Memory) -> Generator[Step, int, None]:
    """Memory to accumulator."""
    batch.loaded = yield from batch.fetch(source)


def cmps(batch: Batch, source: Memory, destination: Memory) -> Generator[Step, int, None]:
    """Flags of source - destination."""
    address = yield from batch.reach(source, Intent.READ)
    other = yield from batch.reach(destination, Intent.READ)
    left = yield Read(address, source.size)
    right = yield Read(other, destination.size)
    _, batch.flags = subtract(left, right, 0, source.size)


def scas(batch: Batch, accumulator: Register, destination: Memory) -> Generator[Step, int, None]:
    """Flags of accumulator - memory."""
    value = yield from batch.fetch(destination)
    _, batch.flags = subtract(accumulator.read(batch.vcpu), value, 0, destination.size)


def ins(batch: Batch, destination: Memory, port: Register) -> Generator[Step, int, None]:
    """Port to memory; the permission is asked once, since TSS and port stay the same."""
    number = port.read(batch.vcpu)
    if not batch.done:
        yield from permit(batch.vcpu, number, destination.size)
    target = yield from batch.reach(destination, Intent.WRITE)
    value = yield In(number, destination.size)
    yield Write(target, destination.size, value)


def outs(batch: Batch, port: Register, source: Memory) -> Generator[Step, int, None]:
    """Memory to port; the permission is asked once."""
    number = port.read(batch.vcpu)
    if not batch.done:
        yield from permit(batch.vcpu, number, source.size)
    value = yield from batch.fetch(source)
    yield Out(number, source.size, value)


Element = Callable[..., Generator[Step, int, None]]

ELEMENTS: Final[dict[str, Element]] = {
    element.__name__: element for element in (movs, stos, lods, cmps, scas, ins, outs)
}
"""By the opcode table's third column."""
