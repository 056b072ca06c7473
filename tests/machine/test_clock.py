"""Guest time and timers against a sorted list."""

from __future__ import annotations

from functools import partial

from attrs import define, field
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmiod.machine.clock import NEVER, NS_PER_S, VIRTUAL_WALL_START_S, MachineClock

KEYS = st.tuples(st.sampled_from(["pit", "rtc"]), st.sampled_from(["a", "b"]))


@define(eq=False)
class Host:
    """The host's clocks."""

    ns: int = 5_000
    wall: float = 1_700_000_000.9
    fired: list[tuple[tuple[str, str], int]] = field(factory=list)

    def clock(self, *, virtual: bool) -> MachineClock:
        """A clock, switched on."""
        clock = MachineClock(lambda: self.ns, lambda: self.wall)
        clock.power_on(virtual=virtual)
        return clock


class Timers(RuleBasedStateMachine):
    """Any sequence of arming, time passing and pauses."""

    @initialize(virtual=st.booleans())
    def power_on(self, virtual: bool) -> None:
        """Both begin."""
        self.host = Host()
        self.clock = self.host.clock(virtual=virtual)
        self.virtual = virtual
        self.now = 0
        self.runs = not virtual
        self.model: list[tuple[int, int, tuple[str, str]]] = []
        self.count = 0
        self.expected: list[tuple[tuple[str, str], int]] = []
        self.periods: dict[tuple[str, str], int] = {}

    def fire(self, key: tuple[str, str]) -> None:
        """The hook of a timer, perhaps a periodic one."""
        self.host.fired.append((key, self.clock.now_ns))
        if key in self.periods:
            self.arm_both(key, self.clock.now_ns + self.periods[key])

    def arm_both(self, key: tuple[str, str], deadline: int | None) -> None:
        """Arm the clock's timer and the model's; inside `fire` the model's own turn comes later."""
        self.clock.arm(*key, deadline, partial(self.fire, key))

    @rule(key=KEYS, delta=st.integers(-50, 200), period=st.none() | st.integers(1, 90))
    def arm(self, key: tuple[str, str], delta: int, period: int | None) -> None:
        """Set a timer, once or periodic, also in the past."""
        self.periods.pop(key, None)
        if period is not None:
            self.periods[key] = period
        deadline = max(0, self.now + delta)
        self.arm_both(key, deadline)
        self.model = [timer for timer in self.model if timer[2] != key]
        self.model.append((deadline, self.count, key))
        self.count += 1

    @rule(key=KEYS)
    def cancel(self, key: tuple[str, str]) -> None:
        """Take a timer off."""
        self.periods.pop(key, None)
        self.arm_both(key, None)
        self.model = [timer for timer in self.model if timer[2] != key]

    @rule(delta=st.integers(-20, 300))
    def pass_time(self, delta: int) -> None:
        """Time passes, or is told to go back."""
        if self.virtual:
            end = max(self.now, self.now + delta)
            assert self.clock.advance_to(self.now + delta)
            self.model_fires(end if delta >= 0 else self.now + delta, each_at_its_time=True)
            self.now = end
            return
        self.host.ns += max(0, delta)
        if self.runs:
            self.now += max(0, delta)
        self.clock.fire_due()
        self.model_fires(self.now, each_at_its_time=False)

    def model_fires(self, until: int, *, each_at_its_time: bool) -> None:
        """What the sorted list fires."""
        while self.model and min(self.model)[0] <= until:
            due = min(self.model)
            self.model.remove(due)
            deadline, _, key = due
            now = max(self.now, deadline) if each_at_its_time else self.now
            self.now = now
            self.expected.append((key, now))
            if key in self.periods:
                self.model.append((now + self.periods[key], self.count, key))
                self.count += 1

    @rule()
    def pause(self) -> None:
        """PAUSE."""
        self.clock.stop()
        self.runs = False

    @rule()
    def resume(self) -> None:
        """RESUME."""
        self.clock.go()
        self.runs = not self.virtual

    @invariant()
    def agrees(self) -> None:
        """Times, order and the next deadline."""
        assert self.expected == self.host.fired
        assert self.now == self.clock.now_ns
        assert self.runs == self.clock.runs
        assert min((timer[0] for timer in self.model), default=NEVER) == self.clock.deadline_ns


TestTimers = Timers.TestCase
TestTimers.settings = settings(max_examples=60, stateful_step_count=25)


