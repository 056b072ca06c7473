"""String instructions and REP (SDM vol. 2, "REP/REPE/REPZ/REPNE/REPNZ").

An element function does one iteration; a `Batch` repeats it.  Between iterations all
state is consistent: a fault, a suspension or the bound leaves a delta that holds RIP
at the instruction and the registers where the next iteration begins.  Where a string
only moves, the driver is offered all elements up to the next page's end at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from attrs import define

from mmiod.values import Delta, Intent, VcpuState
from mmiod.x86 import segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.encoding import REP
from mmiod.x86.execution import completed, reach, single_step
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.flags import DF, TF, ZF, subtract
from mmiod.x86.operands import RCX, Memory, Register
from mmiod.x86.ports import permit
from mmiod.x86.steps import In, Linear, Out, Pattern, Port, ProbePort, Read, Run, Step, Transfer, Write

_PAGE: Final = 4096


@define
class Batch:
    """The iterations of one run of a string instruction, `done` of them so far."""

    i: Instruction
    vcpu: VcpuState
    done: int = 0
    loaded: int | None = None
    flags: int | None = None
    alone: int = 0
    """Iterations before this one are not offered to the driver at once."""

    def run(self, bound: int) -> Run:
        """Repeat until RCX, a comparison, `bound`, a fault or a suspension ends it."""
        element = ELEMENTS[self.i.opcode.shape]
        total = self._counter.read(self.vcpu) if self.i.repeat else 1
        if self.vcpu.rflags & TF:
            bound = 1  # each iteration is a single step
        try:
            if total:
                yield from self._permit()
            while self.done < total and not self._decided:
                if self.done == bound:
                    return self._partial()
                moved = yield from self._move(min(total, bound) - self.done)
                if not moved:
                    yield from element(self, *self.i.operands)
                self.done += moved or 1
        except GuestFault as fault:
            if self.done:
                fault.delta = self._partial()
            raise
        except Suspend:
            if not self.done:
                raise
            return self._partial()
        return completed(self.i, self.vcpu, self._registers(), self.flags)

    def _permit(self) -> Generator[Step, int, None]:
        """Ask for the port once: TSS and port stay the same."""
        asked = _PERMITS.get(self.i.opcode.shape)
        if asked is not None:
            yield from asked(self.vcpu, *self.i.operands)

    # --- many elements at once ---------------------------------------------------------

    def _move(self, count: int) -> Generator[Step, int, int]:
        """Offer the next elements, at most `count`; gives how many were moved."""
        if self.done < self.alone or count < 2 or self.i.opcode.shape not in _ENDS:
            return 0
        transfer = self._transfer(count)
        if transfer is None:
            self.alone = self.done + 1
            return 0
        moved = yield transfer
        self.alone = self.done + (min(moved + 1, transfer.count) if moved else transfer.count)
        return moved

    def _transfer(self, count: int) -> Transfer | None:
        """As many of the next elements as lie within a page; None if what is left goes one by one."""
        operands = zip(self.i.operands, (Intent.WRITE, Intent.READ), strict=True)
        memory = [(operand, intent) for operand, intent in operands if isinstance(operand, Memory)]
        for operand, intent in memory:
            count = min(count, self._within_page(operand, count, intent))
        if count < 2:
            return None
        source, target = _ENDS[self.i.opcode.shape](self, *self.i.operands)
        return Transfer(source, target, memory[0][0].size, count, bool(self.vcpu.rflags & DF))

    def at(self, memory: Memory) -> Linear:
        """Where this iteration's element is, for what was checked."""
        return Linear(self._linear(memory, 0, Intent.READ))

    def _within_page(self, memory: Memory, count: int, intent: Intent) -> int:
        """How many elements follow each other in this one's page without a fault; else 0."""
        try:
            first = self._linear(memory, 0, intent)
            into = first % _PAGE
            room = into // memory.size + 1 if self.vcpu.rflags & DF else (_PAGE - into) // memory.size
            count = min(count, room if into + memory.size <= _PAGE else 0)
            last = self._linear(memory, count - 1, intent)
        except GuestFault:
            return 0
        return count if abs(last - first) == (count - 1) * memory.size else 0

    def _linear(self, memory: Memory, further: int, intent: Intent) -> int:
        """The linear address of the element `further` iterations on, checked."""
        offset = self._offset(memory, further)
        address = segments.linear(self.vcpu, self.i.mode, memory.segment, offset, memory.size, intent)
        segments.check_alignment(self.vcpu, address, memory.size)
        return address

    # --- one element -------------------------------------------------------------------

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

    def _offset(self, memory: Memory, further: int = 0) -> int:
        """Of this iteration's element, or of the one `further` iterations on."""
        stride = -memory.size if self.vcpu.rflags & DF else memory.size
        return memory.offset(self.vcpu) + (self.done + further) * stride & memory.mask

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
        return Delta(self.vcpu.rip, self.vcpu.rflags, self._registers(), debug=single_step(self.vcpu))


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
    """Port to memory."""
    target = yield from batch.reach(destination, Intent.WRITE)
    value = yield In(port.read(batch.vcpu), destination.size)
    yield Write(target, destination.size, value)


def outs(batch: Batch, port: Register, source: Memory) -> Generator[Step, int, None]:
    """Memory to port."""
    address = yield from batch.reach(source, Intent.READ)
    yield ProbePort(port.read(batch.vcpu), source.size)
    value = yield Read(address, source.size)
    yield Out(port.read(batch.vcpu), source.size, value)


Element = Callable[..., Generator[Step, int, None]]

ELEMENTS: Final[dict[str, Element]] = {
    element.__name__: element for element in (movs, stos, lods, cmps, scas, ins, outs)
}
"""By the opcode table's third column."""

_ENDS: Final[dict[str, Callable[..., tuple[Linear | Port | Pattern, Linear | Port]]]] = {
    "movs": lambda batch, destination, source: (batch.at(source), batch.at(destination)),
    "stos": lambda batch, destination, accumulator: (
        Pattern(accumulator.read(batch.vcpu)), batch.at(destination),
    ),
    "ins": lambda batch, destination, port: (Port(port.read(batch.vcpu)), batch.at(destination)),
    "outs": lambda batch, port, source: (batch.at(source), Port(port.read(batch.vcpu))),
}  # fmt: skip
"""The source and the target of what only moves; their operands are a target and a source."""

_PERMITS: Final[dict[str, Callable[..., Generator[Step, int, None]]]] = {
    "ins": lambda vcpu, destination, port: permit(vcpu, port.read(vcpu), destination.size),
    "outs": lambda vcpu, port, source: permit(vcpu, port.read(vcpu), source.size),
}
