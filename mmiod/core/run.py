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

from collections.abc import Callable, Generator
from typing import Final

from attrs import define, field, frozen

from mmiod.device import Pending
from mmiod.machine.address_map import LENGTHS, Range
from mmiod.machine.host import Busy, Host
from mmiod.machine.machine import Machine
from mmiod.machine.memory import Slot
from mmiod.values import (
    READ,
    WRITE,
    Completion,
    DecodedExit,
    Direction,
    Done,
    Fault,
    Forward,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedTranslation,
    RawExit,
    Refusal,
    Refused,
    Space,
    Unsupported,
    Values,
    ones,
)
from mmiod.x86 import (
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
    code_address,
    decode,
    mode_of,
    walk,
)

PAGE: Final = 4096
MAX_CODE: Final = 15

Waiting = Generator[Host, int | None, int]
Run = Generator[Host, int | None, Completion]


@frozen
class Platform:
    """What a hypervisor told of its processors at HELLO."""

    physical_bits: int = 52
    shared_mask: int = 0
    """Bits of a guest-physical address that are attributes (the C bit, the shared bit)."""


def run(machine: Machine, exit_: DecodedExit | RawExit, platform: Platform, rep_bound: int) -> Run:
    """Execute an exit.

    Args:
        machine: the VM.
        exit_: what happened.
        platform: the processors it happened on.
        rep_bound: iterations of a REP after which the guest is entered again.
    """
    if isinstance(exit_, DecodedExit):
        return _run_decoded(machine, exit_, platform)
    return RawRun(machine, exit_, platform).run(rep_bound)


# --- accesses ----------------------------------------------------------------------------


def transact(
    machine: Machine, space: Space, address: int, size: int, direction: Direction, value: int
) -> Waiting:
    """One access of a vCPU to devices, cut where another range begins, low to high."""
    total = 0
    for found, at, taken in machine.pieces(space, address, size):
        shift = 8 * (at - address)
        part = yield from _within(machine, found, at, taken, direction, value >> shift & ones(taken))
        total |= part << shift
    return total


def _within(
    machine: Machine, found: Range, address: int, size: int, direction: Direction, value: int
) -> Waiting:
    answer = machine.access(found, address, size, direction, value)
    if not isinstance(answer, Pending | Busy):
        return answer
    assert found.claim is not None, "only a device makes anybody wait"
    settled = yield found.claim.host
    if isinstance(answer, Pending):
        assert settled is not None, "a device that owes an answer settles with one"
        return settled
    # The map may have moved meanwhile.
    return (yield from transact(machine, found.space, address, size, direction, value))


def _run_decoded(machine: Machine, exit_: DecodedExit, platform: Platform) -> Run:
    address = exit_.address
    if exit_.space == Space.MMIO:
        address &= ~platform.shared_mask
    if machine.find(exit_.space, address).forwards:
        return Forward()
    size, data = exit_.size, bytearray()
    for index in range(exit_.count):
        at = address + exit_.stride * index * size & LENGTHS[exit_.space] - 1
        value = int.from_bytes(exit_.data[index * size : (index + 1) * size], "little")
        answer = yield from transact(machine, exit_.space, at, size, exit_.direction, value)
        if exit_.direction == READ:
            data += answer.to_bytes(size, "little")
    return Values(bytes(data))


# --- instructions --------------------------------------------------------------------------


@define
class Fragment:
    """A part of an operand that one slot or one range answers; `shift` is its place, in bits."""

    shift: int
    gpa: int
    size: int
    range: Range
    ram: Slot | None
    """None where a device claims the address, or nobody has it."""


