"""Breaks: accesses that stand before anything of them was done, until somebody lets them go on.

A break is a wish: accesses to a device, or to some of its registers, are to stop.  Who makes an
access for a vCPU asks `meet` first, and waits for the `Stop` it gets as for a device that owes an
answer.  Then it makes the access, or takes the answer that somebody gave in the device's place;
so nothing is done twice, and nothing is lost.  Other vCPUs, timers and backends go on.

What cannot wait does not stop: posted writes that are on their way, which is told, and what a
bridge accesses for the guest.  Every stop ends: at its deadline by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Final, Protocol

from attrs import define, field

from mmiod.machine.address_map import Range
from mmiod.machine.clock import MachineClock
from mmiod.machine.host import InlineHost
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.outlet import Outlet
from mmiod.machine.stop import Break, How, Over, Spot, Stop
from mmiod.machine.waist import Origin
from mmiod.values import READ, Direction, Space, ones

NS: Final = 1_000_000_000
LONGEST_NS: Final = 600 * NS


class Cause(Protocol):
    """Whose access it is."""

    vcpu: int
    sequence: int
    pc: int
    space: Space
    address: int
    posted: bool


class Around(Origin, Protocol):
    """What the machine has."""

    clock: MachineClock
    hosts: dict[str, InlineHost]
    outlet: Outlet
    settled: list[tuple[InlineHost | Stop, int | None]]

    @property
    def cause(self) -> Cause:
        """Of the access that is made now."""

    def withhold(self, device: str, reason: str) -> bool:
        """Have every access to a device come here; whether some did not."""

    def release(self, device: str) -> None:
        """One reason less."""


@define(eq=False)
class Breaks:
    """One machine's."""

    machine: Around
    wishes: dict[str, list[Break]] = field(factory=dict)
    """By device; empty: no access need ask."""
    stops: list[Stop] = field(factory=list)
    longest_ns: int = LONGEST_NS
    """How long the hypervisor lets an access stand."""
    resting: bool = False
    """The VM is to stand still: nothing stops."""
    on_change: Callable[[], None] = lambda: None
    """Called when a stop has a deadline."""
    _number: int = 0
    _stopped: dict[int, tuple[int, int]] = field(factory=dict)
    """By vCPU: the exit that stopped last, and when it did so first."""

    def bound(self, deadline_ns: int) -> None:
        """A hypervisor is there that waits for an answer so long; 0: for ever."""
        self.longest_ns = min(deadline_ns * 4 // 5, LONGEST_NS) or LONGEST_NS

    def add(self, wish: Break) -> bool:
        """From now on; whether registers of the device were published."""
        wish.timeout_ns = min(wish.timeout_ns, self.longest_ns)
        self.wishes.setdefault(wish.device, []).append(wish)
        self.machine.hosts[wish.device].broken = True
        self.machine.outlet.unlearn()
        return self.machine.withhold(wish.device, "break")

    def remove(self, wish: Break) -> None:
        """Nobody wants that any more: what stood for it alone goes on."""
        known = self.wishes.get(wish.device, [])
        if wish not in known:
            return
        known.remove(wish)
        if not known:
            del self.wishes[wish.device]
            self.machine.hosts[wish.device].broken = False
        for stop in [one for one in self.stops if wish in one.wanted_by]:
            stop.wanted_by.remove(wish)
            if not stop.wanted_by:
                self.end(stop, "cleared")
        self.machine.release(wish.device)

    # --- an access ---------------------------------------------------------------------------

    def meet(self, found: Range, address: int, size: int, direction: Direction, value: int) -> Stop | None:
        """What an access has to wait for before it is made; None: nothing."""
        claim = found.claim
        if claim is None or claim.host.name not in self.wishes:
            return None
        spot = Spot(claim.host.name, claim.region, claim.offset(address), found.space, address)
        return self.stop(spot, size, direction, value)

    def stop(self, spot: Spot, size: int, direction: Direction, value: int) -> Stop | None:
        """The same of an access whose device is known."""
        wishes = self.wishes.get(spot.device)
        if self.resting or not wishes:
            return None
        host, cause = self.machine.hosts[spot.device], self.machine.cause
        register = host.register_at(spot.region, spot.offset, size, direction)
        seen = self._shown(spot, register, size) if direction == READ else value
        made_by = (cause.vcpu, cause.sequence, cause.pc)
        stop = Stop(self._number + 1, spot, size, direction, seen, register, host.generation, *made_by)
        stop.wanted_by = [wish for wish in wishes if wish.wants(stop)]
        if not stop.wanted_by:
            return None
        return self._begin(stop, posted=cause.posted)

    def _begin(self, stop: Stop, *, posted: bool) -> Stop | None:
        now = self.machine.clock.monotonic()
        patience = min(wish.timeout_ns for wish in stop.wanted_by)
        stop.deadline_ns = min(now + patience, self._first_stop(stop, now) + self.longest_ns)
        if stop.deadline_ns <= now:
            return None
        self._number = stop.number
        self.stops.append(stop)
        for wish in stop.wanted_by:
            wish.tell(stop)
        if posted:
            self.end(stop, "posted")
            return None
        self.on_change()
        return stop

    def _first_stop(self, stop: Stop, now_ns: int) -> int:
        """When the exit stopped first: one instruction may make many accesses, but has one deadline."""
        sequence, since_ns = self._stopped.get(stop.vcpu, (-1, now_ns))
        if sequence != stop.sequence:
            since_ns = now_ns
            self._stopped[stop.vcpu] = stop.sequence, since_ns
        return since_ns

    def _shown(self, spot: Spot, register: str, size: int) -> int | None:
        """What a read would give, without its side effects; None if that cannot be known."""
        host = self.machine.hosts[spot.device]
        if host.failure is not None and spot.region not in host.storages:
            return ones(size)
        declared = host.device.declared.get(register)
        if declared is None or declared.offset > spot.offset or host.device.regions[spot.region].stride:
            return None
        try:
            value = self.machine.mark.watched(host.name, partial(host.value_of, declared))
        except (Exception, HookDeadlineExceeded):  # noqa: BLE001  # a plugin may raise anything
            return None
        return value >> 8 * (spot.offset - declared.offset) & ones(size)

    def answered(self, stop: Stop) -> int:
        """An access that somebody answered is over: the value of a read, 0 for a write."""
        assert stop.answer is not None, "somebody answered"
        cause, host = self.machine.cause, self.machine.hosts[stop.name]
        cause.space, cause.address = stop.spot.space, stop.spot.address
        reading = stop.direction == READ
        seen = stop.answer if reading else stop.value or 0
        self.machine.record(host, stop.direction, stop.size, seen, stop.register, "answered", 0)
        return stop.answer if reading else 0

    # --- its end -----------------------------------------------------------------------------

    def end(self, stop: Stop, how: How, answer: int | None = None) -> None:
        """Let an access go on: who waits hears of it when the machine's answers are handed on."""
        if stop.ended:
            return
        stop.ended, stop.answer = True, answer
        self.stops.remove(stop)
        for wish in stop.wanted_by:
            wish.tell(Over(stop.number, how, answer))
        if how not in {"dropped", "posted"}:  # else nobody waits
            self.machine.settled.append((stop, None))

    def let_go(self, how: How, vcpu: int | None = None) -> None:
        """End all stops, or those of one vCPU."""
        for stop in [one for one in self.stops if vcpu is None or one.vcpu == vcpu]:
            self.end(stop, how)

    def rest(self) -> None:
        """The VM is to stand still: nothing stops, until `go`."""
        self.resting = True
        self.let_go("paused")

    def go(self) -> None:
        """The VM runs."""
        self.resting = False

    @property
    def delay_s(self) -> float:
        """Until a stop ends by itself."""
        if not self.stops:
            return inf
        soonest = min(stop.deadline_ns for stop in self.stops)
        return max(0, soonest - self.machine.clock.monotonic()) / NS

    def expire(self) -> bool:
        """End what stood for too long; whether there was any."""
        now = self.machine.clock.monotonic()
        late = [stop for stop in self.stops if stop.deadline_ns <= now]
        for stop in late:
            self.end(stop, "timeout")
        return bool(late)
