"""The flat lane: an access of one device's register, without a detour.

It does what `machine.access` and the host's waist do (`mmiod.machine.host`, the specification), for
the accesses that nearly all are: within one region of a device in this process, of a size that the
region takes as it is.  Before any effect it answers SLOW to everything else, and the general way
does it; a property test holds both to the same results, journal, record and statistics included.

Budget, in ns on the machine of docs/performance.md, compiled (in brackets as Python): of a read of
what is stored, which runs nothing, and of a write (`make bench ARGS="--only in-process"`).

       stored      other
    340 (590)  1250 (1600)  all of it
           60          120  the clock: for the timers, the watchdog and the latency
                       160  cause: for records, and for what the device does in turn
                        60  journal: the input, with its value, and the end mark
                       150  the mark that the watchdog looks at, and the number that outlives the process
           40          150  the register: its value, or its hook (`mmiod.device.prepared`)
           30          130  counters, and the latency's bucket
                       320  what is published of the device, if none of its rows moves by itself
           90           90  one record, of 16 fields

The rest is fields of attrs classes: 15 ns each in C, where the interpreter has them in 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from mmiod.core.places import Hook, Place, place_of
from mmiod.device import PENDING, Pending
from mmiod.machine.journal import DONE, LIMIT
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.waist import Owed
from mmiod.values import Direction, Space

if TYPE_CHECKING:
    from mmiod.device.dispatch import Claimant
    from mmiod.machine.address_map import Stretch

SLOW: Final = -1
"""Nothing was done: take the general way."""
MAX_PLACES: Final = 4096


class Lane:
    """One machine's.  A plain class: `mmiod.compiled` makes a C structure of it.

    What an access would have to look up at the machine each time is kept: it is the machine's all its life.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.places: dict[tuple[Space, Direction, int], dict[int, Place]] = {}
        """By kind of access, then by address."""
        self.learnt: Sequence[dict[bytes, Any]] = ()
        """What else was made of places; it is forgotten with them."""
        self._count = 0
        self._clock, self._monotonic = machine.clock, machine.clock.monotonic
        self._cause, self._mark, self._settled = machine.cause, machine.mark, machine.settled
        self._record, self._name = machine.recorder, machine.name

    def forget(self) -> None:
        """The map has changed."""
        for known in self.places.values():
            known.clear()
        self._unlearn()
        self._count = 0

    def forget_at(self, moved: Iterable[Stretch]) -> None:
        """Others may answer there now."""
        before = self._count
        for at in moved:
            for (space, _, size), known in self.places.items():
                if space == at.space:
                    for address in [each for each in known if at.start - size < each < at.end]:
                        del known[address]
                        self._count -= 1
        if self._count < before:
            self._unlearn()

    def _unlearn(self) -> None:
        for more in self.learnt:
            more.clear()

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
        mark, host = self._mark, place.host
        answerer = host.device.answerers[place.region]
        mark.name, mark.since_ns = host.name, self._monotonic()
        mark.serial += 1
        try:
            return answerer.at(place.device, place.offset, place.direction, place.size)
        finally:
            mark.serial += 1
            mark.since_ns = 0

    def read(self, place: Place, vcpu: int, sequence: int, pc: int) -> int | Pending:
        """A read by the shortest way: the value, PENDING, or SLOW."""
        if place.stored:
            return self.read_stored(place, vcpu, sequence, pc)
        return self.access(place, 0, vcpu, sequence, pc)

    def _serves(self, place: Place, now: int) -> bool:
        """Whether the device answers at once, is the one that the place was made for, and no timer is due."""
        host = place.host
        return (
            host.owes is None
            and host.failure is None
            and host.device is place.device
            and now < self._clock.quiet_until
            and not self._settled
        )

    def read_stored(self, place: Place, vcpu: int, sequence: int, pc: int) -> int:
        """A read of what is stored: the value, or SLOW.

        No hook runs, so that there is no mark, no journal, no time, and nothing new to publish.
        """
        now = self._monotonic()
        if not self._serves(place, now):
            return SLOW
        value = int(place.device.values[place.stored_as]) & place.stored  # perhaps an IntFlag
        place.statistics.reads += 1
        place.statistics.latency[0] += 1
        self._record(
            (
                now - self._clock.origin_ns, self._name, vcpu, sequence, place.space_number, 0,
                place.address, place.size, value, place.name, place.host.generation, place.stored_as, "ok",
                0, pc, 1,
            )
        )  # fmt: skip
        return value

    def access(self, place: Place, value: int, vcpu: int, sequence: int, pc: int) -> int | Pending:
        """One access: the value of a read, 0 for a write, PENDING, or SLOW."""
        if place.stored:
            return self.read_stored(place, vcpu, sequence, pc)
        # One look at the clock is for the timers, the watchdog and the latency.
        started = self._monotonic()
        noted = len(place.journal.entries)
        if not self._serves(place, started) or noted + place.journal.weight > LIMIT:  # it may be cut
            return SLOW
        cause = self._cause
        cause.vcpu, cause.sequence, cause.pc = vcpu, sequence, pc
        cause.space, cause.address = place.space, place.address
        register, hook = place.register, place.hook
        if register is None:
            try:
                bank = self._bank(place)
            except (Exception, HookDeadlineExceeded):  # noqa: BLE001  # the general way meets it again
                self._mark.since_ns = 0
                return SLOW
            register = ""
            if bank is not None:
                register, hook = bank.name, place.banks.get(bank, hook)
        self._note(place, value, noted)
        answer = self._run(place, hook, value, started)
        self._end(place)
        answer = self._answer(place, value, register, answer, started)
        cause.vcpu, cause.sequence, cause.pc = -1, 0, -1
        return answer

    def _note(self, place: Place, value: int, noted: int) -> None:
        """The input begins: `Serving.feed`."""
        journal = place.journal
        journal.last, journal.depth = noted, 1
        self._mark.running[0] = place.host.number
        if place.reading:
            place.statistics.reads += 1
            journal.entries.append(place.entry)
        else:
            place.statistics.writes += 1
            kind, arguments = place.entry
            journal.entries.append((kind, (*arguments, value)))

    def _run(self, place: Place, hook: Hook, value: int, started: int) -> object:
        """The hook, under the eyes of the watchdog: `guarded`."""
        mark = self._mark
        mark.name, mark.since_ns = place.name, started
        mark.serial += 1
        try:
            try:
                answer: object = hook() if place.reading else hook(value)
                if place.settle is not None:
                    place.settle()
                if mark.struck:
                    mark.flinch()
            finally:
                mark.serial += 1
                mark.since_ns = 0
        except (Exception, HookDeadlineExceeded) as error:  # noqa: BLE001  # a plugin may raise anything
            mark.serial += 1
            mark.since_ns = 0
            place.host.quarantine(error)
            return place.ones if place.reading else None
        return answer

    def _end(self, place: Place) -> None:
        """The input is over."""
        journal, page = place.journal, self.machine.page
        journal.depth = self._mark.running[0] = 0
        journal.entries.append(DONE)
        if place.host.failure is not None:
            journal.refuse()
        elif page is not None:
            page.look(place.name)

    def _answer(self, place: Place, value: int, register: str, answer: object, started: int) -> int | Pending:
        """What the device said: `InlineHost._one` and `access`."""
        host, cause, ended = place.host, self._cause, self._monotonic()
        ns = ended - started
        place.statistics.took(ns)
        if not place.reading:
            if answer is not None:
                answer = self._odd(place, answer)
        elif type(answer) is int and 0 <= answer <= place.ones:
            value = answer
        else:
            answer = value = self._odd(place, answer)
        if answer is PENDING:
            host.owes = Owed(place.direction, place.size, 0 if place.reading else value, register, started)
            if self.machine.page is not None:
                self.machine.page.withdraw(place.name)  # posted writes wait behind it
            return PENDING
        status = "ok"
        if host.failure is not None:
            status = "quarantined"
            if place.reading:
                value = place.ones
        # The numbers of space and direction, no members: a tuple of plain values is none of the collector's.
        self._record(
            (
                ended - self._clock.origin_ns, self._name, cause.vcpu, cause.sequence, place.space_number,
                place.direction_number, place.address, place.size, value, place.name, host.generation,
                register, status, ns, cause.pc, 1,
            )
        )  # fmt: skip
        return value if place.reading else 0

    def _odd(self, place: Place, answer: object) -> Any:  # noqa: ANN401  # an int, or PENDING
        """No plain answer: PENDING, a bool or the like, or a mistake."""
        if isinstance(answer, Pending):
            return answer
        if place.reading and isinstance(answer, int) and 0 <= answer <= place.ones:
            return int(answer)  # a bool, a flag: who takes the answer tells PENDING by its class
        kind = "read" if place.reading else "write"
        place.host.quarantine(TypeError(f"a {kind} of {place.size} bytes was answered by {answer!r}"))
        return place.ones
