"""Exits in shared memory: answered in place, once, in order, whatever the client does there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from mmiod.attach import shared as attached
from mmiod.protocol.exit import NUMBERS, Ack, Completed, Error, pack, shared
from mmiod.values import READ, WRITE, Access, DecodedExit, Retry, Space, Values
from tests.attach.peers import PATIENCE_S, Guest, Rig, attach, sealed, serving
from tests.attach.slots import BY_MESSAGE, COMPLETE, READY, Slots
from tests.attach.test_exactly_once import again
from tests.attach.test_vm import release

CAPABILITY = NUMBERS["capability"]["SHARED_MEMORY"]
COUNT, ADD, SLOW, TOTAL, ACTION = 0x100, 0x104, 0x108, 0x10C, 0x205

pytestmark = pytest.mark.skipif(not attached.OFFERED, reason="x86-64 only")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """One VM behind a socket."""
    return Rig(tmp_path / "vm.exit")


async def shared_with(rig: Rig) -> tuple[Guest, Slots]:
    """A client whose exits go through slots."""
    guest = await attach(rig, required=CAPABILITY)
    slots = Slots(guest)
    await slots.share()
    return guest, slots


def add(value: int) -> Access:
    """A write of the register that adds up."""
    return Access(Space.PIO, WRITE, ADD, 4, value)


async def test_exits_are_answered_in_their_slots(rig: Rig) -> None:
    """Each vCPU has its own; the flat lane (from the second exit on) gives what the first was given."""
    async with serving(rig):
        _, slots = await shared_with(rig)
        with slots:
            assert [await slots.inp(COUNT) for _ in range(4)] == [1, 2, 3, 4]
            assert [await slots.inp(COUNT, vcpu=1) for _ in range(2)] == [5, 6]
            assert rig.attachment.shared is not None
            assert rig.attachment.shared.flat is not None
            assert rig.attachment.flights is not None
            assert rig.attachment.flights.totals.fold().exits == {"DecodedExit": 6}


async def test_posted_writes_come_before_the_exit_behind_them(rig: Rig) -> None:
    """They are applied in order, once, and the daemon tells how far it is."""
    async with serving(rig):
        _, slots = await shared_with(rig)
        with slots:
            for value in (1, 10, 100):
                slots.post(0, add(value))
            done = await slots.exit(DecodedExit(0, 0, Space.PIO, READ, TOTAL, 4))
            assert (done.completion, done.posted) == (Values((111).to_bytes(4, "little")), 3)
            assert slots.load(0, shared.APPLIED, 8) == 3
            for _ in range(shared.ENTRIES):
                slots.post(0, add(1))
            assert await slots.inp(TOTAL) == 111 + shared.ENTRIES


async def test_message_comes_behind_what_is_in_the_ring(rig: Rig) -> None:
    """An exit that goes by message finds the posted writes before it applied, and kept its number."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            assert await slots.inp(COUNT) == 1
            for total in (7, 14):  # the second would be the flat lane's
                slots.post(0, add(7))
                assert await guest.inp(TOTAL) == total
            assert await slots.inp(COUNT) == 2


async def test_device_that_owes_an_answer_completes_the_slot_later(rig: Rig) -> None:
    """Of a decoded read, in the flat lane and before it; what waits behind it comes after it."""
    async with serving(rig) as pump:
        _, slots = await shared_with(rig)
        with slots:
            for _ in range(2):
                slots.put(0, slots.guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, SLOW, 4)))
                await trio.testing.wait_all_tasks_blocked()
                slots.put(1, slots.guest.client.exit(DecodedExit(1, 0, Space.PIO, READ, COUNT, 4)))
                await trio.testing.wait_all_tasks_blocked()
                assert (slots.state(0), slots.state(1)) == (READY, READY)
                release(rig, pump)
                assert (await slots.completion(0)).completion == Values((0xC0FFEE).to_bytes(4, "little"))
                assert isinstance((await slots.completion(1)).completion, Values)


