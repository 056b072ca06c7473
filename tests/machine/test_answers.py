"""A device fails at an answer, or asks: no request waits for ever, and none gets another's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import pytest

from mmiod.core.ports import NOBODY, Ask, RequestQueue, StreamQueue
from mmiod.device import Device, Effect, Register, Requests, Stream, Timer
from mmiod.device.accesses import MemoryRead
from mmiod.device.work import Moves, Work
from mmiod.machine.backoff import FIRST_NS, MAX_ATTEMPTS
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import prepare
from mmiod.machine.host import InlineHost
from mmiod.machine.inlets import FAILED_AT
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.ports import BackendStatus
from mmiod.machine.restart import restart
from mmiod.values import WRITE, Space
from tests.machine.machines import Rig

LATE: Final = HookDeadlineExceeded
WRONG: Final = RuntimeError


@attrs.define
class Got:
    """What came."""

    waits: list[int] = attrs.Factory(list)
    answers: list[tuple[int, bytes | str]] = attrs.Factory(list)
    data: bytes = b""
    rings: int = 0
    runs: int = 0


failures: list[tuple[str, type[BaseException]]] = []
"""Hooks that fail, in this order, and how."""


def fails(hook: str) -> None:
    """Fail, as the watchdog makes a hook fail, or as it does by itself."""
    if failures and failures[0][0] == hook:
        raise failures.pop(0)[1]


class Asker(Device):
    """Asks when it is written to, at most once or again and again, and notes what it gets."""

    length = 0x10
    state: Got
    disk = Requests({"get": Effect.IDEMPOTENT, "spend": Effect.AT_MOST_ONCE})
    line = Stream()
    tick = Timer()
    moving = Work()
    ask = Register(0, size=4)
    start = Register(4, size=4)

    @ask.on_write
    def _ask(self, count: int) -> None:
        self.state.waits += [self.disk.send("get") for _ in range(count)]
        fails("ask")

    @start.on_write
    def _start(self, _value: int) -> None:
        self.moving.start()

    @disk.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        self.state.waits.remove(number)
        self.state.answers.append((number, data))
        if data == b"spend":
            self.disk.send("spend")
        if data == b"send":
            self.line.send(b"sent")
        if data == b"more":
            self.state.waits.append(self.disk.send("get"))
        fails("reply")

    @disk.on_failure
    def _failed(self, number: int, reason: str) -> None:
        self.state.waits.remove(number)
        self.state.answers.append((number, reason))
        fails("fail")

    @line.on_receive
    def _received(self, data: bytes) -> None:
        self.state.data += data
        fails("receive")

    @tick.on_fire
    def _ticked(self) -> None:
        self.state.rings += 1
        fails("fire")

    @moving.on_run
    def _run(self) -> Moves:
        yield MemoryRead(0, 4)
        self.state.runs += 1
        fails("run")


@pytest.fixture(autouse=True)
def _none_left() -> None:
    failures.clear()


class World:
    """One device, and what it asks."""

    def __init__(self) -> None:
        described = DeviceDescription("asker", at={"main": Placement(Space.MMIO, 0)})
        self.rig = Rig({"dev": (Asker, described)})
        self.queue = RequestQueue(BackendStatus("fake"))
        self.rig.machine.services["dev", "disk"] = self.queue
        self.rig.machine.backends["dev", "line"] = StreamQueue(BackendStatus("fake"))

    @property
    def host(self) -> InlineHost:
        """The device's host."""
        return self.rig.machine.hosts["dev"]

    @property
    def state(self) -> Got:
        """The device's."""
        device = self.host.device
        assert isinstance(device, Asker)
        return device.state

    @property
    def asked(self) -> list[int]:
        """Numbers of the requests that wait."""
        return [
            found.number for found in (*self.queue.waiting, *self.queue.refused) if isinstance(found, Ask)
        ]

    def write(self, address: int, value: int) -> None:
        """A guest's write."""
        self.rig.access(Space.MMIO, address, 4, WRITE, value)

    def come_back(self) -> None:
        """It is tried again until it serves."""
        for _ in range(MAX_ATTEMPTS):
            if not self.host.serves:
                self.rig.now += FIRST_NS << MAX_ATTEMPTS
                for device in self.rig.machine.backoff.ready():
                    restart(self.rig.machine, device)
        assert self.host.serves


def test_an_answer_that_the_host_had_no_time_for_comes_again() -> None:
    """A hook is interrupted by the clock: the request it answers is not lost."""
    world = World()
    world.write(0, 2)
    failures.append(("reply", LATE))
    world.host.reply("disk", 1, b"one")
    world.host.reply("disk", 2, b"two")
    assert not world.host.serves
    world.come_back()
    assert ([], [(1, b"one"), (2, b"two")]) == (world.state.waits, world.state.answers)


