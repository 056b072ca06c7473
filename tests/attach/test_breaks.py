"""Accesses that stand at a break, over real sockets and slots: none is lost, none is made twice."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from mmiod.attach.shared import OFFERED
from mmiod.core.stops import keep_ending
from mmiod.machine.breaks import Breaks
from mmiod.machine.stop import Break, Over, Stop
from mmiod.protocol.exit import NUMBERS, Ack, Completed
from mmiod.values import READ, WRITE, Access, DecodedExit, Done, RawExit, Retry, Space, Values
from tests.attach import functions as f
from tests.attach.functions import Functions, SlowFunction, attached
from tests.attach.peers import PATIENCE_S, Guest, Rig, attach, dial, serving
from tests.attach.slots import READY, Slots
from tests.attach.test_vm import flat32, release

COUNT, ADD, SLOW, TOTAL = 0x100, 0x104, 0x108, 0x10C
CAPABILITY = NUMBERS["capability"]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """One VM behind a socket."""
    return Rig(tmp_path / "vm.exit")


@contextmanager
def broken(breaks: Breaks, wish: Break) -> Iterator[Break]:
    """A break, for a while."""
    breaks.add(wish)
    yield wish
    breaks.remove(wish)


def hands_on(rig: Rig, action: Callable[[], object]) -> None:
    """What the control socket does."""
    action()
    rig.pump.work(rig.attachment.settle)


def go_on(rig: Rig, stop: Stop, answer: int | None = None) -> None:
    """Let an access go on, or answer it."""
    how = "continued" if answer is None else "answered"
    hands_on(rig, partial(rig.machine.breaks.end, stop, how, answer))  # type: ignore[arg-type]


async def stopped(wish: Break) -> Stop:
    """The access that stands now."""
    with trio.fail_after(PATIENCE_S):
        while not wish.news:
            await trio.testing.wait_all_tasks_blocked(0.001)
    stop = wish.news.popleft()
    assert isinstance(stop, Stop)
    return stop


def read(port: int, vcpu: int = 0, count: int = 1) -> DecodedExit:
    """IN of 4 bytes."""
    return DecodedExit(vcpu, 0, Space.PIO, READ, port, 4, count=count)


def number(completed: Completed) -> int:
    """What a read brought."""
    assert isinstance(completed.completion, Values)
    return int.from_bytes(completed.completion.data, "little")


def counted(rig: Rig) -> int:
    """How often the counter's register was read."""
    return int(rig.machine.hosts["counter"].device.values["count"])


async def test_access_stands_before_anything_was_done(rig: Rig) -> None:
    """The vCPU waits, others and other registers do not; then the access is made, once."""
    async with serving(rig):
        guest = await attach(rig)
        assert await guest.inp(COUNT) == 1
        with broken(rig.machine.breaks, Break("counter", "COUNT")) as wish:
            await guest.send(guest.client.exit(read(COUNT)))
            stop = await stopped(wish)
            assert (stop.vcpu, stop.sequence, stop.register, stop.value) == (0, 2, "count", 1)
            assert counted(rig) == 1
            assert await guest.inp(TOTAL, vcpu=1) == 0
            go_on(rig, stop)
            assert number(await guest.expect(Completed)) == 2
            assert [Over(1, "continued", None)] == list(wish.news)
        assert await guest.inp(COUNT) == 3