async def test_completion_that_does_not_fit_is_fetched_by_message(rig: Rig) -> None:
    """The exit is done once: the message is a resend."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            message = guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, COUNT, 4, count=300))
            slots.put(0, message)
            assert await slots.answered(0) == BY_MESSAGE
            await guest.send(message)
            done = await guest.expect(Completed)
            assert isinstance(done.completion, Values)
            assert done.completion.data[-4:] == (300).to_bytes(4, "little")
            assert await slots.inp(COUNT) == 301


async def test_exit_that_waits_outlives_the_connection(rig: Rig) -> None:
    """Its slot says that it goes by message; there, or in the slot of a new SHARE, it is done once."""
    async with serving(rig) as pump:
        guest, slots = await shared_with(rig)
        with slots:
            assert await slots.inp(COUNT) == 1
            slots.put(0, guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, SLOW, 4)))
            await trio.testing.wait_all_tasks_blocked()
            guest.socket.close()
            assert await slots.answered(0) == BY_MESSAGE
            back = await again(guest, rig)
            slots.guest = back
            slots.store(0, shared.STATE, READY)  # instead of a message
            await slots.share_again()
            await trio.testing.wait_all_tasks_blocked()
            release(rig, pump)
            assert (await slots.completion(0)).completion == Values((0xC0FFEE).to_bytes(4, "little"))
            assert await slots.inp(COUNT) == 2


async def test_exit_that_was_done_and_not_seen_is_not_done_again(rig: Rig) -> None:
    """What is READY with a number that has a reply gets that reply."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            await slots.inp(COUNT)
            message = guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, COUNT, 4))
            slots.put(0, message)
            assert await slots.answered(0) == COMPLETE
            slots.put(0, message)
            done = await slots.completion(0)
            assert done.completion == Values((2).to_bytes(4, "little"))
            assert await slots.inp(COUNT) == 3


async def test_pause_lets_slots_wait(rig: Rig) -> None:
    """An exit that comes while paused is done after RESUME, without another bell."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            await slots.inp(COUNT)
            await guest.send(pack("PAUSE", serial=5))
            await guest.expect(Ack)
            slots.put(0, guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, COUNT, 4)))
            await trio.testing.wait_all_tasks_blocked()
            assert slots.state(0) == READY
            await guest.send(pack("RESUME", serial=6))
            await guest.expect(Ack)
            assert (await slots.completion(0)).completion == Values((2).to_bytes(4, "little"))


async def test_a_pause_comes_behind_what_was_posted_before_it(rig: Rig) -> None:
    """The daemon had not looked: what it saves then has the write."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            await slots.inp(COUNT)
            await trio.testing.wait_all_tasks_blocked()
            slots.memory[shared.DAEMON_SLEEPS] = 0  # no kick
            slots.post(0, add(7))
            await guest.send(pack("PAUSE", serial=5))
            await guest.expect(Ack)
            assert slots.load(0, shared.APPLIED, 8) == slots.load(0, shared.POSTED, 8) == 1


async def test_reset_ends_an_exit_in_its_slot(rig: Rig) -> None:
    """It is completed with RETRY before the ACK."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            slots.put(1, guest.client.exit(DecodedExit(1, 0, Space.PIO, READ, SLOW, 4)))
            await trio.testing.wait_all_tasks_blocked()
            await guest.send(pack("RESET", serial=5, vcpu=0xFFFF_FFFF))
            await guest.expect(Ack)
            assert slots.state(1) == COMPLETE
            assert (await slots.completion(1)).completion == Retry()
            assert await slots.inp(COUNT, vcpu=1) == 1


async def test_reset_drops_what_was_in_a_slot_before_it(rig: Rig) -> None:
    """The daemon had not looked: the exit comes first, and ends with the others."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            await trio.testing.wait_all_tasks_blocked()
            slots.memory[shared.DAEMON_SLEEPS] = 0  # no kick
            slots.put(1, guest.client.exit(DecodedExit(1, 0, Space.PIO, READ, SLOW, 4)))
            await guest.send(pack("RESET", serial=5, vcpu=1))
            await guest.expect(Ack)
            assert (await slots.completion(1)).completion == Retry()


