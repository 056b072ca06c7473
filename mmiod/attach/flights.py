"""The exits of one session that are under way: started, held up by devices, completed.

Per vCPU things happen in the order in which they came: one exit at a time, and behind
a posted write that a device holds up everything later waits.

In virtual time a backend takes none: while a request is under way what arrives waits, time
stands, and the reply always comes at the same instruction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from time import monotonic_ns
from typing import Final, Protocol

from attrs import define, field

from mmiod.attach.sourced import answered
from mmiod.core.pump import Pump
from mmiod.core.run import Platform, run
from mmiod.errors import ProtocolError
from mmiod.machine.clock import MAX_FIRED, NEVER
from mmiod.machine.machine import Machine
from mmiod.machine.statistics import Taken
from mmiod.machine.waist import Named
from mmiod.protocol.exit import (
    NO_DEADLINE,
    NUMBERS,
    Answer,
    Ledger,
    PostedWrite,
    Reply,
    SourceExit,
    encode_completion,
)
from mmiod.protocol.sources import Settled, Source
from mmiod.values import (
    Access,
    AcknowledgeExit,
    DecodedExit,
    Exit,
    HaltExit,
    RawExit,
    Retry,
    TickExit,
    Unsupported,
    Values,
)

MAX_BACKLOG: Final = 256
"""Posted writes of one vCPU that may wait behind one that a device holds up."""
TIMERS_PER_TURN: Final = 1000
"""Timers that a halted VM in virtual time fires before others get their turn."""
NOBODY: Final = -1
"""No vCPU: whoever rang."""
NO_VECTOR: Final = 0xFF
"""What an acknowledge cycle reads if no interrupt controller answers it."""

Running = Generator[Named, int | None, Answer]
"""A run of `mmiod.core.run`, or of what a source has settled."""


class ReplyTo(Protocol):
    """Where an exit came from: a connection or a slot."""

    def send(self, data: bytes, /) -> None:
        """Give it its completion."""


@define(eq=False)
class Flight:
    """One exit, or one posted write, between its arrival and its completion."""

    vcpu: int
    sequence: int
    exit: Exit | Settled
    guest_ns: int
    reply_to: ReplyTo | None
    """None for a posted write."""
    arrived: SourceExit | None = None
    """The source's own, from which `exit` was read."""
    run: Running | None = None
    waits_for: Named | None = None
    """A device, or a break's stop."""
    since_ns: int = field(factory=monotonic_ns)
    dropped: bool = False


@define(eq=False)
class Totals:
    """What happened since power-on."""

    exits: dict[str, int] = field(factory=dict)
    completions: dict[str, int] = field(factory=dict)
    unsupported: dict[bytes, int] = field(factory=dict)
    """By instruction bytes, at most `MAX_UNSUPPORTED` kinds."""
    taken: Taken = field(factory=Taken)
    """Of the flat lane, until `fold`."""

    def fold(self) -> Totals:
        """Enter what the flat lane has counted; gives all of it."""
        for exit_, completion, count in (
            ("DecodedExit", "Values", self.taken.decoded),
            ("RawExit", "Done", self.taken.raw),
        ):
            if count:
                self.exits[exit_] = self.exits.get(exit_, 0) + count
                self.completions[completion] = self.completions.get(completion, 0) + count
        self.taken.decoded = self.taken.raw = 0
        return self

    def count(self, exit_: Exit | Settled, completion: Answer) -> None:
        """One exit is completed."""
        for table, thing in ((self.exits, exit_), (self.completions, completion)):
            name = type(thing).__name__
            table[name] = table.get(name, 0) + 1
        if isinstance(completion, Unsupported):
            known = self.unsupported.get(completion.code, 0)
            if known or len(self.unsupported) < MAX_UNSUPPORTED:
                self.unsupported[completion.code] = known + 1


MAX_UNSUPPORTED: Final = 1024


