"""One exit, executed: `Exit` in, `Completion` out.

Theory of operation.  A run is a generator.  It yields only when it must wait for a
device: it yields the host, and is sent the answer that the device owed (after PENDING),
or None when the device is free again (after BUSY), and then asks anew.  Everything else
happens at once, so an exit that no device holds up is one call of `next`.

A raw exit drives a plan of `mmiod.x86`, which yields steps in linear addresses.  Here
they are translated (what the exit names, what the hypervisor supplied, then our own
read-only walk), cut at pages, and routed: a device's claim wins over RAM, RAM over what
nobody claims.  All operands are probed before the first effect, so that a fault, or a
question to the hypervisor, is raised while nothing has been done; then the exit is over
and the hypervisor sends it again, with what was asked for.  Nothing of a run outlives
its exit: a reset drops it, and a successor of this process never sees it.

Rejected: keeping a plan alive across such questions.  It saves one decode of an
instruction in the rare case, and costs state that a restart would have to carry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define

from mmiod.core.bus import Run
from mmiod.core.decoded import run_decoded
from mmiod.core.direct import run_direct
from mmiod.core.operands import Operands
from mmiod.core.steps import Steps
from mmiod.core.translation import PAGE, Platform, Translation
from mmiod.values import (
    Completion,
    DecodedExit,
    Done,
    Fault,
    Intent,
    NeedBytes,
    NeedRegisters,
    RawExit,
    Refusal,
    Refused,
    Unsupported,
)
from mmiod.x86 import (
    GuestFault,
    NeedMore,
    NotSupported,
    Plan,
    Suspend,
    Undefined,
    code_address,
    decode,
    mode_of,
    watched,
)

if TYPE_CHECKING:
    from mmiod.machine.machine import Machine
    from mmiod.x86 import Breakpoint

MAX_CODE: Final = 15
_ENABLED: Final = 0xFF
"""The bits of DR7 that enable breakpoints."""

__all__ = ["Platform", "Run", "run"]


def run(machine: Machine, exit_: DecodedExit | RawExit, platform: Platform, rep_bound: int) -> Run:
    """Execute an exit.

    Args:
        machine: the VM.
        exit_: what happened.
        platform: the processors it happened on.
        rep_bound: iterations of a REP after which the guest is entered again.
    """
    if isinstance(exit_, DecodedExit):
        return run_decoded(machine, exit_, platform)
    translation = Translation(machine.memory, exit_, platform, confirmed=exit_.gpa is None)
    return RawRun(machine, exit_, translation).run(rep_bound)


@define(eq=False)
class RawRun:
    """One instruction under way."""

    machine: Machine
    exit: RawExit
    translation: Translation

    def run(self, rep_bound: int) -> Run:
        """Decode and execute."""
        if self.exit.event_delivery:
            return Refused(Refusal.EVENT_DELIVERY)
        try:
            plan = self._plan()
            if not isinstance(plan, Plan):
                return plan
            breakpoints = self._watched()
            if plan.direct is not None and not breakpoints:
                done = yield from run_direct(self.machine, self.translation, plan.direct)
                if done is not None:
                    return done
        except GuestFault as fault:
            return _fault(fault)
        except Suspend as stop:
            return stop.completion
        # A breakpoint traps behind the iteration that met it.
        return (yield from self._drive(plan, 1 if breakpoints else rep_bound, breakpoints))

    def _watched(self) -> list[Breakpoint]:
        """The breakpoints on data and ports, if this hypervisor can tell where they are."""
        enabled = self.exit.state.dr7 & _ENABLED and self.translation.platform.vectors
        return watched(self.exit.state) if enabled else []

    def _drive(self, plan: Plan, rep_bound: int, breakpoints: list[Breakpoint]) -> Run:
        operands = Operands(self.machine, self.translation)
        performer = Steps(self.machine, self.translation, operands, breakpoints)
        steps = plan.run(self.exit.state, rep_bound)
        try:
            step = next(steps)
            while True:
                try:
                    answer = yield from performer.perform(step)
                except (GuestFault, Suspend) as stop:
                    step = steps.throw(stop)
                else:
                    step = steps.send(answer)
        except StopIteration as finished:
            if not self.translation.confirmed:
                return Refused(Refusal.ADDRESS_MISMATCH)
            finished.value.memory.extend(operands.writes)
            finished.value.debug |= performer.debug
            return Done(finished.value)
        except GuestFault as fault:
            if fault.delta is not None:
                fault.delta.memory.extend(operands.writes)
            return _fault(fault)
        except Suspend as stop:
            return self._asked(stop.completion)

    def _asked(self, completion: Completion) -> Completion:
        """A question, unless this hypervisor said that it cannot answer it."""
        if isinstance(completion, NeedRegisters) and not self.translation.platform.vectors:
            return Unsupported(self.exit.code)
        return completion

    # --- instruction bytes ----------------------------------------------------------------

    def _plan(self) -> Plan | Completion:
        """The plan of the instruction, or the completion that says why there is none."""
        mode = mode_of(self.exit.state)
        code = self.exit.code
        while True:
            outcome = decode(code, mode)
            if isinstance(outcome, Plan) and (self.translation.platform.vectors or not outcome.vectors):
                code_address(self.exit.state, mode, outcome.length - 1)
                return outcome
            if isinstance(outcome, Plan | NotSupported):
                return Unsupported(code)
            if isinstance(outcome, Undefined):
                return Fault(outcome.vector, outcome.error_code)
            code += self._fetch(code_address(self.exit.state, mode, len(code)), len(code), outcome)

    def _fetch(self, address: int, have: int, need: NeedMore) -> bytes:
        """Instruction bytes from guest RAM, to the end of the page at most."""
        gpa = self.translation.translate(address, Intent.EXECUTE)
        room = min(MAX_CODE - have, PAGE - address % PAGE)
        slot = self.machine.memory.find(gpa)
        if slot is None:
            raise Suspend(Refused(Refusal.MMIO_FETCH))
        if slot.storage is None:
            raise Suspend(NeedBytes(address, min(need.count, room)))
        return slot.storage.read(gpa - slot.gpa, min(room, slot.end - gpa))


def _fault(fault: GuestFault) -> Fault:
    return Fault(fault.vector, fault.error_code, fault.cr2, fault.delta)