async def test_regions_that_move_are_found_where_they_are(rig: Rig) -> None:
    """The lane forgets its places."""
    async with serving(rig):
        _, slots = await shared_with(rig)
        with slots:
            assert [await slots.inp(COUNT), await slots.inp(COUNT)] == [1, 2]
            region = rig.machine.hosts["counter"].device.regions["main"]
            rig.machine.place("counter", region, Space.PIO, 0x300)
            assert [await slots.inp(0x300), await slots.inp(COUNT)] == [3, 0xFFFF_FFFF]


async def test_failing_device_reads_ones_from_then_on(rig: Rig) -> None:
    """The flat lane quarantines as the waist does, and hands over what follows."""
    async with serving(rig):
        _, slots = await shared_with(rig)
        with slots:
            await slots.out(ACTION, 0, size=1)
            await slots.out(ACTION, 2, size=1)
            assert rig.machine.hosts["bell"].failure == "RuntimeError: this device is broken"
            assert await slots.inp(ACTION, size=1) == 0xFF
            assert [record[12] for record in rig.records[-2:]] == ["quarantined", "quarantined"]


async def test_parked_daemon_is_kicked_and_a_busy_one_is_not(rig: Rig) -> None:
    """Without an event the source sleeps, and its flag says so."""
    async with serving(rig) as pump:
        _, slots = await shared_with(rig)
        with slots:
            await trio.testing.wait_all_tasks_blocked()
            assert slots.memory[shared.DAEMON_SLEEPS] == 1
            assert pump._awake == ()
            assert await slots.inp(COUNT) == 1


async def test_two_clients_have_their_own_memory(tmp_path: Path) -> None:
    """Two VMs on one pump: neither sees the other's exits."""
    rigs = Rig(tmp_path / "a.exit", "a"), Rig(tmp_path / "b.exit", "b")
    async with serving(*rigs):
        (_, one), (_, other) = [await shared_with(rig) for rig in rigs]
        with one, other:
            assert [await one.inp(COUNT), await one.inp(COUNT), await other.inp(COUNT)] == [1, 2, 1]