@define(eq=False)
class Flights:
    """All flights of a session."""

    machine: Machine
    pump: Pump
    ledger: Ledger
    platform: Platform
    rep_bound: int
    virtual: bool
    """The client's exits drive the clock."""
    source: Source | None = None
    """Who lays out the exits that come as EXIT_SOURCE."""
    current: dict[int, Flight] = field(factory=dict)
    totals: Totals = field(factory=Totals)
    _backlog: dict[int, deque[Flight]] = field(factory=dict)
    _waiting: dict[Named, deque[Flight]] = field(factory=dict)
    _seen: set[int] = field(factory=set)
    """vCPUs that have run: the others wait to be started and do not keep a halt from ending."""
    _arrived: deque[Flight] = field(factory=deque)
    """What came while virtual time stood."""
    _skips: bool = False
    """All vCPUs halt, and virtual time stands before it has come to the next timer."""

    def exit(
        self,
        exit_: Exit | Settled,
        guest_ns: int,
        reply_to: ReplyTo,
        arrived: SourceExit | None = None,
    ) -> None:
        """A new exit has come, perhaps read from a source's."""
        self._seen.add(exit_.vcpu)
        self._arrive(Flight(exit_.vcpu, exit_.sequence, exit_, guest_ns, reply_to, arrived))

    def posted(self, write: PostedWrite) -> None:
        """A posted write has come, to be applied."""
        exit_ = _alone(write.vcpu, write.sequence, write.access)
        self._arrive(Flight(write.vcpu, write.sequence, exit_, write.guest_ns, None))

    def rung(self, write: Access) -> None:
        """A doorbell was rung; one that waits behind a device already stands for this one, too."""
        exit_ = _alone(NOBODY, 0, write)
        if all(waiting.exit != exit_ for waiting in self._backlog.get(NOBODY, ())):
            self._arrive(Flight(NOBODY, 0, exit_, 0, None))

    def owed(self, flight: Flight, host: Named) -> None:
        """The flat lane has begun an exit or a posted write that waits for a device."""
        assert flight.run is not None
        self.current[flight.vcpu] = flight
        flight.waits_for = next(flight.run)
        self._waiting.setdefault(host, deque()).append(flight)

    def redirect(self, vcpu: int, reply_to: ReplyTo) -> None:
        """A resend of the exit in flight: its completion goes where it came from.

        The exit may wait behind posted writes, which are not replied to.
        """
        for flight in (*self.current.values(), *self._backlog.get(vcpu, ()), *self._arrived):
            if flight.vcpu == vcpu and flight.reply_to is not None:
                flight.reply_to = reply_to

    def drop(self, vcpu: int | None) -> None:
        """A reset of one vCPU or of all: what is under way ends, with RETRY for who waits for it."""
        under_way = (*self.current.values(), *self._arrived)
        ending = [flight for flight in under_way if vcpu is None or flight.vcpu == vcpu]
        self._arrived = deque(flight for flight in self._arrived if flight not in ending)
        for flight in ending:
            for ended in (flight, *self._backlog.pop(flight.vcpu, ())):
                ended.dropped = True
                self.current[ended.vcpu] = ended
                self._finish(ended, Retry())
        if vcpu is None:
            self._waiting.clear()  # the machine's reset made all devices forget what they owe

    def drain(self) -> None:
        """Go on with what devices have answered meanwhile, and with what waited for backends."""
        self._settle()
        while self._arrived and not self._stands():
            flight = self._arrived.popleft()
            self._pass_time(flight.guest_ns)
            self._queue(flight)
        if self._skips and not self._stands():
            self._skip_time()

    def _settle(self) -> None:
        settled = self.machine.settled
        while settled:
            host, value = settled.pop(0)
            queue = self._waiting.pop(host, deque())
            owed = queue.popleft() if queue else None
            if owed is not None and not owed.dropped:
                self._resume(owed, value)
            for flight in queue:
                if not flight.dropped:
                    self._resume(flight, None)

    def interrupted(self, vcpu: int) -> None:
        """An interrupt is pending now: a halt ends."""
        flight = self.current.get(vcpu)
        if flight is not None and isinstance(flight.exit, HaltExit):
            self._finish(flight, Values())

    def held_up(self) -> Iterator[Flight]:
        """What waits for a device."""
        return (flight for flight in self.current.values() if flight.waits_for is not None)

    # --- under way -------------------------------------------------------------------------

    def _stands(self) -> bool:
        """Whether virtual time waits for a backend."""
        return self.virtual and any(port.busy for port in self.machine.services.values())

    def _arrive(self, flight: Flight) -> None:
        if not self._stands():
            self._pass_time(flight.guest_ns)
            self._queue(flight)
        elif len(self._arrived) < MAX_BACKLOG:
            self._arrived.append(flight)
        else:
            reason = f"{MAX_BACKLOG} exits and posted writes wait for a backend"
            raise ProtocolError(NUMBERS["error"]["LIMIT"], "exit.sequence", flight.sequence, reason)

    def _pass_time(self, guest_ns: int) -> None:
        if self.virtual:
            if not self.machine.clock.advance_to(guest_ns):
                reason = f"more than {MAX_FIRED} timers are due on the way"
                raise ProtocolError(NUMBERS["error"]["LIMIT"], "exit.guest_ns", guest_ns, reason)
        else:
            self.machine.clock.fire_due()
        self._settle()

    def _queue(self, flight: Flight) -> None:
        if flight.vcpu not in self.current:
            self._start(flight)
            return
        backlog = self._backlog.setdefault(flight.vcpu, deque())
        if len(backlog) >= MAX_BACKLOG:
            reason = f"{MAX_BACKLOG} posted writes wait behind one that a device holds up"
            raise ProtocolError(NUMBERS["error"]["LIMIT"], "posted.exit.sequence", flight.sequence, reason)
        backlog.append(flight)

    def _start(self, flight: Flight) -> None:
        self.current[flight.vcpu] = flight
        exit_ = flight.exit
        if isinstance(exit_, DecodedExit | RawExit):
            flight.run = run(self.machine, exit_, self.platform, self.rep_bound)
            self._resume(flight, None)
            self._settle()
        elif isinstance(exit_, Settled):
            flight.run = self._settling(exit_)
            self._resume(flight, None)
            self._settle()
        elif isinstance(exit_, HaltExit):
            self._halt(flight)
        elif isinstance(exit_, AcknowledgeExit):
            vector = self.machine.acknowledge(flight.vcpu)
            self._finish(flight, Values(bytes([NO_VECTOR if vector is None else vector])))
        elif isinstance(exit_, TickExit):
            self._finish(flight, Values())

    def _settling(self, settled: Settled) -> Running:
        for write in settled.posted:
            exit_ = _alone(settled.vcpu, settled.sequence, write)
            yield from run(self.machine, exit_, self.platform, self.rep_bound)
        return settled.answer

    def _resume(self, flight: Flight, value: int | None) -> None:
        assert flight.run is not None
        cause = self.machine.cause
        cause.vcpu, cause.sequence = flight.vcpu, flight.sequence
        cause.pc = flight.exit.state.rip if isinstance(flight.exit, RawExit) else -1
        cause.posted = flight.reply_to is None
        try:
            flight.waits_for = flight.run.send(value)
        except StopIteration as finished:
            flight.waits_for = None
            self._finish(flight, finished.value)
        else:
            self._waiting.setdefault(flight.waits_for, deque()).append(flight)
        finally:
            cause.vcpu, cause.sequence, cause.pc, cause.posted = -1, 0, -1, False

    def _finish(self, flight: Flight, completion: Answer) -> None:
        vcpu = flight.vcpu
        self.totals.count(flight.exit, completion)
        del self.current[vcpu]
        if flight.reply_to is not None:
            reply = encode_completion(
                self._answer(flight, completion),
                vcpu=vcpu,
                sequence=flight.sequence,
                posted=self.ledger.posted(vcpu),
                interrupt=self.machine.interrupts.get(vcpu, False),
                guest_ns=self.machine.clock.now_ns if self.virtual else 0,
                deadline_ns=self.machine.clock.deadline_ns if self.virtual else NO_DEADLINE,
            )
            self.ledger.complete(vcpu, reply)
            flight.reply_to.send(reply)
        backlog = self._backlog.get(vcpu)
        if backlog:
            self._start(backlog.popleft())

    def _answer(self, flight: Flight, completion: Answer) -> Answer:
        exit_ = flight.exit
        if flight.arrived is None or isinstance(exit_, Settled) or isinstance(completion, Reply):
            return completion
        return answered(self.source, flight.arrived, exit_, completion, self.machine.memory)

    def _halt(self, flight: Flight) -> None:
        if self.machine.interrupts.get(flight.vcpu, False):
            self._finish(flight, Values())
        elif self.virtual and self.machine.interrupts:
            self._skip_time()

    def _skip_time(self) -> None:
        """Nothing runs: virtual time goes to the next timer, until one interrupts a vCPU."""
        clock = self.machine.clock
        for _ in range(TIMERS_PER_TURN):
            halted = self._all_halted() and clock.deadline_ns != NEVER
            self._skips = halted and self._stands()
            if self._skips or not halted:
                return
            arrived = clock.advance_to(clock.deadline_ns, TIMERS_PER_TURN)
            self._settle()
            if not arrived:
                break
        self.pump.soon(self._skip_time)

    def _all_halted(self) -> bool:
        flights = [self.current.get(vcpu) for vcpu in self._seen]
        return all(flight is not None and isinstance(flight.exit, HaltExit) for flight in flights)


def _alone(vcpu: int, sequence: int, write: Access) -> DecodedExit:
    """A write that is an exit of its own."""
    data = write.value.to_bytes(write.size, "little")
    return DecodedExit(vcpu, sequence, write.space, write.direction, write.address, write.size, data=data)
