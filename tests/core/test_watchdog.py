"""Hooks that run past their deadline."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from time import perf_counter_ns

import pytest

from mmiod.core.lane import Lane
from mmiod.core.watchdog import Watchdog, cpu_clock
from mmiod.device import Device, Register
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.host import InlineHost
from mmiod.machine.mark import HookDeadlineExceeded, Mark
from mmiod.values import READ, WRITE, Space
from tests.machine.machines import Rig


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """Hypothesis has a callback in the collector, in which an interruption would be lost."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


DEADLINE_NS = 50_000_000
"""Ten of it by the clock, so that a hook that has to be in time is, though the host runs others meanwhile."""
PATIENCE_NS = 20_000_000_000


def spin(until: Callable[[], bool]) -> None:
    """Run Python code until something is so, for 20 s at most."""
    end = perf_counter_ns() + PATIENCE_NS
    while not until():
        assert perf_counter_ns() < end


def made(read: Callable[[Device, int, int], int]) -> type[Device]:
    """A device whose reads are this."""
    return type("Made", (Device,), {"length": 16, "read": read, "write": lambda *_: None})


def rig(**reads: Callable[[Device, int, int], int]) -> Rig:
    """Devices at 0x00, 0x10, ... in the order given."""
    return Rig(
        {
            name: (made(read), DeviceDescription(name, at={"main": Placement(Space.MMIO, 0x10 * number)}))
            for number, (name, read) in enumerate(reads.items())
        }
    )


@pytest.fixture(name="watch")
def _watch() -> Iterator[Callable[..., Watchdog]]:
    """Start a watchdog over some machines; it is stopped at the end."""
    started: list[Watchdog] = []

    def start(*rigs: Rig, deadline_ns: int = DEADLINE_NS) -> Watchdog:
        watchdog = Watchdog([each.machine.mark for each in rigs], deadline_ns)
        watchdog.working.set()
        watchdog.start()
        started.append(watchdog)
        return watchdog

    yield start
    for watchdog in started:
        watchdog.stop()
    for thread in threading.enumerate():
        if thread.name == "mmiod-watchdog":
            thread.join()


def loops(_device: Device, _offset: int, _size: int) -> int:
    """Never ends by itself."""
    spin(never)
    return 0


def never() -> bool:
    """It is not so."""
    return False


def host(rig_: Rig, name: str) -> InlineHost:
    """A device's host."""
    return rig_.machine.hosts[name]


def read(rig_: Rig, address: int) -> object:
    """A guest's read of one byte."""
    return rig_.access(Space.MMIO, address, 1, READ)


def test_hook_that_loops_is_interrupted_and_the_other_vm_goes_on(watch: Callable[..., Watchdog]) -> None:
    """All ones, quarantine within bounds, and the next VM's device answers."""
    bad, good = rig(dev=loops), rig(dev=lambda *_: 7)
    watch(bad, good)
    started = perf_counter_ns()
    assert 0xFF == read(bad, 0)
    assert DEADLINE_NS <= perf_counter_ns() - started < PATIENCE_NS
    assert "HookDeadlineExceeded: " == host(bad, "dev").failure
    assert ["device_quarantined"] == [event for event, _ in bad.events]
    assert (7, None) == (read(good, 0), host(good, "dev").failure)


def test_plugin_cannot_swallow_the_interruption(watch: Callable[..., Watchdog]) -> None:
    """`except Exception` around the loop does not hold it."""

    def stubborn(device: Device, offset: int, size: int) -> int:
        while True:
            try:
                return loops(device, offset, size)
            except Exception:  # noqa: BLE001
                continue

    machine = rig(dev=stubborn)
    watch(machine)
    assert 0xFF == read(machine, 0)
    assert host(machine, "dev").failure is not None


