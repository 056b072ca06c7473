"""The steps of a plan, performed: on memory, ports and MSRs.

A step in memory is translated, cut into fragments and routed; its probe came before, or
is made here, so that then nothing but waiting for a device can hold it up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from attrs import define, field

from mmiod.core import strings
from mmiod.core.bus import check_msr, enqueue, transact
from mmiod.machine.address_map import MSR_BYTES
from mmiod.values import READ, WRITE, Forward, Intent, Refusal, Refused, Space
from mmiod.x86 import (
    Cas,
    Enqueue,
    GuestFault,
    In,
    Out,
    Probe,
    ProbePort,
    ProbeSystem,
    Read,
    ReadMsr,
    ReadSystem,
    Step,
    Suspend,
    Transfer,
    Write,
    WriteMsr,
    WriteSystem,
)

if TYPE_CHECKING:
    from mmiod.core.bus import Waiting
    from mmiod.core.operands import Operands
    from mmiod.core.translation import Translation
    from mmiod.machine.machine import Machine
    from mmiod.x86 import Breakpoint


@define(eq=False)
class Steps:
    """What performs the steps of one instruction."""

    machine: Machine
    translation: Translation
    operands: Operands
    watched: list[Breakpoint] = field(factory=list)
    debug: int = 0
    """The bits that DR6 gets for the breakpoints that were met."""

    def perform(self, step: Step) -> Waiting:
        """Perform a step; gives its answer.

        Raises:
            GuestFault, Suspend: nothing was done; the plan is told.
        """
        at_once = _AT_ONCE.get(type(step))
        if at_once is not None:
            return at_once(self, step)
        if isinstance(step, _ALONE) and not self.operands.checked:
            self.operands.probe(step.address, step.size, _INTENTS[type(step)])
        # A system structure is accessed before the operands are probed.
        if not self.translation.confirmed and not isinstance(step, ReadSystem):
            raise Suspend(Refused(Refusal.ADDRESS_MISMATCH))
        answer = yield from _PERFORM[type(step)](self, step)
        if self.watched:
            self.debug |= sum(found.bit for found in self.watched if found.meets(step))
        return answer

    # --- what never waits ---------------------------------------------------------------------

    def probe(self, step: Probe) -> int:
        """Check an operand."""
        self.operands.probe(step.address, step.size, step.intent)
        return 0

    def probe_port(self, step: ProbePort) -> int:
        """Check a port."""
        self._check_port(step)
        return 0

    def probe_system(self, step: ProbeSystem) -> int:
        """Have what the processor writes translated; a fault counts when it does."""
        with suppress(GuestFault):
            self.operands.located(step.address, step.size, Intent.WRITE, system=True)
        return 0

    def transfer(self, step: Transfer) -> int:
        """Move elements of a string."""
        return strings.transfer(self.machine, self.translation, step)

    # --- memory -----------------------------------------------------------------------------

    def read(self, step: Read) -> Waiting:
        """Read an operand, none of it before all that has to be asked for is here."""
        fragments = self.operands.fragments(step.address, step.size, Intent.READ)
        self.operands.check_supplied(fragments)
        return (yield from self.operands.load(fragments))

    def read_system(self, step: ReadSystem) -> Waiting:
        """Read as the processor itself."""
        fragments = self.operands.located(step.address, step.size, Intent.READ, system=True)
        return (yield from self.operands.load(fragments))

    def write(self, step: Write) -> Waiting:
        """Write an operand."""
        fragments = self.operands.fragments(step.address, step.size, Intent.WRITE)
        return (yield from self.operands.store(fragments, step.value))

    def write_system(self, step: WriteSystem) -> Waiting:
        """Write as the processor itself."""
        fragments = self.operands.located(step.address, step.size, Intent.WRITE, system=True)
        return (yield from self.operands.store(fragments, step.value))

    def compare_and_swap(self, step: Cas) -> Waiting:
        """The write of a locked instruction, whose read came just before.

        A device is accessed from the core only, so nothing can have come in between, and
        reading it again could have an effect; RAM may have been changed by another vCPU.
        """
        fragments = self.operands.fragments(step.address, step.size, Intent.WRITE)
        found = step.old
        if all(fragment.ram for fragment in fragments):
            found = yield from self.operands.load(fragments)
        if found == step.old:
            yield from self.operands.store(fragments, step.new)
        return found

    def enqueue(self, step: Enqueue) -> Waiting:
        """A command that goes to one device as a whole, or nowhere."""
        command = step.value.to_bytes(64, "little")
        fragment, *others = self.operands.fragments(step.address, len(command), Intent.WRITE)
        if others:
            return 0
        return (yield from enqueue(self.machine, fragment.range, fragment.gpa, command))

    # --- ports and MSRs ---------------------------------------------------------------------

    def port_in(self, step: In) -> Waiting:
        """Read a port."""
        self._check_port(step)
        self.operands.probed = None  # the destination's: the map may move while the port is waited for
        return (yield from transact(self.machine, Space.PIO, step.port, step.size, READ, 0))

    def port_out(self, step: Out) -> Waiting:
        """Write a port."""
        self._check_port(step)
        return (yield from transact(self.machine, Space.PIO, step.port, step.size, WRITE, step.value))

    def _check_port(self, step: In | Out | ProbePort) -> None:
        if any(found.forwards for found, _, _ in self.machine.pieces(Space.PIO, step.port, step.size)):
            raise Suspend(Forward())

    def read_msr(self, step: ReadMsr) -> Waiting:
        """Read an MSR, if it is here."""
        check_msr(self.machine, step.number, READ, 0)
        return (yield from transact(self.machine, Space.MSR, step.number, MSR_BYTES, READ, 0))

    def write_msr(self, step: WriteMsr) -> Waiting:
        """Write an MSR, if it is here and takes the value."""
        check_msr(self.machine, step.number, WRITE, step.value)
        return (yield from transact(self.machine, Space.MSR, step.number, MSR_BYTES, WRITE, step.value))


_ALONE: Final = (Read, Write)
"""What is not probed if it is the only access of its instruction."""
_INTENTS: Final = {Read: Intent.READ, Write: Intent.WRITE}

_AT_ONCE: Final[dict[type, Callable[..., int]]] = {
    Probe: Steps.probe,
    ProbePort: Steps.probe_port,
    ProbeSystem: Steps.probe_system,
    Transfer: Steps.transfer,
}
_PERFORM: Final[dict[type, Callable[..., Waiting]]] = {
    Read: Steps.read,
    ReadSystem: Steps.read_system,
    Write: Steps.write,
    WriteSystem: Steps.write_system,
    Cas: Steps.compare_and_swap,
    Enqueue: Steps.enqueue,
    In: Steps.port_in,
    Out: Steps.port_out,
    ReadMsr: Steps.read_msr,
    WriteMsr: Steps.write_msr,
}
