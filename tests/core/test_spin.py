"""How long the core looks at a silent source, and what the pump makes of it."""

from __future__ import annotations

import os
import resource
import select
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from attrs import define, field

from mmiod.core import pump as pumping
from mmiod.core.pump import Pump
from mmiod.core.spin import LEAST_NS, OFTEN, Preemptions, Spin, cap_ns

CAP = 200_000


def test_sleeps_that_looking_did_not_save_halve_the_time_to_nothing() -> None:
    """Events that come every 10 ms cost no CPU soon."""
    spin, now, budgets = Spin(CAP), 0, []
    for _ in range(8):
        now += 10_000_000
        spin.woken(now)
        budgets.append(spin.budget_ns)
    assert budgets == [CAP >> 1, CAP >> 2, CAP >> 3, CAP >> 4, CAP >> 5, CAP >> 6, 0, 0]
    assert LEAST_NS > CAP >> 6


def test_event_soon_after_falling_asleep_gives_all_of_the_time_back() -> None:
    """Load that returns finds a daemon awake from its second exit on."""
    spin = Spin(CAP, since_ns=1_000_000)
    spin.budget_ns = 0
    spin.woken(1_000_000 + CAP)
    assert spin.budget_ns == CAP
    assert not spin.over(1_000_000 + 2 * CAP - 1)
    assert spin.over(1_000_000 + 2 * CAP)


@pytest.mark.parametrize(("cpus", "expected"), [(1, 0), (2, 200_000), (None, 0)])
def test_nobody_looks_where_there_is_one_cpu(
    monkeypatch: pytest.MonkeyPatch, cpus: int | None, expected: int
) -> None:
    """The client needs it."""
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert cap_ns(200) == expected


@define(eq=False)
class Bell:
    """A source that has so many events."""

    events: int = 0
    spin: Spin = field(factory=lambda: Spin(0))
    parks: bool = True
    asleep: bool = False
    polls: int = 0
    order: list[object] = field(factory=list)

    def poll(self, looks: int) -> bool:
        """One event for each look."""
        return sum(self._poll() for _ in range(looks)) > 0

    def _poll(self) -> bool:
        assert not self.asleep
        self.polls += 1
        if not self.events:
            return False
        self.events -= 1
        self.order.append(self)
        return True

    def park(self) -> bool:
        """Sleep, unless something has come."""
        self.asleep = self.parks
        return self.parks

    def rouse(self) -> None:
        """Awake."""
        self.asleep = False


@pytest.fixture(name="pump")
def _pump(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pump]:
    """A pump that no task runs; its turns are long, so that none ends because others have our CPU."""
    monkeypatch.setattr(pumping, "TURN_NS", 100 * pumping.TURN_NS)
    pump = Pump(threading.Event())
    yield pump
    pump._epoll.close()
    os.close(pump._wake)


@pytest.fixture
def kick() -> Iterator[int]:
    """An eventfd."""
    descriptor = os.eventfd(0)
    yield descriptor
    os.close(descriptor)


def test_silent_source_is_parked_and_costs_nothing(pump: Pump, kick: int) -> None:
    """After its time it is not looked at; the turn says that there is nothing to do."""
    bell = Bell()
    pump.attend(bell, kick)
    assert not pump.turn()
    polls = bell.polls
    assert (bell.asleep, polls) == (True, pumping.LOOKS)
    assert not pump.turn()
    assert bell.polls == polls


def test_kick_wakes_and_is_never_read(pump: Pump, kick: int) -> None:
    """Each write counts, though the counter stays: its owner could make a read wait."""
    bell = Bell()
    pump.attend(bell, kick)
    pump.turn()
    for _ in range(2):
        bell.events = 1
        os.eventfd_write(kick, 1)
        assert not pump.turn()
        assert (bell.events, bell.asleep) == (0, True)
    assert os.eventfd_read(kick) == 2


def test_source_that_finds_something_while_it_parks_stays_awake(pump: Pump, kick: int) -> None:
    """The bell rang between the last look and the flag."""
    bell = Bell(parks=False)
    pump.attend(bell, kick)
    assert pump.turn()
    assert bell.polls > pumping.LOOKS
    pump.dismiss(bell, kick)
    polls = bell.polls
    assert not pump.turn()
    assert bell.polls == polls


def test_looking_gives_way_to_who_has_something_to_do(pump: Pump, kick: int) -> None:
    """A request to a backend does not wait until the core has looked long enough; then that is as ever."""

    def ask(_events: int) -> None:
        os.eventfd_read(kick)
        pump.give_way()

    pump._descriptors = Spin(CAP * 1000)
    pump.register(kick, ask)
    os.eventfd_write(kick, 1)
    assert not pump.turn()
    assert pump.turn()
    pump.unregister(kick)


