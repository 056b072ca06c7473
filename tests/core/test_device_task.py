"""Lanes: what a device sends and gets, in order and bounded, and what becomes of a backend that fails."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from attrs import define, field

from mmiod.core.backends.faces import BackendFailed, Link, RequestRefused, ServiceLink
from mmiod.core.gate import ShortWay
from mmiod.core.ports import MAX_QUEUED, MAX_REQUESTS, RequestQueue, StreamQueue
from mmiod.core.stream_lane import CHUNK
from mmiod.machine.ports import BackendStatus, Keeping
from tests.core.backends import serving

# --- streams -----------------------------------------------------------------------------------


@define(eq=False)
class Wire:
    """A stream's far side: takes when it is let, gives what the test puts in."""

    taken: list[bytes] = field(factory=list)
    gate: trio.Event = field(factory=trio.Event)
    asked: list[int] = field(factory=list)
    """How many bytes the lane was ready to read, each time."""
    failures: list[Exception] = field(factory=list)
    """What the next openings raise."""
    framed: bool = False
    attached: bool = True
    where: str = ""
    owns: str = ""
    give: Callable[[bytes], None] = field(init=False)
    _incoming: trio.MemoryReceiveChannel[bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the way in."""
        send, self._incoming = trio.open_memory_channel[bytes](100)
        self.give = send.send_nowait

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Succeed, or not."""
        if self.failures:
            raise self.failures.pop(0)
        yield self

    async def send_all(self, data: bytes) -> None:
        """Wait for the gate."""
        await self.gate.wait()
        self.taken.append(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """The next of what the test gave."""
        self.asked.append(max_bytes)
        return await self._incoming.receive()


async def test_bytes_go_out_in_order_and_the_rest_at_the_end() -> None:
    """Whatever a hook sends reaches the backend once, in order; the daemon's end waits for it."""
    wire = Wire()
    wire.gate.set()
    async with serving(streams={"serial": wire}) as bench:
        for number in range(50):
            bench.device.serial.send(b"%d," % number)
            if number % 7 == 0:
                await trio.testing.wait_all_tasks_blocked()
        bench.device.serial.send(b"end")
    assert b"".join(b"%d," % number for number in range(50)) + b"end" == b"".join(wire.taken)


async def test_slow_backend_loses_bytes_and_counts_them() -> None:
    """A queue holds its bound; the hook never waits, and what was taken stays in order."""
    wire = Wire()
    async with serving(streams={"serial": wire}) as bench:
        queue = bench.task.streams[0].queue
        bench.device.serial.send(b"a" * (MAX_QUEUED - 1))
        await trio.testing.wait_all_tasks_blocked()
        bench.device.serial.send(b"bcd")
        bench.device.serial.send(b"ef")
        assert (MAX_QUEUED, 4) == (queue.queued, queue.status.lost)
        wire.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        bench.device.serial.send(b"g")
    assert b"a" * (MAX_QUEUED - 1) + b"bg" == b"".join(wire.taken)


async def test_pieces_of_a_framed_stream_stay_apart() -> None:
    """What a hook sends at once is one message, or is lost whole."""
    wire = Wire(framed=True)
    async with serving(streams={"serial": wire}) as bench:
        for piece in (b"one", b"two", b"x" * MAX_QUEUED, b"three"):
            bench.device.serial.send(piece)
        wire.gate.set()
    assert [b"one", b"two", b"three"] == wire.taken
    assert MAX_QUEUED == bench.task.streams[0].queue.status.lost


@pytest.mark.parametrize("attached", [True, False])
async def test_backend_that_takes_nothing_does_not_hold_the_end_up(
    autojump_clock: trio.testing.MockClock, attached: bool
) -> None:
    """The drain has a second, and no time for a backend that nobody has attached to."""
    async with serving(streams={"serial": Wire(attached=attached)}) as bench:
        bench.device.serial.send(b"x")
        begin = trio.current_time()
    assert (1 if attached else 0) == trio.current_time() - begin
    assert autojump_clock is not None


async def test_bytes_come_in_and_no_more_than_there_is_room() -> None:
    """A lane reads what the device takes, and waits for `ready` where that is nothing."""
    wire = Wire()
    async with serving(streams={"serial": wire}) as bench:
        await trio.testing.wait_all_tasks_blocked()
        bench.device.space = 3
        for piece in (b"ab", b"c", b"de"):
            wire.give(piece)
        await bench.until(lambda: bench.device.received == b"abc")
        await trio.testing.wait_all_tasks_blocked()
        assert [CHUNK, 1] == wire.asked
        bench.device.space = 10
        bench.device.serial.ready()
        await bench.until(lambda: bench.device.received == b"abcde")
    assert [CHUNK, 1, 7, 5] == wire.asked


async def test_room_that_is_made_behind_the_look_is_seen() -> None:
    """What follows from an input may free the device before the lane waits for that."""
    wire = Wire()
    async with serving(streams={"serial": wire}) as bench:
        await trio.testing.wait_all_tasks_blocked()
        lane = bench.task.streams[0]

        inputs: list[object] = []

        async def looked(action: Callable[[], None]) -> None:
            await bench.inject(action)
            inputs.append(action)
            if len(inputs) == 2:  # the bytes, and the look behind them
                bench.device.space = 4
                lane.queue.ready()

        bench.device.space, lane.inject = 1, looked
        wire.give(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert [CHUNK, 3] == wire.asked


async def test_stream_without_room_hook_takes_chunks() -> None:
    """A device that says nothing of room gets `CHUNK` bytes at most at once."""
    wire = Wire()
    async with serving(streams={"debug": wire}):
        await trio.testing.wait_all_tasks_blocked()
    assert [CHUNK] == wire.asked


async def test_failing_backend_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    """With growing pauses; the same reason is told once; what was sent meanwhile is still sent."""
    wire = Wire(failures=[OSError("no"), OSError("no"), BackendFailed("never")])
    wire.gate.set()
    async with serving(streams={"serial": wire}) as bench:
        bench.device.serial.send(b"early")
        await bench.until(lambda: "backend_opened" in bench.events)
        assert pytest.approx(0.2 + 0.4 + 0.8) == trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
    assert ["backend_failed", "backend_failed", "backend_opened"] == bench.events
    assert ({"device": "dev", "stream": "serial", "backend": "test", "reason": "never"}) == bench.facts(
        "backend_failed"
    )
    assert [b"early"] == wire.taken
    assert autojump_clock is not None


async def test_bytes_in_doubt_are_lost_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    """What a backend did not take before it failed is not sent again."""

    class Breaking(Wire):
        """Fails in the first write."""

        async def send_all(self, data: bytes) -> None:
            """Take all but the first."""
            if b"one" in data:
                raise trio.BrokenResourceError
            self.taken.append(data)

    wire = Breaking()
    async with serving(streams={"serial": wire}) as bench:
        bench.device.serial.send(b"one")
        await bench.until(lambda: "backend_failed" in bench.events)
        bench.device.serial.send(b"two")
        await bench.until(lambda: bench.events.count("backend_opened") == 2)
    assert ([b"two"], 3) == (wire.taken, bench.task.streams[0].queue.status.lost)
    assert autojump_clock is not None


# --- services ----------------------------------------------------------------------------------

Step = bytes | Exception | None
"""What becomes of a request: a reply, a failure, or (None) it waits for `release`."""


KEEPING = Keeping("disk", 1, {"cache": 100})


@define(eq=False)
class Disk:
    """A service's far side, which plays a script."""

    steps: deque[Step] = field(factory=deque)
    openings: deque[Exception | None] = field(factory=deque)
    queries: dict[bytes, bytes] = field(factory=dict)
    log: list[tuple[str, ...]] = field(factory=list)
    release: trio.Event = field(factory=trio.Event)
    death: trio.Event = field(factory=trio.Event)
    owns: str = ""
    kinds: frozenset[str] = frozenset({"initialize", "execute", "ask"})
    keeping: Keeping = KEEPING
    refuses_to_cancel: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServiceLink]:
        """Succeed, or not."""
        self.log.append(("open",))
        failure = self.openings.popleft() if self.openings else None
        if failure is not None:
            raise failure
        self.death = trio.Event()
        yield self

    async def perform(self, kind: str, data: bytes) -> bytes:
        """Play the next step."""
        await trio.lowlevel.checkpoint()
        self.log.append((kind, data.decode()))
        step = self.steps.popleft() if self.steps else b"done"
        if step is None:
            await self.release.wait()
            return b"released"
        if isinstance(step, Exception):
            raise step
        return step

    async def query(self, kind: str, data: bytes) -> bytes | None:
        """What the script knows."""
        await trio.lowlevel.checkpoint()
        self.log.append(("query", kind))
        return self.queries.get(data)

    async def fetch(self) -> dict[str, bytes]:
        """Play the next step."""
        return {"cache": await self.perform("fetch", b"")}

    async def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Play the next step."""
        await self.perform("put_back", parts["cache"])

    async def cancel(self) -> None:
        """Let the request go."""
        await trio.lowlevel.checkpoint()
        self.log.append(("cancel",))
        if self.refuses_to_cancel:
            raise RequestRefused("not now")
        self.release.set()

    async def watch(self) -> None:
        """Die when told to."""
        await self.death.wait()
        raise BackendFailed("killed")


async def test_requests_are_done_in_order_and_one_at_a_time() -> None:
    """The backend is opened for the first one; replies come with numbers."""
    disk = Disk(deque([b"a", RequestRefused("no medium"), b"c"]))
    async with serving(service=disk) as bench:
        await trio.testing.wait_all_tasks_blocked()
        assert [] == disk.log
        for data in (b"1", b"2", b"3"):
            bench.device.disk.send("execute", data)
        await bench.until(lambda: len(bench.device.answers) == 3)
    assert [(1, b"a"), (2, "no medium"), (3, b"c")] == bench.device.answers
    assert [("open",), *(("execute", n) for n in "123")] == disk.log


async def test_cancel_may_be_refused() -> None:
    """The request goes on to its own end, and so does the backend."""
    disk = Disk(deque([None]), refuses_to_cancel=True)
    async with serving(service=disk) as bench:
        number = bench.device.disk.send("execute", b"1")
        await trio.testing.wait_all_tasks_blocked()
        bench.device.disk.cancel(number)
        await trio.testing.wait_all_tasks_blocked()
        disk.release.set()
        await bench.until(lambda: bool(bench.device.answers))
    assert [(number, b"released")] == bench.device.answers
    assert [("open",), ("execute", "1"), ("cancel",)] == disk.log


async def test_cancel_reaches_the_request_under_way_only() -> None:
    """The reply still comes; a number that is not under way is nobody's."""
    disk = Disk(deque([None]))
    async with serving(service=disk) as bench:
        first, second = bench.device.disk.send("execute", b"1"), bench.device.disk.send("execute", b"2")
        await trio.testing.wait_all_tasks_blocked()
        bench.device.disk.cancel(second)
        await trio.testing.wait_all_tasks_blocked()
        assert ("cancel",) not in disk.log
        bench.device.disk.cancel(first)
        await bench.until(lambda: len(bench.device.answers) == 2)
    assert [(1, b"released"), (2, b"done")] == bench.device.answers


async def test_cancel_that_comes_too_late_is_nobodys() -> None:
    """The request has ended before the lane looks: the next one is not cancelled in its place."""
    queue, unwanted = RequestQueue(BackendStatus("test")), trio.Event()

    async def look() -> None:
        await queue.unwanted()
        unwanted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        queue.ask(1, "execute", b"")
        queue.ask(2, "execute", b"")
        await trio.testing.wait_all_tasks_blocked()
        queue.cancel(1)
        queue.waiting.popleft()
        await trio.testing.wait_all_tasks_blocked()
        assert not unwanted.is_set()
        queue.cancel(2)
    assert unwanted.is_set()


async def test_what_is_for_the_device_task_hurries() -> None:
    """A request and bytes do, as often as there are some; what the queue has no room for does not."""
    hurried: list[str] = []
    requests, stream = RequestQueue(BackendStatus("test")), StreamQueue(BackendStatus("test"))
    requests.hurry, stream.hurry = partial(hurried.append, "requests"), partial(hurried.append, "stream")
    for number in range(MAX_REQUESTS + 1):
        requests.ask(number, "execute", b"")
    stream.put(b"x" * MAX_QUEUED)
    stream.put(b"too much")
    assert ["requests"] * MAX_REQUESTS + ["stream"] == hurried


async def test_a_reply_outlives_its_backend() -> None:
    """It waits for a VM that is paused; what was done at most once is not in doubt by then."""
    disk, on = Disk(deque([b"a"])), trio.Event()
    async with serving(service=disk) as bench:
        lane = bench.task.services[0]

        async def paused(action: Callable[[], None]) -> None:
            await on.wait()
            await bench.inject(action)

        lane.inject = paused
        number = bench.device.disk.send("execute", b"1")
        await trio.testing.wait_all_tasks_blocked()
        assert lane.queue.busy
        disk.death.set()
        await trio.testing.wait_all_tasks_blocked()
        on.set()
        await bench.until(lambda: bool(bench.device.answers))
    assert [(number, b"a")] == bench.device.answers
    assert [("open",), ("execute", "1"), ("open",)] == disk.log
    assert "effect_unknown" not in bench.events


async def test_what_a_backend_keeps_is_fetched_behind_the_requests() -> None:
    """It is that of after them; the device hears nothing of it."""
    disk = Disk(deque([b"a", b"content"]))
    async with serving(service=disk) as bench:
        queue = bench.task.services[0].queue
        bench.device.disk.send("execute", b"1")
        queue.fetch()
        assert queue.busy
        await bench.until(lambda: not queue.busy)
    assert ({"cache": b"content"}, None) == (queue.kept, queue.refusal)
    assert [(1, b"a")] == bench.device.answers
    assert [("open",), ("execute", "1"), ("fetch", "")] == disk.log


async def test_what_a_backend_kept_is_handed_over_before_later_requests() -> None:
    """Again if the backend dies of it; what is refused is told, and the next request done."""
    disk = Disk(deque([BackendFailed("killed"), b"", RequestRefused("no such format"), b"c"]))
    async with serving(service=disk) as bench:
        queue = bench.task.services[0].queue
        queue.put_back({"cache": b"1"})
        await bench.until(lambda: queue.kept is not None)
        queue.put_back({"cache": b"2"})
        bench.device.disk.send("execute", b"3")
        await bench.until(lambda: bool(bench.device.answers))
    assert (None, "no such format") == (queue.kept, queue.refusal)
    assert [("put_back", "1"), ("put_back", "1"), ("put_back", "2"), ("execute", "3")] == [
        step for step in disk.log if step != ("open",)
    ]
    assert "effect_unknown" not in bench.events


async def test_request_in_doubt_is_reported_and_never_repeated() -> None:
    """At most once: effect_unknown with number and kind, a failure for the device; the next one is done."""
    disk = Disk(deque([BackendFailed("killed")]))
    async with serving(service=disk) as bench:
        bench.device.disk.send("execute", b"1")
        bench.device.disk.send("execute", b"2")
        await bench.until(lambda: len(bench.device.answers) == 2)
    assert [(1, "killed"), (2, b"done")] == bench.device.answers
    assert ["backend_opened", "backend_failed", "effect_unknown", "backend_opened"] == bench.events
    assert {"device": "dev", "service": "disk", "number": 1, "kind": "execute"} == bench.facts(
        "effect_unknown"
    )
    assert 1 == disk.log.count(("execute", "1"))


async def test_idempotent_request_is_done_again() -> None:
    """The device gets one reply; nothing is unknown."""
    disk = Disk(deque([BackendFailed("killed"), OSError("again"), b"third"]))
    async with serving(service=disk) as bench:
        bench.device.disk.send("initialize", b"1")
        await bench.until(lambda: bool(bench.device.answers))
    assert [(1, b"third")] == bench.device.answers
    assert 3 == disk.log.count(("initialize", "1"))
    assert "effect_unknown" not in bench.events


async def test_idempotent_request_is_not_done_for_ever() -> None:
    """After three failures it fails too."""
    disk = Disk(deque([BackendFailed("killed")] * 10))
    async with serving(service=disk) as bench:
        bench.device.disk.send("initialize", b"1")
        await bench.until(lambda: bool(bench.device.answers))
    assert [(1, "killed")] == bench.device.answers
    assert 3 == disk.log.count(("initialize", "1"))


@pytest.mark.parametrize("known", [True, False])
async def test_queryable_request_is_asked_for(known: bool) -> None:
    """The backend says what became of it: its reply, or that it was not done, and then it is."""
    disk = Disk(deque([BackendFailed("killed"), b"done anew"]), queries={b"1": b"was done"} if known else {})
    async with serving(service=disk) as bench:
        bench.device.disk.send("ask", b"1")
        await bench.until(lambda: bool(bench.device.answers))
    assert [(1, b"was done" if known else b"done anew")] == bench.device.answers
    assert [
        ("open",),
        ("ask", "1"),
        ("open",),
        ("query", "ask"),
        *([] if known else [("ask", "1")]),
    ] == disk.log


async def test_backend_that_cannot_be_opened_fails_what_waits() -> None:
    """No request hangs, none was done; the next one tries again."""
    disk = Disk(openings=deque([OSError("no such program"), None]))
    async with serving(service=disk) as bench:
        for data in (b"1", b"2"):
            bench.device.disk.send("execute", data)
        await bench.until(lambda: len(bench.device.answers) == 2)
        bench.device.disk.send("execute", b"3")
        await bench.until(lambda: len(bench.device.answers) == 3)
    assert [(1, "no such program"), (2, "no such program"), (3, b"done")] == bench.device.answers
    assert ["backend_failed", "backend_opened"] == bench.events


async def test_death_without_request_is_told_and_costs_nothing() -> None:
    """An idle backend dies: one event; it is opened again for the next request."""
    disk = Disk()
    async with serving(service=disk) as bench:
        bench.device.disk.send("execute", b"1")
        await bench.until(lambda: bool(bench.device.answers))
        disk.death.set()
        await bench.until(lambda: "backend_failed" in bench.events)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == disk.log.count(("open",))
        bench.device.disk.send("execute", b"2")
        await bench.until(lambda: len(bench.device.answers) == 2)
    assert [(1, b"done"), (2, b"done")] == bench.device.answers


async def test_queue_of_requests_is_bounded() -> None:
    """What finds it full fails, while the others wait."""
    disk = Disk(deque([None]))
    async with serving(service=disk) as bench:
        for _ in range(MAX_REQUESTS + 2):
            bench.device.disk.send("execute", b"x")
        await bench.until(lambda: len(bench.device.answers) == 2)
        reason = f"{MAX_REQUESTS} requests wait already"
        assert [(MAX_REQUESTS + 1, reason), (MAX_REQUESTS + 2, reason)] == bench.device.answers
        disk.release.set()
        await bench.until(lambda: len(bench.device.answers) == MAX_REQUESTS + 2)
        assert not bench.task.services[0].queue.busy


# --- the short way -------------------------------------------------------------------------------


@define(eq=False)
class QuickDisk(Disk):
    """Does some requests at once; what the script says of them is an answer, a refusal, or None."""

    tries: deque[bytes | Exception | None] = field(factory=deque)
    quick: frozenset[str] = frozenset({"initialize"})

    def at_once(self, kind: str, data: bytes) -> bytes | None:
        """Play the next step."""
        self.log.append(("at once", kind, data.decode()))
        step = self.tries.popleft()
        if isinstance(step, Exception):
            raise step
        return step


async def test_quick_requests_are_done_one_by_one_without_the_task() -> None:
    """Each in a turn of the core's own; refusals and answers come in order."""
    disk = QuickDisk(deque([b"first"]), tries=deque([b"a", RequestRefused("no"), b"c"]))
    async with serving(service=disk) as bench:
        client, actions = bench.device.disk, list[Callable[[], None]]()
        client.send("initialize", b"0")
        await bench.until(lambda: bool(bench.device.answers))
        lane = bench.task.services[0]
        lane.short = ShortWay(actions.append, bench.inject_now)
        for data in (b"1", b"2", b"3"):
            client.send("initialize", data)
        answers = []
        while actions:
            (action,) = actions
            actions.clear()
            action()
            answers.append(len(bench.device.answers))
    assert [2, 3, 4] == answers
    assert [(1, b"first"), (2, b"a"), (3, "no"), (4, b"c")] == bench.device.answers
    done = [("at once", "initialize", data) for data in "123"]
    assert [("open",), ("initialize", "0"), *done] == disk.log


@define(eq=False)
class Woken(trio.abc.Instrument):
    """The tasks that something wakes."""

    tasks: list[trio.lowlevel.Task] = field(factory=list)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """One is about to run."""
        self.tasks.append(task)


async def test_what_the_core_does_wakes_no_task() -> None:
    """The lane's own has nothing to do with it: to run would cost as much as the request."""
    disk, woken = QuickDisk(deque([b"first"]), tries=deque([b"a", b"b"])), Woken()
    async with serving(service=disk) as bench:
        client, actions = bench.device.disk, list[Callable[[], None]]()
        client.send("initialize", b"0")
        await bench.until(lambda: bool(bench.device.answers))
        bench.task.services[0].short = ShortWay(actions.append, bench.inject_now)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(woken)
        for data in (b"1", b"2"):
            client.send("initialize", data)
            actions.pop()()
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(woken)
    assert [(1, b"first"), (2, b"a"), (3, b"b")] == bench.device.answers
    assert {trio.lowlevel.current_task()} == {*woken.tasks}


async def test_what_the_core_cannot_do_is_the_tasks() -> None:
    """What takes longer, and another kind; what comes behind them waits for them."""
    disk = QuickDisk(deque([b"first", b"a", None]), tries=deque([None, b"c"]))
    async with serving(service=disk) as bench:
        client = bench.device.disk
        client.send("initialize", b"0")
        await bench.until(lambda: len(bench.device.answers) == 1)
        client.send("initialize", b"1")
        await bench.until(lambda: len(bench.device.answers) == 2)
        await trio.testing.wait_all_tasks_blocked()
        client.send("execute", b"2")
        await trio.testing.wait_all_tasks_blocked()
        client.send("initialize", b"3")
        await trio.testing.wait_all_tasks_blocked()
        assert ("execute", "2") == disk.log[-1]
        disk.release.set()
        await bench.until(lambda: len(bench.device.answers) == 4)
    assert [b"first", b"a", b"released", b"done"] == [data for _, data in bench.device.answers]
    assert [
        ("initialize", "0"),
        ("at once", "initialize", "1"),
        ("initialize", "1"),
        ("execute", "2"),
        ("initialize", "3"),
    ] == disk.log[1:]


async def test_a_quick_answer_waits_for_a_vm_that_is_paused() -> None:
    """It is not done again."""
    disk = QuickDisk(deque([b"first"]), tries=deque([b"a"]))
    async with serving(service=disk) as bench:
        client, on, lane = bench.device.disk, trio.Event(), bench.task.services[0]
        client.send("initialize", b"0")
        await bench.until(lambda: bool(bench.device.answers))

        async def paused(action: Callable[[], None]) -> None:
            await on.wait()
            await bench.inject(action)

        lane.inject, lane.short = paused, ShortWay(lane.short.soon, lambda _action: False)
        client.send("initialize", b"1")
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == len(bench.device.answers)
        on.set()
        await bench.until(lambda: len(bench.device.answers) == 2)
    assert [(1, b"first"), (2, b"a")] == bench.device.answers
    assert [("open",), ("initialize", "0"), ("at once", "initialize", "1")] == disk.log


async def test_nothing_is_quick_at_rest() -> None:
    """A lane that is shut begins nothing in the core either, and has it when it goes on."""
    disk = QuickDisk(deque([b"first", b"a"]))
    async with serving(service=disk) as bench:
        client, lane = bench.device.disk, bench.task.services[0]
        client.send("initialize", b"0")
        await bench.until(lambda: bool(bench.device.answers))
        await lane.rest()
        client.send("initialize", b"1")
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == len(bench.device.answers)
        lane.gate.open()
        await bench.until(lambda: len(bench.device.answers) == 2)
    assert [("open",), ("initialize", "0"), ("initialize", "1")] == disk.log
