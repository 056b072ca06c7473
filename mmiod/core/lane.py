"""The flat lane: an access of one device's register, without a detour.

It does what `machine.access` and the host's waist do (`mmiod.machine.host`, the specification), for
the accesses that nearly all are: within one region of a device in this process, of a size that the
region takes as it is.  Before any effect it answers SLOW to everything else, and the general way
does it; a property test holds both to the same results, journal, record and statistics included.

Budget, in ns of CPython 3.11 on the machine of docs/performance.md, of a read of a plain register:

     70  whether the device serves, owes nothing, is the one that the place was made for
     90  the cause of what happens now, for records and for what the device does in turn
     90  journal: the input (a constant of the place), the end mark, the limit
    120  the mark that the watchdog looks at, and the number that outlives the process
    320  the register: value, rules, hooks
     90  clock: before and behind the hook
    110  counters and the latency's bucket
    230  one record, of 16 fields
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from mmiod.core.places import Place, place_of
from mmiod.device import PENDING, Pending
from mmiod.machine.journal import DONE, LIMIT
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.waist import Owed
from mmiod.values import Direction, Space

if TYPE_CHECKING:
    from mmiod.device.dispatch import Claimant

SLOW: Final = -1
"""Nothing was done: take the general way."""
MAX_PLACES: Final = 4096
_LAST_BUCKET: Final = 39


@define(eq=False)
class Lane:
    """One machine's."""

    machine: Machine
    places: dict[tuple[Space, Direction, int], dict[int, Place]] = field(factory=dict)
    """By kind of access, then by address."""
    _count: int = 0

    def forget(self) -> None:
        """The map has changed."""
        for known in self.places.values():
            known.clear()
        self._count = 0

    def kind(self, space: Space, direction: Direction, size: int) -> dict[int, Place]:
        """The places of one kind of access, to be kept and looked into."""
        return self.places.setdefault((space, direction, size), {})

    def learn(self, space: Space, direction: Direction, size: int, address: int) -> Place | None:
        """Make the place at an address known, if it is plain."""
        place = self._place(space, direction, size, address)
        if place is not None:
            if self._count >= MAX_PLACES:
                self.forget()
            self.kind(space, direction, size)[address] = place
            self._count += 1
        return place

    def _place(self, space: Space, direction: Direction, size: int, address: int) -> Place | None:
        found = self.machine.find(space, address)
        claim = found.claim
        if claim is None or address + size > found.end:
            return None
        return place_of(claim.host, claim.region, claim.offset(address), size, direction, (space, address))

    def _bank(self, place: Place) -> Claimant | None:
        """The register that is meant now; raises whatever the device's predicates raise."""
        mark, host = self.machine.mark, place.host
        answerer = host.device.answerers[place.region]
        mark.name, mark.since_ns = host.name, perf_counter_ns()
        mark.serial += 1
        try:
            return answerer.at(place.device, place.offset, place.direction, place.size)
        finally:
            mark.serial += 1
            mark.since_ns = 0

    def access(  # noqa: C901, PLR0912, PLR0915  # flat: a call would cost as much as ten of its lines
        self, place: Place, value: int, vcpu: int, sequence: int, pc: int
    ) -> int | Pending:
        """One access: the value of a read, 0 for a write, PENDING, or SLOW."""
        machine, host = self.machine, place.host
        journal = host.journal
        entries, mark = journal.entries, machine.mark
        noted = len(entries)
        if (
            host.owes is not None
            or host.failure is not None
            or host.device is not place.device
            or noted + journal.weight > LIMIT  # it may be cut
            or machine.settled
        ):
            return SLOW
        now = machine.clock.glance()
        if now < 0:
            return SLOW
        cause = machine.cause
        cause.vcpu, cause.sequence, cause.pc = vcpu, sequence, pc
        cause.space, cause.address = place.space, place.address
        register, hook, arguments = place.register, place.hook, place.arguments
        if register is None:
            try:
                bank = self._bank(place)
            except (Exception, HookDeadlineExceeded):  # noqa: BLE001  # the general way meets it again
                machine.mark.since_ns = 0
                return SLOW
            register = bank.name if bank is not None else ""
            known = place.banks.get(bank) if bank is not None else None
            if known is not None:
                hook, arguments = known, (place.device,)
        statistics = host.statistics
        reading = place.reading
        if reading:
            statistics.reads += 1
            entry = place.entry
        else:
            statistics.writes += 1
            entry = (place.entry[0], (*place.entry[1], value))
            arguments = (*arguments, value)
        # --- the input: `Serving.feed` and `guarded` ---
        journal.last, journal.depth = noted, 1
        running = mark.running
        running[0] = host.number
        entries.append(entry)
        started = perf_counter_ns()
        mark.name, mark.since_ns = host.name, started
        mark.serial += 1
        try:
            try:
                answer = hook(*arguments)
                if place.settles:
                    place.device.on_settle()
            finally:
                mark.serial += 1
                mark.since_ns = 0
        except (Exception, HookDeadlineExceeded) as error:  # noqa: BLE001  # a plugin may raise anything
            mark.serial += 1
            mark.since_ns = 0
            host.quarantine(error)
            answer = place.ones if reading else None
        host = place.host  # for mypy: the hook may have changed it
        journal.depth = running[0] = 0
        entries.append(DONE)
        if host.failure is not None:
            journal.refuse()
        elif machine.page is not None:
            machine.page.look(host.name)
        # --- the answer: `InlineHost._one` and `access` ---
        ns = perf_counter_ns() - started
        bucket = ns.bit_length()
        statistics.latency[bucket if bucket < _LAST_BUCKET else _LAST_BUCKET] += 1  # noqa: FURB136  # half of min()
        if reading:
            if type(answer) is int and 0 <= answer <= place.ones:
                value = answer
            else:
                answer = value = self._odd(place, answer)
        elif answer is not None:
            answer = self._odd(place, answer)
        if answer is PENDING:
            host.owes = Owed(place.direction, place.size, 0 if reading else value, register, started)
            if machine.page is not None:
                machine.page.withdraw(host.name)  # posted writes wait behind it
            cause.vcpu, cause.sequence, cause.pc = -1, 0, -1
            return answer
        if host.failure is not None:
            status = "quarantined"
            if reading:
                value = place.ones
        else:
            status = "ok"
        # The numbers of space and direction, no members: a tuple of plain values is none of the collector's.
        machine.recorder(
            (
                now + ns, machine.name, vcpu, sequence, place.space_number, place.direction_number,
                place.address, place.size, value, host.name, host.generation, register, status, ns, pc, 1,
            )
        )  # fmt: skip
        cause.vcpu, cause.sequence, cause.pc = -1, 0, -1
        return value if reading else 0

    def _odd(self, place: Place, answer: object) -> Any:  # noqa: ANN401  # an int, or PENDING
        """No plain answer: PENDING, a bool or the like, or a mistake."""
        if isinstance(answer, Pending):
            return answer
        if place.reading and isinstance(answer, int) and 0 <= answer <= place.ones:
            return answer
        kind = "read" if place.reading else "write"
        place.host.quarantine(TypeError(f"a {kind} of {place.size} bytes was answered by {answer!r}"))
        return place.ones