def test_sources_stay_awake_when_others_have_something_to_do(pump: Pump, kick: int) -> None:
    """The turn ends, and says that there is more."""
    bell = Bell(parks=False)
    pump.attend(bell, kick)
    pump.give_way()
    assert pump.turn()
    assert 0 == bell.polls
    pump.dismiss(bell, kick)


def test_sources_have_their_turns(pump: Pump, kick: int) -> None:
    """One event each, whatever else is waiting there."""
    order: list[object] = []
    busy, quiet = Bell(events=10, order=order), Bell(events=2, order=order)
    pump.attend(busy, kick)
    spare = os.eventfd(0)
    pump.attend(quiet, spare)
    pump.turn()
    assert order[:4] == [busy, quiet, busy, quiet]
    os.close(spare)


def test_descriptors_are_looked_at_for_a_while(monkeypatch: pytest.MonkeyPatch, kick: int) -> None:
    """Who comes back soon finds the loop awake; who does not lets it sleep, and then costs nothing."""
    now, called = [0], list[int]()
    pump = Pump(threading.Event(), CAP)

    def passes() -> int:
        now[0] += 1000
        if now[0] == 150_000:
            os.eventfd_write(kick, 1)
        return now[0]

    def take(_events: int) -> None:
        called.append(now[0])
        os.eventfd_read(kick)

    monkeypatch.setattr(pumping, "monotonic_ns", passes)
    try:
        pump.register(kick, take, select.EPOLLIN)
        assert not pump.turn()
        assert (called, now[0]) == ([150_000], 150_000 + CAP)
        assert not pump.turn()
        assert now[0] == 150_000 + CAP + 2000, "one look, as nothing has come"
    finally:
        pump._epoll.close()
        os.close(pump._wake)


Preempt = Callable[[int], None]


@pytest.fixture(name="preempt")
def _preempt(monkeypatch: pytest.MonkeyPatch) -> Preempt:
    """Adds so many preemptions; only they count."""
    counted = [1_000_000]

    def add(number: int) -> None:
        counted[0] += number

    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_nivcsw=counted[0]))
    return add


def test_preemptions_are_counted_since_the_last_time(preempt: Preempt) -> None:
    """Those of a client that is on our CPU, not the rare ones of another program."""
    preemptions = Preemptions()
    preemptions.often()
    seen = []
    for number in (0, OFTEN - 1, 1, OFTEN, 0, 100 * OFTEN):
        preempt(number)
        seen.append(preemptions.often())
    assert [False, False, False, True, False, True] == seen


@pytest.mark.parametrize("often", [True, False])
def test_client_on_our_cpu_gets_it_while_we_look(
    monkeypatch: pytest.MonkeyPatch, pump: Pump, kick: int, preempt: Preempt, *, often: bool
) -> None:
    """It comes in that time; where nobody preempts us no other program gets the CPU instead of it."""
    now, called, given = [0], list[int](), list[int]()

    def passes() -> int:
        now[0] += 1000
        return now[0]

    def gives() -> None:
        given.append(now[0])
        if len(given) == 1:
            os.eventfd_write(kick, 1)

    def take(_events: int) -> None:
        called.append(now[0])
        os.eventfd_read(kick)

    pump._descriptors = Spin(20_000)
    pump.turn()
    preempt(OFTEN if often else OFTEN - 1)
    monkeypatch.setattr(pumping, "monotonic_ns", passes)
    monkeypatch.setattr(os, "sched_yield", gives)
    pump.register(kick, take, select.EPOLLIN)
    pump._descriptors.since_ns = now[0]
    assert not pump.turn()
    assert (often, often) == (bool(called), bool(given))
    assert not often or called[0] == given[0] + 1000


def test_cpu_is_not_given_up_while_there_is_something_to_do(
    monkeypatch: pytest.MonkeyPatch, pump: Pump, kick: int, preempt: Preempt
) -> None:
    """A source that had an event is looked at again first."""
    given = list[int]()
    bell = Bell(events=10 * pumping.LOOKS)
    monkeypatch.setattr(os, "sched_yield", lambda: given.append(bell.events))
    pump.turn()
    preempt(OFTEN)
    bell.spin.cap_ns = bell.spin.budget_ns = CAP
    pump.attend(bell, kick)
    while bell.events:
        pump.turn()
        preempt(OFTEN)
    pump.dismiss(bell, kick)
    assert not any(given)