def test_nested_hook_is_blamed_and_the_outer_one_goes_on(watch: Callable[..., Watchdog]) -> None:
    """A bridge's device loops: it is quarantined, the bridge is not, even if it then takes its own time."""

    def bridge(device: Device, _offset: int, size: int) -> int:
        value = device.bus.read(Space.MMIO, 0x10, size)
        begun = perf_counter_ns()
        spin(lambda: perf_counter_ns() - begun > DEADLINE_NS // 4)
        return value & 0x7F

    machine = rig(bridge=bridge, inner=loops)
    watch(machine)
    assert 0x7F == read(machine, 0)
    assert (None, "HookDeadlineExceeded: ") == (
        host(machine, "bridge").failure,
        host(machine, "inner").failure,
    )


def test_outer_hook_that_loops_over_an_inner_one_is_blamed_itself(watch: Callable[..., Watchdog]) -> None:
    """Each inner access is short: what takes too long is the bridge."""

    def bridge(device: Device, _offset: int, size: int) -> int:
        spin(lambda: device.bus.read(Space.MMIO, 0x10, size) == 0)
        return 0

    machine = rig(bridge=bridge, inner=lambda *_: 1)
    watch(machine)
    assert 0xFF == read(machine, 0)
    assert (True, None) == (host(machine, "bridge").failure is not None, host(machine, "inner").failure)


def test_hooks_that_end_around_the_deadline_are_never_interrupted_outside(
    watch: Callable[..., Watchdog],
) -> None:
    """A thousand hooks end as the watchdog strikes, half of them by an exception: it is always caught."""
    deadline = 20_000

    def ends(_device: Device, offset: int, _size: int) -> int:
        begun = perf_counter_ns()
        while perf_counter_ns() - begun < deadline:
            pass
        if offset:
            raise ValueError("at the same time")
        return 7

    machine = rig(dev=ends)
    watch(machine, deadline_ns=deadline)
    watched = host(machine, "dev")
    failures: set[str | None] = set()
    for count in range(1000):
        watched.failure = None
        answer = read(machine, count % 2)
        failure = host(machine, "dev").failure
        failures.add(failure)
        assert answer == (7 if failure is None else 0xFF)
        assert 0 == machine.machine.mark.since_ns
    assert "ValueError: at the same time" in failures


class Fake:
    """Counts what would have been interrupted; the core has CPU time as it passes, but for what is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1
        self.lost = 0
        self.struck: list[int] = []
        monkeypatch.setattr("mmiod.core.watchdog.perf_counter_ns", lambda: self.now)
        monkeypatch.setattr("mmiod.machine.mark.perf_counter_ns", lambda: self.now)
        monkeypatch.setattr("mmiod.core.watchdog._RAISE", self.strike)

    def watchdog(self, mark: Mark) -> Watchdog:
        """One that has the deadline 100."""
        return Watchdog([mark], 100, thread=7, cpu=lambda: self.now - self.lost)

    def strike(self, thread: int, kind: type[BaseException]) -> None:
        """Instead of PyThreadState_SetAsyncExc."""
        assert HookDeadlineExceeded is kind
        self.struck.append(thread)


def test_hook_that_goes_on_is_interrupted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption that was lost is repeated after another deadline, not before."""
    fake, mark = Fake(monkeypatch), Mark()
    watchdog = fake.watchdog(mark)
    mark.enter("dev")
    watchdog.note()
    for passed, struck in ((100, 1), (99, 1), (1, 2)):
        fake.now += passed
        watchdog.look(mark)
        assert struck == len(fake.struck)


def test_each_late_hook_is_interrupted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before its deadline, then once however often the watchdog looks; the next hook anew."""
    fake, mark = Fake(monkeypatch), Mark()
    watchdog = fake.watchdog(mark)
    watchdog.look(mark)
    for round_ in (1, 2):
        outer = mark.enter("dev")
        watchdog.note()
        fake.now += 99
        watchdog.look(mark)
        assert round_ - 1 == len(fake.struck)
        fake.now += 1
        for _ in range(3):
            watchdog.look(mark)
        assert [7] * round_ == fake.struck
        mark.leave(outer)
        fake.now += 1000
        watchdog.look(mark)
    assert [7, 7] == fake.struck


def test_hook_that_ended_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was late when the watchdog looked, and over when it would strike."""
    fake, mark = Fake(monkeypatch), Mark()
    outer = mark.enter("dev")

    def late() -> int:
        mark.leave(outer)
        return fake.now + 1000

    monkeypatch.setattr("mmiod.core.watchdog.perf_counter_ns", late)
    fake.watchdog(mark).look(mark)
    assert [] == fake.struck


def test_time_that_the_host_spends_elsewhere_is_not_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook has its deadline in CPU time, whenever it gets that, within ten deadlines by the clock."""
    fake, mark = Fake(monkeypatch), Mark()
    watchdog = fake.watchdog(mark)
    mark.enter("dev")
    watchdog.note()
    for lost, gained, struck in ((300, 50, 0), (400, 49, 0), (0, 1, 1)):
        fake.lost += lost
        fake.now += lost + gained
        watchdog.note()
        watchdog.look(mark)
        assert struck == len(fake.struck)


def test_hook_that_needs_no_cpu_time_is_late_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps: after ten deadlines that is enough."""
    fake, mark = Fake(monkeypatch), Mark()
    watchdog = fake.watchdog(mark)
    mark.enter("dev")
    watchdog.note()
    for passed, struck in ((999, 0), (1, 1)):
        fake.lost += passed
        fake.now += passed
        watchdog.look(mark)
        assert struck == len(fake.struck)


def test_cpu_time_before_the_hook_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of other hooks, nor what passed until the watchdog looked for the first time."""
    fake, mark = Fake(monkeypatch), Mark()
    watchdog = fake.watchdog(mark)
    watchdog.note()
    fake.now += 500
    mark.enter("dev")
    fake.now += 25
    watchdog.note()
    for passed, struck in ((99, 0), (1, 1)):
        fake.now += passed
        watchdog.look(mark)
        assert struck == len(fake.struck)


def test_the_cpu_time_is_the_threads_own() -> None:
    """Of a thread that waits none passes while another one works."""
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait, daemon=True)
    thread.start()
    assert thread.ident is not None
    others, own = cpu_clock(thread.ident), cpu_clock(threading.get_ident())
    before = others(), own()
    spin(lambda: own() - before[1] > DEADLINE_NS)
    assert others() - before[0] < DEADLINE_NS // 10
    waits.set()
    thread.join()


def test_watchdog_sleeps_while_the_core_is_parked() -> None:
    """Nothing is looked at unless `working` is set; `stop` ends the thread."""
    looked = threading.Event()

    class Marks(list[Mark]):
        """Tells that it was looked at."""

        def __iter__(self) -> Iterator[Mark]:
            looked.set()
            return super().__iter__()

    watchdog, others = Watchdog(Marks(), 1_000_000), set(threading.enumerate())
    watchdog.start()
    (thread,) = set(threading.enumerate()) - others
    assert not looked.is_set()
    watchdog.working.set()
    assert looked.wait(20)
    watchdog.stop()
    thread.join(20)
    assert not thread.is_alive()


class Sleeper(Device):
    """Its register's write waits in C code, and is over without a point at which Python looks."""

    length = 1
    lock: threading.Lock
    doze = Register(0)

    @doze.on_write
    def _doze(self, _value: int) -> None:
        (_,) = map(self.lock.acquire, (True,))


def test_hook_that_ended_before_it_was_told_is_blamed_by_the_lane(watch: Callable[..., Watchdog]) -> None:
    """The lane may be C, which no interruption interrupts: it asks."""
    made = Rig({"dev": (Sleeper, DeviceDescription("dev", at={"main": Placement(Space.MMIO, 0)}))})
    made.machine.power_on(virtual=False)
    made.now = perf_counter_ns()
    made.machine.clock.go()
    host, mark = made.machine.hosts["dev"], made.machine.mark
    Sleeper.lock = threading.Lock()
    Sleeper.lock.acquire()
    lane = Lane(made.machine)
    place = lane.learn(Space.MMIO, WRITE, 1, 0)
    assert place is not None

    def wake() -> None:
        spin(lambda: mark.struck)
        Sleeper.lock.release()

    waker = threading.Thread(target=wake)
    waker.start()
    watch(made, deadline_ns=5_000_000)

    answer = lane.access(place, 1, 0, 1, -1)

    waker.join()
    spin(lambda: True)  # nothing is raised later
    assert 0 == answer
    assert "HookDeadlineExceeded" in str(host.failure)