def test_wall_time_follows_guest_time() -> None:
    """A real-time clock ticks where guest time passes a whole second, and stands in a pause."""
    host = Host()
    clock = host.clock(virtual=False)
    assert 1_700_000_000 == clock.wall_s
    host.ns += NS_PER_S - 1
    assert 1_700_000_000 == clock.wall_s
    host.ns += 1
    assert 1_700_000_001 == clock.wall_s
    clock.stop()
    host.ns += 10 * NS_PER_S
    assert (NS_PER_S, 1_700_000_001) == (clock.now_ns, clock.wall_s)
    assert VIRTUAL_WALL_START_S == host.clock(virtual=True).wall_s


def test_power_on_forgets_timers_and_begins_at_zero() -> None:
    """A second power-on is like the first."""
    host = Host()
    clock = host.clock(virtual=False)
    clock.arm("pit", "tick", 10, lambda: host.fired.append((("pit", "tick"), 0)))
    host.ns += 100
    clock.power_on(virtual=False)
    assert (0, NEVER, 0) == (clock.now_ns, clock.deadline_ns, clock.fire_due())
    assert [] == host.fired


def test_timers_of_one_deadline_fire_in_the_order_of_arming() -> None:
    """Arming again counts as arming: the timer goes behind those that were armed meanwhile."""
    clock, fired = Host().clock(virtual=True), list[str]()
    for timer in ("a", "b", "c", "a"):
        clock.arm("pit", timer, 10, partial(fired.append, timer))
    clock.advance_to(10)
    assert ["b", "c", "a"] == fired


def test_timer_that_is_always_due_does_not_hold_virtual_time_for_ever() -> None:
    """A way ends after its limit of timers: standing at the next deadline, and saying so."""
    clock = Host().clock(virtual=True)

    def again() -> None:
        clock.arm("pit", "tick", clock.now_ns, again)

    clock.arm("pit", "tick", 7, again)
    assert not clock.advance_to(100, limit=50)
    assert 7 == clock.now_ns


def test_firing_is_bounded_in_real_time_too() -> None:
    """One call fires its limit at most, and leaves the rest for the next turn."""
    clock = Host().clock(virtual=False)

    def again() -> None:
        clock.arm("pit", "tick", clock.now_ns, again)

    again()
    assert (8, 1024) == (clock.fire_due(8), clock.fire_due())


def test_rearming_a_far_timer_does_not_grow() -> None:
    """A guest that reprograms a timer for ever holds a bounded number of entries."""
    clock = Host().clock(virtual=True)
    clock.arm("rtc", "near", 1, lambda: None)
    for number in range(10_000):
        clock.arm("pit", "far", 1_000_000 + number, lambda: None)
    assert len(clock._queue) < 200
    assert 1 == clock.deadline_ns


def test_change_of_deadlines_is_told() -> None:
    """Whoever waits for the next deadline hears of a new timer and of RESUME."""
    clock = Host().clock(virtual=False)
    told: list[str] = []
    clock.on_change = lambda: told.append("changed")
    clock.arm("pit", "tick", 10, lambda: None)
    clock.arm("pit", "tick", None, lambda: None)
    assert ["changed"] == told
    clock.stop()
    clock.go()
    assert ["changed"] * 2 == told


def test_who_waits_for_a_deadline_hears_of_nearer_ones_only() -> None:
    """A later timer wakes nobody; where time is another one, every timer does."""
    clock = Host().clock(virtual=False)
    told: list[str] = []
    clock.on_change = lambda: told.append("changed")
    clock.awaited_ns = 10
    clock.arm("pit", "tick", 11, lambda: None)
    assert [] == told
    clock.arm("hpet", "match", 9, lambda: None)
    clock.restore(0, 0)
    clock.arm("pit", "tick", 11, lambda: None)
    assert ["changed"] * 2 == told


def test_the_end_of_time_is_reached_without_a_timer() -> None:
    """A peer may name the last guest time there is, when nothing is armed or something for then."""
    clock = Host().clock(virtual=True)
    assert clock.advance_to(NEVER)
    fired: list[str] = []
    clock.arm("pit", "a", NEVER, partial(fired.append, "a"))
    assert clock.advance_to(NEVER)
    assert clock.fire_due() == 0
    assert fired == []
    assert NEVER == clock.now_ns
