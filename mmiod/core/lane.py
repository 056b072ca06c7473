"""The flat lane: an access of one device's register, without a detour.

It does what `machine.access` and the host's waist do (`mmiod.machine.host`, the specification), for
the accesses that nearly all are: within one region of a device in this process, of a size that the
region takes as it is.  Before any effect it answers SLOW to everything else, and the general way
does it; a property test holds both to the same results, journal, record and statistics included.

What is called is taken from its object before: a method that is in a slot is slow to call (3.11).

Budget, in ns of CPython 3.11 on the machine of docs/performance.md: of a read of what is stored,
which runs nothing, and of any other access.

    stored  other
       100    100  the clock; whether the device serves, owes nothing, is the one that the place was made for
                90  the cause of what happens now, for records and for what the device does in turn
                90  journal: the input (a constant of the place), the end mark, the limit
               120  the mark that the watchdog looks at, and the number that outlives the process
        40     150  the register: its value, or a hook of its own (`mmiod.device.prepared`)
        50     170  counters; the clock again, and the latency's bucket
                50  what is published of the device, if none of its rows moves by itself
       230     230  one record, of 16 fields
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from mmiod.core.places import Place, place_of
from mmiod.device import PENDING, Pending
from mmiod.machine.clock import MachineClock
from mmiod.machine.journal import DONE, LIMIT
from mmiod.machine.machine import Cause, Machine, Record
from mmiod.machine.mark import HookDeadlineExceeded, Mark
from mmiod.machine.waist import Owed
from mmiod.values import Direction, Space

if TYPE_CHECKING:
    from mmiod.device.dispatch import Claimant
    from mmiod.machine.host import InlineHost
    from mmiod.machine.stop import Stop

SLOW: Final = -1
"""Nothing was done: take the general way."""
MAX_PLACES: Final = 4096
_LAST_BUCKET: Final = 39

Way = Callable[[Place, int, int, int, int], int | Pending]
"""An access of a place: value, vCPU, sequence, PC; see `Lane.access`."""


@define(eq=False)
class Lane:
    """One machine's."""

    machine: Machine
    places: dict[tuple[Space, Direction, int], dict[int, Place]] = field(factory=dict)
    """By kind of access, then by address."""
    learnt: Sequence[dict[bytes, Any]] = ()
    """What else was made of places; it is forgotten with them."""
    _count: int = 0
    _clock: MachineClock = field(init=False)
    _monotonic: Callable[[], int] = field(init=False)
    _cause: Cause = field(init=False)
    _mark: Mark = field(init=False)
    _record: Callable[[Record], None] = field(init=False)
    _settled: list[tuple[InlineHost | Stop, int | None]] = field(init=False)
    _name: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        """What an access would have to look up at the machine each time; it keeps them all its life."""
        machine = self.machine
        self._clock, self._monotonic = machine.clock, machine.clock.monotonic
        self._cause, self._mark, self._settled = machine.cause, machine.mark, machine.settled
        self._record, self._name = machine.recorder, machine.name

    def forget(self) -> None:
        """The map has changed."""
        for known in self.places.values():
            known.clear()
        for more in self.learnt:
            more.clear()
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
        mark, host = self._mark, place.host
        answerer = host.device.answerers[place.region]
        mark.name, mark.since_ns = host.name, self._monotonic()
        mark.serial += 1
        try:
            return answerer.at(place.device, place.offset, place.direction, place.size)
        finally:
            mark.serial += 1
            mark.since_ns = 0

    def way(self, place: Place) -> Way:
        """The shortest way there."""
        return self.read_stored if place.stored else self.access

    def read_stored(self, place: Place, value: int, vcpu: int, sequence: int, pc: int) -> int:
        """A read of what is stored: the value, or SLOW.

        No hook runs, so that there is no mark, no journal, no time, and nothing new to publish.
        """
        host, device = place.host, place.device
        monotonic, record = self._monotonic, self._record
        now = monotonic()
        if (
            host.owes is not None
            or host.failure is not None
            or host.device is not device
            or now >= self._clock.quiet_until
            or self._settled
        ):
            return SLOW
        value = int(device.values[place.stored_as]) & place.stored  # perhaps an IntFlag
        statistics = place.statistics
        statistics.reads += 1
        statistics.latency[0] += 1
        record(
            (
                now - self._clock.origin_ns, self._name, vcpu, sequence, place.space_number, 0,
                place.address, place.size, value, place.name, host.generation, place.stored_as, "ok",
                0, pc, 1,
            )
        )  # fmt: skip
        return value

    def access(  # noqa: C901, PLR0912, PLR0915  # flat: a call would cost as much as ten of its lines
        self, place: Place, value: int, vcpu: int, sequence: int, pc: int
    ) -> int | Pending:
        """One access: the value of a read, 0 for a write, PENDING, or SLOW."""
        if place.stored:
            return self.read_stored(place, 0, vcpu, sequence, pc)
        host = place.host
        monotonic, record = self._monotonic, self._record
        # One look at the clock is for the timers, the watchdog and the latency.
        started = monotonic()
        if (
            host.owes is not None
            or host.failure is not None
            or host.device is not place.device
            or started >= self._clock.quiet_until
            or self._settled
        ):
            return SLOW
        statistics, journal = place.statistics, place.journal
        entries = journal.entries
        noted = len(entries)
        if noted + journal.weight > LIMIT:  # it may be cut
            return SLOW
        cause, mark = self._cause, self._mark
        cause.vcpu, cause.sequence, cause.pc = vcpu, sequence, pc
        cause.space, cause.address = place.space, place.address
        register, hook = place.register, place.hook
        if register is None:
            try:
                bank = self._bank(place)
            except (Exception, HookDeadlineExceeded):  # noqa: BLE001  # the general way meets it again
                mark.since_ns = 0
                return SLOW
            register = ""
            if bank is not None:
                register, hook = bank.name, place.banks.get(bank, hook)
        # --- the input: `Serving.feed` and `guarded` ---
        journal.last, journal.depth = noted, 1
        running = mark.running
        running[0] = host.number
        reading = place.reading
        if reading:
            statistics.reads += 1
            entries.append(place.entry)
        else:
            statistics.writes += 1
            kind, arguments = place.entry
            entries.append((kind, (*arguments, value)))
        mark.name, mark.since_ns = place.name, started
        mark.serial += 1
        try:
            try:
                answer = hook() if reading else hook(value)
                if place.settle is not None:
                    place.settle()
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
        page = self.machine.page
        if host.failure is not None:
            journal.refuse()
        elif page is not None:
            page.look(place.name)
        # --- the answer: `InlineHost._one` and `access` ---
        ended = monotonic()
        ns = ended - started
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
            if page is not None:
                page.withdraw(place.name)  # posted writes wait behind it
            cause.vcpu, cause.sequence, cause.pc = -1, 0, -1
            return answer
        status = "ok"
        if host.failure is not None:
            status = "quarantined"
            if reading:
                value = place.ones
        # The numbers of space and direction, no members: a tuple of plain values is none of the collector's.
        record(
            (
                ended - self._clock.origin_ns, self._name, vcpu, sequence, place.space_number,
                place.direction_number, place.address, place.size, value, place.name, host.generation,
                register, status, ns, pc, 1,
            )
        )  # fmt: skip
        cause.vcpu, cause.sequence, cause.pc = -1, 0, -1
        return value if reading else 0

    def _odd(self, place: Place, answer: object) -> Any:  # noqa: ANN401  # an int, or PENDING
        """No plain answer: PENDING, a bool or the like, or a mistake."""
        if isinstance(answer, Pending):
            return answer
        if place.reading and isinstance(answer, int) and 0 <= answer <= place.ones:
            return int(answer)  # a bool, a flag: who takes the answer tells PENDING by its class
        kind = "read" if place.reading else "write"
        place.host.quarantine(TypeError(f"a {kind} of {place.size} bytes was answered by {answer!r}"))
        return place.ones