@define(eq=False)
class RawRun:
    """One instruction under way; `pages` caches its translations by (linear page, intent, system)."""

    machine: Machine
    exit: RawExit
    platform: Platform
    pages: dict[tuple[int, Intent, bool], int] = field(factory=dict)
    writes: list[tuple[int, bytes]] = field(factory=list)
    """To RAM that only the hypervisor reaches."""
    confirmed: bool = False
    """The instruction touches the page that the exit names, or the exit names none."""

    def run(self, rep_bound: int) -> Run:
        """Decode and execute."""
        if self.exit.event_delivery:
            return Refused(Refusal.EVENT_DELIVERY)
        self.confirmed = self.exit.gpa is None
        try:
            plan = self._plan()
        except GuestFault as fault:
            return _fault(fault)
        except Suspend as stop:
            return stop.completion
        if not isinstance(plan, Plan):
            return plan
        return (yield from self._drive(plan, rep_bound))

    def _drive(self, plan: Plan, rep_bound: int) -> Run:
        steps = plan.run(self.exit.state, rep_bound)
        try:
            step = next(steps)
            while True:
                try:
                    answer = yield from self._perform(step)
                except (GuestFault, Suspend) as stop:
                    step = steps.throw(stop)
                else:
                    step = steps.send(answer)
        except StopIteration as finished:
            if not self.confirmed:
                return Refused(Refusal.ADDRESS_MISMATCH)
            finished.value.memory.extend(self.writes)
            return Done(finished.value)
        except GuestFault as fault:
            if fault.delta is not None:
                fault.delta.memory.extend(self.writes)
            return _fault(fault)
        except Suspend as stop:
            return stop.completion

    def _perform(self, step: Step) -> Waiting:
        if isinstance(step, Probe):
            self._probe(step.address, step.size, step.intent)
            return 0
        if not self.confirmed and not isinstance(step, ReadSystem):  # that comes before all probes
            raise Suspend(Refused(Refusal.ADDRESS_MISMATCH))
        return (yield from _PERFORM[type(step)](self, step))

    # --- instruction bytes ----------------------------------------------------------------

    def _plan(self) -> Plan | Completion:
        """The plan of the instruction, or the completion that says why there is none."""
        mode = mode_of(self.exit.state)
        code = self.exit.code
        while True:
            outcome = decode(code, mode)
            if isinstance(outcome, Plan):
                return outcome
            if isinstance(outcome, NotSupported):
                return Unsupported(code)
            if isinstance(outcome, Undefined):
                return Fault(outcome.vector, outcome.error_code)
            code += self._fetch(code_address(self.exit.state, mode, len(code)), len(code), outcome)

    def _fetch(self, address: int, have: int, need: NeedMore) -> bytes:
        """Instruction bytes from guest RAM, to the end of the page at most."""
        gpa = self._translate(address, Intent.EXECUTE)
        room = min(MAX_CODE - have, PAGE - address % PAGE)
        slot = self.machine.memory.find(gpa)
        if slot is None:
            raise Suspend(Refused(Refusal.MMIO_FETCH))
        if slot.storage is None:
            raise Suspend(NeedBytes(address, min(need.count, room)))
        return slot.storage.read(gpa - slot.gpa, min(room, slot.end - gpa))

    # --- from linear to physical ------------------------------------------------------------

    def _translate(self, address: int, intent: Intent, *, system: bool = False) -> int:
        """The guest-physical address of a linear one.

        Raises:
            GuestFault: the walk ended in a page fault.
            Suspend: only the hypervisor can tell.
        """
        linear = address & -PAGE
        page = self.pages.get((linear, intent, system))
        if page is None and intent == Intent.READ:
            # A read-modify-write was probed as a write.
            page = self.pages.get((linear, Intent.WRITE, system))
        if page is None:
            page = self.pages[linear, intent, system] = self._page(address, intent, system=system)
        return page | address % PAGE

    def _page(self, address: int, intent: Intent, *, system: bool) -> int:
        exit_, platform = self.exit, self.platform
        page = exit_.translations.get((address & -PAGE, intent))
        if page is None:
            page = self._named_by_exit(address, intent)
        if page is None:
            found = walk(
                exit_.state,
                address,
                intent,
                self._read_table,
                system=system,
                physical_bits=platform.physical_bits,
                encryption_mask=platform.shared_mask,
            )
            if isinstance(found, GuestFault):
                raise found
            if isinstance(found, NeedTranslation):
                raise Suspend(found)
            page = found
        page &= -PAGE & ~platform.shared_mask
        if exit_.gpa is not None and page == exit_.gpa & -PAGE & ~platform.shared_mask:
            self.confirmed = True
        return page

    def _named_by_exit(self, address: int, intent: Intent) -> int | None:
        """The page that the hardware reported together with its address, if it is this one."""
        exit_ = self.exit
        if exit_.gva is None or exit_.gpa is None or address // PAGE != exit_.gva // PAGE:
            return None
        # A page that could be written can be read; the reverse has to be walked.
        return (
            exit_.gpa if exit_.intent in {None, intent, Intent.WRITE} and intent != Intent.EXECUTE else None
        )

    def _read_table(self, gpa: int, size: int) -> int | None:
        slot = self.machine.memory.find(gpa)
        if slot is None or slot.storage is None or gpa + size > slot.end:
            return None
        return int.from_bytes(slot.storage.read(gpa - slot.gpa, size), "little")

    def _fragments(self, address: int, size: int, intent: Intent, *, system: bool = False) -> list[Fragment]:
        """An operand's parts, low to high: cut at pages, and where another range begins."""
        taken = min(size, PAGE - address % PAGE)
        fragments = self._within_page(0, self._translate(address, intent, system=system), taken)
        if taken < size:
            gpa = self._translate(self._after(address, taken), intent, system=system)
            fragments += self._within_page(8 * taken, gpa, size - taken)
        return fragments

    def _after(self, address: int, count: int) -> int:
        """The linear address `count` bytes behind: outside of 64-bit code it wraps at 4 GiB."""
        return (address + count) % (1 << (64 if mode_of(self.exit.state) == Mode.CODE64 else 32))

    def _within_page(self, shift: int, gpa: int, size: int) -> list[Fragment]:
        slot = self.machine.memory.find(gpa)
        return [
            Fragment(shift + 8 * (at - gpa), at, taken, found, slot if found.claim is None else None)
            for found, at, taken in self.machine.pieces(Space.MMIO, gpa, size)
        ]

    # --- steps ------------------------------------------------------------------------------

    def _probe(self, address: int, size: int, intent: Intent) -> None:
        """Make sure that an operand can be accessed: nothing may stop the instruction later."""
        fragments = self._fragments(address, size, intent)
        if any(fragment.ram is None and fragment.range.forwards for fragment in fragments):
            raise Suspend(Forward())
        if intent == Intent.READ:
            self._check_supplied(fragments)

    def _check_supplied(self, fragments: list[Fragment]) -> None:
        """Ask for RAM that only messages reach before any part of the operand is read."""
        for fragment in fragments:
            if fragment.ram is not None and fragment.ram.storage is None:
                self._supplied(fragment.gpa, fragment.size)

    def _supplied(self, gpa: int, size: int) -> bytes:
        """RAM as the hypervisor has it: without what this run is going to write there."""
        if any(start < gpa + size and gpa < start + len(data) for start, data in self.writes):
            raise Suspend(NeedMemory(gpa, size))
        for start, data in self.exit.memory:
            if start <= gpa and gpa + size <= start + len(data):
                return data[gpa - start : gpa - start + size]
        raise Suspend(NeedMemory(gpa, size))

    def _read(self, step: Read) -> Waiting:
        fragments = self._fragments(step.address, step.size, Intent.READ)
        self._check_supplied(fragments)
        return (yield from self._load(fragments))

    def _read_system(self, step: ReadSystem) -> Waiting:
        return (yield from self._load(self._fragments(step.address, step.size, Intent.READ, system=True)))

    def _write(self, step: Write) -> Waiting:
        return (yield from self._store(self._fragments(step.address, step.size, Intent.WRITE), step.value))

    def _compare_and_swap(self, step: Cas) -> Waiting:
        """The write of a locked instruction, whose read came just before.

        A device is accessed from the core only, so nothing can have come in between, and
        reading it again could have an effect; RAM may have been changed by another vCPU.
        """
        fragments = self._fragments(step.address, step.size, Intent.WRITE)
        found = step.old
        if all(fragment.ram for fragment in fragments):
            found = yield from self._load(fragments)
        if found == step.old:
            yield from self._store(fragments, step.new)
        return found

    def _in(self, step: In) -> Waiting:
        self._check_port(step)
        return (yield from transact(self.machine, Space.PIO, step.port, step.size, READ, 0))

    def _out(self, step: Out) -> Waiting:
        self._check_port(step)
        return (yield from transact(self.machine, Space.PIO, step.port, step.size, WRITE, step.value))

    def _check_port(self, step: In | Out) -> None:
        if any(found.forwards for found, _, _ in self.machine.pieces(Space.PIO, step.port, step.size)):
            raise Suspend(Forward())

    def _load(self, fragments: list[Fragment]) -> Waiting:
        total = 0
        for part in fragments:
            gpa, size, ram = part.gpa, part.size, part.ram
            if ram is None:
                value = yield from _within(self.machine, part.range, gpa, size, READ, 0)
            elif ram.storage is None:
                value = int.from_bytes(self._supplied(gpa, size), "little")
            else:
                value = int.from_bytes(ram.storage.read(gpa - ram.gpa, size), "little")
            total |= value << part.shift
        return total

    def _store(self, fragments: list[Fragment], value: int) -> Waiting:
        for part in fragments:
            gpa, size, ram = part.gpa, part.size, part.ram
            taken = value >> part.shift & ones(size)
            if ram is None:
                yield from _within(self.machine, part.range, gpa, size, WRITE, taken)
            elif ram.storage is None:
                self.writes.append((gpa, taken.to_bytes(size, "little")))
            elif not ram.read_only:
                ram.storage.write(gpa - ram.gpa, taken.to_bytes(size, "little"))
        return 0


_PERFORM: Final[dict[type, Callable[..., Waiting]]] = {
    Read: RawRun._read,  # noqa: SLF001
    ReadSystem: RawRun._read_system,  # noqa: SLF001
    Write: RawRun._write,  # noqa: SLF001
    Cas: RawRun._compare_and_swap,  # noqa: SLF001
    In: RawRun._in,  # noqa: SLF001
    Out: RawRun._out,  # noqa: SLF001
}


def _fault(fault: GuestFault) -> Fault:
    return Fault(fault.vector, fault.error_code, fault.cr2, fault.delta)