async def test_answer_instead_of_the_device(rig: Rig) -> None:
    """A read gives it, a write is dropped, and the device does not notice; the record says who answered."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(read(COUNT)))
            go_on(rig, await stopped(wish), 0xABCD)
            assert number(await guest.expect(Completed)) == 0xABCD
            wish.news.clear()
            await guest.send(
                guest.client.exit(DecodedExit(0, 0, Space.PIO, WRITE, ADD, 4, data=b"\x05\0\0\0"))
            )
            go_on(rig, await stopped(wish), 0)
            await guest.expect(Completed)
        assert await guest.inp(TOTAL) == 0
        assert counted(rig) == 0
        assert [("count", 0xABCD, "answered"), ("add", 5, "answered"), ("total", 0, "ok")] == [
            (record[11], record[8], record[12]) for record in rig.records
        ]


@pytest.mark.parametrize(
    ("wish", "stops"),
    [
        (Break("counter"), [0, 1, 2, 3]),
        (Break("counter", "c*"), [0, 3]),
        (Break("counter", direction=WRITE), [1, 2]),
        (Break("counter", value=7), [1]),
        (Break("counter", "count", READ, 1), [3]),
        (Break("bell"), []),
    ],
)
async def test_only_what_is_meant_stands(rig: Rig, wish: Break, stops: list[int]) -> None:
    """By device, register, direction, and by the value that is written or would be read."""
    async with serving(rig):
        guest = await attach(rig)
        found = []
        with broken(rig.machine.breaks, wish):
            for place, access in enumerate((None, 7, 8, None)):
                data = b"" if access is None else access.to_bytes(4, "little")
                port, direction = (COUNT, READ) if access is None else (ADD, WRITE)
                exit_ = DecodedExit(0, 0, Space.PIO, direction, port, 4, data=data)
                await guest.send(guest.client.exit(exit_))
                await trio.testing.wait_all_tasks_blocked()
                for stop in list(rig.machine.breaks.stops):
                    found.append(place)
                    go_on(rig, stop)
                await guest.expect(Completed)
        assert stops == found


async def test_what_the_flat_lane_knew_stands_too(rig: Rig) -> None:
    """Also an exit that was answered without a session before; and it is plain again afterwards."""
    async with serving(rig):
        guest = await attach(rig)
        for _ in range(3):
            await guest.inp(COUNT)
        assert rig.attachment.lane.places
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(read(COUNT)))
            go_on(rig, await stopped(wish))
            assert number(await guest.expect(Completed)) == 4
        assert await guest.inp(COUNT) == 5
        assert any(rig.attachment.lane.places.values())


@pytest.mark.skipif(not OFFERED, reason="x86-64 only")
async def test_slots(rig: Rig) -> None:
    """In shared memory the exit stays READY, and another vCPU's is answered."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["SHARED_MEMORY"])
        slots = Slots(guest)
        await slots.share()
        with slots:
            assert await slots.inp(COUNT) == 1
            with broken(rig.machine.breaks, Break("counter", "count")) as wish:
                slots.put(0, guest.client.exit(read(COUNT)))
                stop = await stopped(wish)
                assert await slots.inp(TOTAL, vcpu=1) == 0
                assert slots.state(0) == READY
                go_on(rig, stop)
                assert number(await slots.completion(0)) == 2


async def test_raw_exit(rig: Rig) -> None:
    """RIP does not move before the access is made; the stop tells where it is."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(RawExit(0, 0, flat32(edx=COUNT), b"\xed")))
            stop = await stopped(wish)
            assert stop.pc == 0x1000
            go_on(rig, stop)
            done = await guest.expect(Completed)
        assert isinstance(done.completion, Done)
        assert (done.completion.delta.registers, done.completion.delta.rip) == ({0: 1}, 0x1001)


async def test_each_element_of_a_string_stands(rig: Rig) -> None:
    """One exit of three elements stops three times; none is left out."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(read(COUNT, count=3)))
            for answer in (None, 9, None):
                stop = await stopped(wish)
                go_on(rig, stop, answer)
                wish.news.popleft()
            done = await guest.expect(Completed)
        assert done.completion == Values(b"".join(n.to_bytes(4, "little") for n in (1, 9, 2)))


async def test_two_vcpus_stand_apart(rig: Rig) -> None:
    """The second one may go on before the first."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter", "count")) as wish:
            for vcpu in (0, 1):
                await guest.send(guest.client.exit(read(COUNT, vcpu)))
            first, second = await stopped(wish), await stopped(wish)
            go_on(rig, second)
            done = await guest.expect(Completed)
            assert (done.vcpu, number(done)) == (1, 1)
            go_on(rig, first)
            done = await guest.expect(Completed)
            assert (done.vcpu, number(done)) == (0, 2)


async def test_device_that_owes_an_answer_meanwhile(rig: Rig) -> None:
    """Its answer goes to who waits for it, not to who stands; who is let go then waits for its turn."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter", "count")) as wish:
            await guest.send(guest.client.exit(read(COUNT)))
            stop = await stopped(wish)
            await guest.send(guest.client.exit(read(SLOW, 1)))
            await trio.testing.wait_all_tasks_blocked()
            go_on(rig, stop)
            await trio.testing.wait_all_tasks_blocked()
            assert counted(rig) == 0
            release(rig, pump)
            answers = {done.vcpu: number(done) for done in [await guest.expect(Completed) for _ in range(2)]}
        assert answers == {0: 1, 1: 0xC0FFEE}