REFUSED = {
    "share.slots": pack("SHARE", serial=9, slots=3, length=shared.PAGE * 4),
    "share.length": pack("SHARE", serial=9, slots=2, length=shared.PAGE * 2),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
async def test_share_that_does_not_fit_names_the_field(rig: Rig, name: str, message: bytes) -> None:
    """A slot for each vCPU, and room for it."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY)
        with Slots(guest) as slots, sealed(slots.length) as memfd:
            await guest.send(message, memfd, slots.kick, *(ear.fileno() for ear in slots.ears))
            assert (await guest.expect(Error)).name == name


@pytest.mark.parametrize("wrong", ["unsealed", "short", "kick", "epoll", "ear"])
async def test_descriptors_of_another_kind_are_refused(rig: Rig, wrong: str, tmp_path: Path) -> None:
    """Memory that could shrink, or is short; a file or an epoll for the kick; an eventfd for an ear."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY)
        with Slots(guest) as slots, (tmp_path / "file").open("wb") as file:
            seals, length = (0, slots.length) if wrong == "unsealed" else (2, slots.length)
            with sealed(length // 2 if wrong == "short" else length, seals) as memfd:
                kicks = {"kick": file.fileno(), "epoll": slots.ears[0].fileno()}
                ears = [ear.fileno() for ear in slots.ears]
                if wrong == "ear":
                    ears[1] = slots.kick
                message = pack("SHARE", serial=1, slots=2, length=slots.length)
                await guest.send(message, memfd, kicks.get(wrong, slots.kick), *ears)
                refused = await guest.expect(Error)
        assert (refused.code, refused.name) == (NUMBERS["error"]["DESCRIPTOR"], "share.length")


async def test_share_needs_its_capability(rig: Rig) -> None:
    """It is a capability as any other."""
    async with serving(rig):
        guest = await attach(rig)
        with Slots(guest) as slots, sealed(slots.length) as memfd:
            await slots.send_share(memfd)
            assert (await guest.expect(Error)).code == NUMBERS["error"]["CAPABILITY"]


WRONG: dict[str, Callable[[Guest], bytes | bytearray]] = {
    "exit.vcpu": lambda guest: guest.client.exit(DecodedExit(1, 0, Space.PIO, READ, COUNT, 4)),
    "exit_decoded.size": lambda guest: bytearray(
        guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, COUNT, 4))
    ).replace(b"\4\0\1\0\0\0", b"\3\0\1\0\0\0"),
    "header.type": lambda _guest: pack("QUERY_CLAIMS", serial=1),
    "shared_slot.exit.size": lambda _guest: b"\xff" * 8,
    "header": lambda _guest: bytes(8),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_exit_in_a_slot_closes_the_connection_and_names_the_field(rig: Rig, name: str) -> None:
    """What a datagram would be refused for, and what only a slot can get wrong."""
    async with serving(rig):
        guest, slots = await shared_with(rig)
        with slots:
            await slots.inp(COUNT)
            slots.put(0, bytes(WRONG[name](guest)))
            assert (await guest.expect(Error)).name == name
            assert await guest.receive() is None
            assert rig.attachment.shared is None


async def test_ring_that_claims_more_than_it_holds_is_refused(rig: Rig) -> None:
    """Its number can neither run ahead nor go back."""
    async with serving(rig):
        for posted in (shared.ENTRIES + 1, 1 << 63):
            guest, slots = await shared_with(rig)
            with slots:
                await slots.inp(COUNT)
                slots.store(0, shared.POSTED, posted, 8)
                slots.ring(0)
                refused = await guest.expect(Error)
                assert (refused.name, refused.value) == ("shared_slot.posted", posted)
                assert await guest.receive() is None


async def test_client_that_fell_asleep_is_woken_when_the_slots_end(rig: Rig) -> None:
    """Its exit was complete, and whether it sleeps had not been looked at behind a barrier yet."""
    async with serving(rig):
        _, slots = await shared_with(rig)
        with slots:
            assert await slots.inp(COUNT) == 1
            memory = rig.attachment.shared
            assert memory is not None
            slots.store(0, shared.CLIENT_SLEEPS, 1)
            memory.unsure.append(memory.slots[0])
            slots.ears[0].poll(0)  # nothing of before
            memory.close()
            with trio.fail_after(PATIENCE_S):
                await trio.lowlevel.wait_readable(slots.ears[0])


async def test_client_that_missed_the_end_of_its_slots_is_woken_by_new_ones(rig: Rig) -> None:
    """What would have woken it went with the old ones, before it ran: it looks at its slot again."""
    async with serving(rig):
        _, slots = await shared_with(rig)
        with slots:
            slots.ears[0].poll(0)
            assert [] == slots.ears[0].poll(0)
            await slots.share_again()
            assert 1 == len(slots.ears[0].poll(0))
            assert [] == slots.ears[0].poll(0)


PLACES = [0, 64, 65, 4096, 4104, 4224, 8192, 8320]
"""Where a client has flags, bells, states and sizes."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbage_hurts_its_own_client_only(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Anything anywhere in the memory: an ERROR at most, and another VM goes on."""
    writes = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, shared.PAGE * 3 - 1) | st.sampled_from(PLACES),
                st.binary(min_size=1, max_size=64),
            ),
            max_size=12,
        )
    )

    async def scribble() -> None:
        directory = tmp_path_factory.mktemp("vm")
        rig, bystander = Rig(directory / "a", "a"), Rig(directory / "b", "b")
        async with serving(rig, bystander):
            (guest, slots), (_, others) = await shared_with(rig), await shared_with(bystander)
            with slots, others:
                await slots.inp(COUNT)
                slots.put(0, guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, COUNT, 4)))
                for at, written in writes:
                    end = min(at + len(written), len(slots.memory))
                    slots.memory[at:end] = written[: end - at]
                    slots.ring(0)
                    slots.ring(1)
                    os.eventfd_write(slots.kick, 1)
                    await trio.testing.wait_all_tasks_blocked()
                assert await others.inp(COUNT) == 1

    trio.run(scribble)