def test_an_answer_that_is_always_late_is_a_failure() -> None:
    """The second time it may be the device's doing: it learns that there will be no answer."""
    world = World()
    world.write(0, 1)
    failures.extend([("reply", LATE)] * 2)
    world.host.reply("disk", 1, b"one")
    world.come_back()
    assert ([], [(1, FAILED_AT)]) == (world.state.waits, world.state.answers)


def test_an_answer_that_breaks_the_device_is_a_failure() -> None:
    """It does not come again, and the request does not wait for ever."""
    world = World()
    world.write(0, 1)
    failures.append(("reply", WRONG))
    world.host.reply("disk", 1, b"one")
    world.come_back()
    assert ([], [(1, FAILED_AT)]) == (world.state.waits, world.state.answers)


def test_what_breaks_at_that_failure_too_is_over() -> None:
    """It comes back without having heard."""
    world = World()
    world.write(0, 1)
    failures.extend([("reply", WRONG), ("fail", WRONG)])
    world.host.reply("disk", 1, b"one")
    world.come_back()
    assert ([1], []) == (world.state.waits, world.state.answers)


@pytest.mark.parametrize("data", [b"spend", b"send"])
def test_what_has_had_an_effect_is_not_repeated(data: bytes) -> None:
    """Bytes have gone out, or something was asked that may be done once only."""
    world = World()
    world.write(0, 1)
    failures.append(("reply", LATE))
    world.host.reply("disk", 1, data)
    world.come_back()
    assert [(1, FAILED_AT)] == world.state.answers


@pytest.mark.parametrize(
    ("hook", "give", "seen"),
    [
        ("receive", lambda host: host.receive("line", b"x"), Got(data=b"x")),
        ("fire", lambda host: host.fire("tick"), Got(rings=1)),
        ("run", lambda host: host.fire("moving"), Got(runs=1)),
    ],
)
def test_what_nobody_waits_for_comes_again(hook: str, give: Callable[[InlineHost], None], seen: Got) -> None:
    """Bytes, a timer and a run of a work, once; the next time is a new one."""
    world = World()
    for turn in range(2):
        failures.append((hook, LATE))
        give(world.host)
        world.come_back()
        if not turn:
            assert seen == world.state
    assert (2 * len(seen.data), 2 * seen.rings, 2 * seen.runs) == (
        len(world.state.data),
        world.state.rings,
        world.state.runs,
    )


def test_what_was_missed_waits_for_the_next_time() -> None:
    """One of several answers that came in quarantine breaks the device: the others are not lost."""
    world = World()
    world.write(0, 3)
    world.write(0, 0)
    world.host.quarantine(RuntimeError("what it made of that"))
    for number in (1, 2, 3):
        world.host.reply("disk", number, b"%d" % number)
    failures.append(("reply", WRONG))
    world.come_back()
    assert ([], [(1, FAILED_AT), (2, b"2"), (3, b"3")]) == (world.state.waits, sorted(world.state.answers))


def test_a_late_snapshot_loses_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is cut before the input: if that fails the input was not given."""
    world = World()
    world.write(0, 1)
    monkeypatch.setattr("mmiod.machine.serving.LIMIT", 0)
    with monkeypatch.context() as failing:
        failing.setattr(InlineHost, "snapshot", lambda _host: (_ for _ in ()).throw(LATE))
        world.host.reply("disk", 1, b"one")
        assert not world.host.serves
    world.come_back()
    assert ([], [(1, b"one")]) == (world.state.waits, world.state.answers)


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_number_that_is_used_again_gets_its_own_answer(reloaded: bool) -> None:
    """A request by an input that failed is forgotten by the device, not by its backend."""
    world = World()
    world.write(0, 1)
    failures.append(("ask", LATE))
    world.write(0, 2)
    assert [1, 2, 3] == world.asked
    world.host.reply("disk", 2, b"old")  # comes in quarantine
    world.queue.waiting.remove(world.queue.waiting[1])
    if reloaded:
        prepare(world.rig.machine, Asker, {"dev": None}).commit(2)
    else:
        world.come_back()
    assert [1, NOBODY] == world.asked
    world.write(0, 1)
    assert [1, NOBODY, 2] == world.asked
    assert ([1, 2], []) == (world.state.waits, world.state.answers)
    world.host.reply("disk", 2, b"new")
    assert [(2, b"new")] == world.state.answers