async def test_posted_write_does_not_stand(rig: Rig) -> None:
    """Nobody waits for it: it is told, and done; the exit behind it stands."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.post(0, Access(Space.PIO, WRITE, ADD, 4, 5)))
            await guest.send(guest.client.exit(read(TOTAL)))
            posted = await stopped(wish)
            assert ("add", Over(1, "posted", None)) == (posted.register, wish.news.popleft())
            stop = await stopped(wish)
            go_on(rig, stop)
            assert number(await guest.expect(Completed)) == 5


# --- it ends by itself --------------------------------------------------------------------------


async def test_it_goes_on_when_nobody_breaks_there_any_more(rig: Rig) -> None:
    """Unless somebody else does: several clients may want the same."""
    async with serving(rig):
        guest = await attach(rig)
        breaks, one, other = rig.machine.breaks, Break("counter"), Break("counter", "count")
        breaks.add(one)
        breaks.add(other)
        await guest.send(guest.client.exit(read(COUNT)))
        await stopped(one)
        hands_on(rig, partial(breaks.remove, one))
        await trio.testing.wait_all_tasks_blocked()
        assert counted(rig) == 0
        hands_on(rig, partial(breaks.remove, other))
        assert number(await guest.expect(Completed)) == 1
        assert not rig.machine.hosts["counter"].broken
        assert {} == rig.machine.withheld


async def test_it_goes_on_after_its_time(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    """The shortest of those who want it; no longer than the hypervisor waits for all of an exit."""
    autojump_clock.autojump_threshold = 0.05
    async with serving(rig), trio.open_nursery() as nursery:
        nursery.start_soon(keep_ending, rig.machine.breaks, rig.attachment.settle)
        guest = await attach(rig)
        for longest_s, count, expected_s in ((600, 1, 5), (2, 1, 2), (600, 3, 15), (12, 3, 12), (10, 9, 10)):
            rig.machine.breaks.longest_ns = longest_s * 10**9
            wish = Break("counter", timeout_ns=5 * 10**9)
            with broken(rig.machine.breaks, wish), broken(rig.machine.breaks, Break("counter")):
                began = trio.current_time()
                await guest.send(guest.client.exit(read(COUNT, count=count)))
                await guest.expect(Completed)
                assert expected_s == pytest.approx(trio.current_time() - began, abs=0.1)
                assert wish.news.pop() == Over(rig.machine.breaks._number, "timeout", None)
        nursery.cancel_scope.cancel()


async def test_deadline_of_the_hypervisor_bounds_it(rig: Rig) -> None:
    """What HELLO says of its patience is four fifths ours."""
    async with serving(rig):
        guest = await dial(rig)
        guest.client.deadline_ns = 1_000_000_000
        await guest.hello()
        assert rig.machine.breaks.longest_ns == 800_000_000


async def test_pause_lets_go(rig: Rig) -> None:
    """PAUSE is acknowledged, whatever stands; from RESUME on accesses stand again."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(read(COUNT, count=2)))
            await stopped(wish)
            await guest.send(guest.client.pause()[1])
            done = await guest.expect(Completed)
            assert done.completion == Values(b"\1\0\0\0\2\0\0\0")
            await guest.expect(Ack)
            assert [Over(1, "paused", None)] == list(wish.news)
            wish.news.clear()
            await guest.send(guest.client.resume()[1])
            await guest.expect(Ack)
            await guest.send(guest.client.exit(read(COUNT)))
            go_on(rig, await stopped(wish))
            assert number(await guest.expect(Completed)) == 3


@pytest.mark.parametrize("vcpu", [0, None])
async def test_reset_drops_it(rig: Rig, vcpu: int | None) -> None:
    """Of the vCPU or of all: the access is not made; another vCPU's stands on if it is not meant."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter", "count")) as wish:
            for one in (0, 1):
                await guest.send(guest.client.exit(read(COUNT, one)))
            await stopped(wish)
            await stopped(wish)
            await guest.send(guest.client.reset(vcpu)[1])
            dropped = [await guest.expect(Completed) for _ in range(1 if vcpu == 0 else 2)]
            assert all(done.completion == Retry() for done in dropped)
            await guest.expect(Ack)
            assert counted(rig) == 0
            assert [1] * (vcpu == 0) == [stop.vcpu for stop in rig.machine.breaks.stops]
            assert wish.news.popleft() == Over(1, "reset", None)
            for stop in list(rig.machine.breaks.stops):
                go_on(rig, stop)
                assert number(await guest.expect(Completed)) == 1


async def test_quarantine_meanwhile(rig: Rig) -> None:
    """An access that stands when its device fails reads ones when it goes on."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(read(COUNT)))
            stop = await stopped(wish)
            rig.machine.hosts["counter"].quarantine(ValueError("bad bits"))
            go_on(rig, stop)
            assert number(await guest.expect(Completed)) == 0xFFFFFFFF


async def test_resend_of_what_stands(rig: Rig) -> None:
    """A client that comes back and sends it again gets its answer there, and it was made once."""
    async with serving(rig):
        guest = await attach(rig)
        with broken(rig.machine.breaks, Break("counter")) as wish:
            await guest.send(guest.client.exit(read(COUNT)))
            stop = await stopped(wish)
            [again] = guest.client.unanswered(0)
            await guest.send(again)
            await trio.testing.wait_all_tasks_blocked()
            assert [stop] == rig.machine.breaks.stops
            go_on(rig, stop)
            assert number(await guest.expect(Completed)) == 1
        assert counted(rig) == 1


async def test_other_vms_do_not_notice(tmp_path: Path) -> None:
    """A vCPU of one VM stands, the other VM's accesses to its own device of that name are answered."""
    rigs = [Rig(tmp_path / name, name) for name in ("one", "two")]
    async with serving(*rigs):
        guests: list[Guest] = [await attach(rig) for rig in rigs]
        with broken(rigs[0].machine.breaks, Break("counter")) as wish:
            await guests[0].send(guests[0].client.exit(read(COUNT)))
            await stopped(wish)
            assert [await guests[1].inp(COUNT) for _ in range(3)] == [1, 2, 3]
            go_on(rigs[0], rigs[0].machine.breaks.stops[0])
            assert number(await guests[0].expect(Completed)) == 1


# --- vfio-user ----------------------------------------------------------------------------------


def end(rig: Functions, stop: Stop, answer: int | None = None) -> None:
    """Let it go on, or answer it."""
    rig.machine.breaks.end(stop, "continued" if answer is None else "answered", answer)
    rig.attachment.pump.work(rig.attachment.settle)


async def test_function_behind_vfio_user(tmp_path: Path) -> None:
    """A message stands; those behind it wait; it is answered by the device, or in its place."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with f.serving(rig), attached(rig, "slow") as client:
        assert await client.read(0, 4, 4) == struct.pack("<I", 0x12345678)
        with broken(rig.machine.breaks, Break("slow", "quick")) as wish:
            for answer, expected in ((None, 0x12345678), (5, 5)):
                await client.send(f.READ, struct.pack("<QII", 4, 0, 4))
                await client.send(f.READ, struct.pack("<QII", 28, 0, 4))
                stop = await stopped(wish)
                assert (stop.register, stop.value) == ("quick", 0x12345678)
                end(rig, stop, answer)
                first, second = await client.receive(), await client.receive()
                assert struct.pack("<II", expected, 16) == first.payload[16:] + second.payload[16:]
                wish.news.clear()
        assert await client.read(0, 4, 4) == struct.pack("<I", 0x12345678)


async def test_message_stands_once(tmp_path: Path) -> None:
    """Of 24 bytes, three accesses: its client has a deadline for all of it."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with f.serving(rig), attached(rig, "slow") as client:
        with broken(rig.machine.breaks, Break("slow", direction=WRITE)) as wish:
            head = struct.pack("<QII", 8, 0, 16)
            await client.send(f.WRITE, head + struct.pack("<QQ", 1, 2))
            end(rig, await stopped(wish))
            assert not (await client.receive()).failed
        assert rig.machine.hosts["slow"].device.values["source"] == 1


async def test_function_goes_on_before_its_client_gives_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """At four fifths of the access deadline, whatever was wished; the access is made and none has expired."""
    autojump_clock.autojump_threshold = 0.05
    rig = Functions(tmp_path, {"slow": SlowFunction}, deadline_s=1)
    async with f.serving(rig), attached(rig, "slow") as client, trio.open_nursery() as nursery:
        nursery.start_soon(keep_ending, rig.machine.breaks, rig.attachment.settle)
        with broken(rig.machine.breaks, Break("slow")):
            assert await client.read(0, 4, 4) == struct.pack("<I", 0x12345678)
        assert [] == rig.of("access_expired")
        nursery.cancel_scope.cancel()


async def test_client_that_goes_away_is_waited_for_no_more(tmp_path: Path) -> None:
    """What it left standing is over, and the next client is served."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with f.serving(rig):
        with broken(rig.machine.breaks, Break("slow")) as wish:
            async with attached(rig, "slow") as client:
                await client.send(f.READ, struct.pack("<QII", 4, 0, 4))
                stop = await stopped(wish)
            await rig.wait_for("function_detached")
            assert [Over(stop.number, "dropped", None)] == list(wish.news)
        async with attached(rig, "slow") as client:
            assert await client.read(0, 4, 4) == struct.pack("<I", 0x12345678)


async def test_rest_lets_go(tmp_path: Path) -> None:
    """Before the daemon executes itself anew no message may stand."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with f.serving(rig), attached(rig, "slow") as client:
        with broken(rig.machine.breaks, Break("slow")) as wish:
            await client.send(f.READ, struct.pack("<QII", 4, 0, 4))
            await stopped(wish)
            with trio.fail_after(PATIENCE_S):
                await rig.attachment.rest()
            rig.attachment.go_on()
            assert struct.pack("<I", 0x12345678) == (await client.receive()).payload[16:]
            wish.news.clear()
            await client.send(f.READ, struct.pack("<QII", 4, 0, 4))
            end(rig, await stopped(wish))
            await client.receive()
