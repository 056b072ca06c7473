"""A VM's attachment over its real socket: sessions, exits, signals, time."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from mmiod.protocol.exit import NUMBERS, Ack, Claims, Completed, Error, Intr, Msi, Request, Welcome
from mmiod.values import (
    CS,
    READ,
    WRITE,
    AcknowledgeExit,
    DecodedExit,
    Done,
    ExtendedState,
    HaltExit,
    NeedMemory,
    NeedRegisters,
    RawExit,
    Refusal,
    Refused,
    RegisterSet,
    Retry,
    Segment,
    Space,
    TickExit,
    Unsupported,
    Values,
    VcpuState,
    VectorDelta,
)
from tests.attach.peers import RAM, Guest, Rig, attach, dial, sealed, serving

CAPABILITY = NUMBERS["capability"]
OSFXSR = 1 << 9
"""CR4's bit that enables SSE."""
Fields = dict[str, object]
FLAT = [Segment(0, 0xFFFFFFFF, 0x10, 0xC093) for _ in range(6)]


def flat32(**registers: int) -> VcpuState:
    """A vCPU in flat 32-bit protected mode without paging."""
    segments = list(FLAT)
    segments[CS] = Segment(0, 0xFFFFFFFF, 8, 0xC09B)
    state = VcpuState(segments=segments, cr0=1, rip=0x1000)
    for number, name in enumerate(("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")):
        state.gpr[number] = registers.get(name, 0)
    return state


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """One VM behind a socket."""
    return Rig(tmp_path / "vm.exit")


async def test_decoded_accesses_reach_the_device_at_the_port(rig: Rig) -> None:
    """IN and OUT find a register by port; what nobody claims reads as ones."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.out(0x104, 5)
        assert await guest.inp(0x10C) == 5
        assert await guest.inp(0x3000, 2) == 0xFFFF


async def test_plain_exits_need_no_session(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first exit of a connection goes the general way, later ones through the flat lane."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.out(0x104, 5)
        [connection] = rig.attachment.connections
        monkeypatch.setattr(type(connection.session), "receive", None)
        assert await guest.inp(0x10C) == 5
        await guest.out(0x104, 6, vcpu=1)
        assert rig.attachment.flights is not None
        assert rig.attachment.flights.totals.fold().exits == {"DecodedExit": 3}


async def test_string_of_a_port_is_one_exit(rig: Rig) -> None:
    """A decoded exit with a count gives every element its access, in order."""
    async with serving(rig):
        guest = await attach(rig)
        done = await guest.exit(DecodedExit(0, 0, Space.PIO, READ, 0x100, 4, count=3))
        assert done.completion == Values(b"".join(n.to_bytes(4, "little") for n in (1, 2, 3)))


async def test_raw_in_gets_a_delta(rig: Rig) -> None:
    """A raw exit is decoded here: IN EAX, DX changes RAX and RIP, nothing else."""
    async with serving(rig):
        guest = await attach(rig)
        done = await guest.exit(RawExit(0, 0, flat32(edx=0x100), b"\xed"))
        assert isinstance(done.completion, Done)
        assert done.completion.delta.registers == {0: 1}
        assert done.completion.delta.rip == 0x1001


async def test_instruction_bytes_are_fetched_from_guest_memory(rig: Rig) -> None:
    """An exit without bytes is completed from RAM at CS:RIP."""
    async with serving(rig):
        guest = await attach(rig)
        with sealed(RAM) as descriptor:
            os.pwrite(descriptor, b"\xed\x90", 0x1000)
            await guest.send(guest.client.map(0, 0, RAM)[1], descriptor)
            await guest.expect(Ack)
            done = await guest.exit(RawExit(0, 0, flat32(edx=0x100)))
        assert isinstance(done.completion, Done)
        assert done.completion.delta.rip == 0x1001


async def test_ins_writes_guest_memory(rig: Rig) -> None:
    """REP INSD stores what the port gave into mapped RAM and reports RCX and RDI."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.map_ram()
        done = await guest.exit(RawExit(0, 0, flat32(edx=0x100, ecx=3, edi=0x2000), b"\xf3\x6d"))
        assert isinstance(done.completion, Done)
        assert done.completion.delta.registers[1] == 0
        assert done.completion.delta.registers[7] == 0x200C
        assert rig.machine.memory.read(0x2000, 12) == b"\1\0\0\0\2\0\0\0\3\0\0\0"


async def test_memory_that_only_messages_reach_is_asked_for(rig: Rig) -> None:
    """OUTS from a slot without descriptor needs the bytes first, and then does one access."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["MEMORY_MESSAGES"])
        await guest.send(guest.client.map(0, 0, RAM, descriptor=False)[1])
        await guest.expect(Ack)
        exit_ = RawExit(0, 0, flat32(edx=0x104, esi=0x2000), b"\x6f")
        first = await guest.exit(exit_)
        assert first.completion == NeedMemory(0x2000, 4)
        exit_.memory.append((0x2000, b"\7\0\0\0"))
        assert isinstance((await guest.exit(exit_)).completion, Done)
        assert await guest.inp(0x10C) == 7


async def test_vector_registers_travel_when_they_are_asked_for(rig: Rig) -> None:
    """MOVDQU from xmm3 asks for SSE, is sent again with it and done; the way back asks for nothing."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["VECTORS"])
        await guest.map_ram()
        state = flat32(edi=0x2000)
        state.cr4 = OSFXSR
        exit_ = RawExit(0, 0, state, b"\xf3\x0f\x7f\x1f")
        assert (await guest.exit(exit_)).completion == NeedRegisters(RegisterSet.SSE)
        state.extended = ExtendedState(RegisterSet.SSE)
        state.extended.zmm[3] = 0x1122_3344 << 96 | 5
        assert isinstance((await guest.exit(exit_)).completion, Done)
        assert rig.machine.memory.read(0x2000, 16) == state.extended.zmm[3].to_bytes(16, "little")

        state.extended, exit_.code = None, b"\xf3\x0f\x6f\x0f"
        done = (await guest.exit(exit_)).completion
        assert isinstance(done, Done)
        assert done.delta.vectors == VectorDelta(xmm={1: 0x1122_3344 << 96 | 5})


async def test_vectors_of_a_client_that_cannot_supply_them_are_unsupported(rig: Rig) -> None:
    """Without capability VECTORS not even a load is done: its result could not travel."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.map_ram()
        state = flat32(edi=0x2000)
        state.cr4 = OSFXSR
        done = await guest.exit(RawExit(0, 0, state, b"\xf3\x0f\x6f\x0f"))
        assert done.completion == Unsupported(b"\xf3\x0f\x6f\x0f")


async def test_what_is_not_executed_is_told_with_its_bytes(rig: Rig) -> None:
    """CPUID is none of ours: `unsupported` carries the bytes."""
    async with serving(rig):
        guest = await attach(rig)
        done = await guest.exit(RawExit(0, 0, flat32(), b"\x0f\xa2"))
        assert done.completion == Unsupported(b"\x0f\xa2")


async def test_instruction_that_does_not_touch_the_named_page_is_refused(rig: Rig) -> None:
    """Stale bytes must not access a device: mov [0x5000], eax for an exit at 0x9000."""
    async with serving(rig):
        guest = await attach(rig)
        exit_ = RawExit(0, 0, flat32(), b"\xa3\x00\x50\x00\x00", gpa=0x9000)
        assert (await guest.exit(exit_)).completion == Refused(Refusal.ADDRESS_MISMATCH)


async def test_access_from_event_delivery_is_refused(rig: Rig) -> None:
    """There is no instruction to execute while an event is being delivered."""
    async with serving(rig):
        guest = await attach(rig)
        done = await guest.exit(RawExit(0, 0, flat32(), b"\xed", event_delivery=True))
        assert done.completion == Refused(Refusal.EVENT_DELIVERY)


async def test_pending_access_parks_its_vcpu_only(rig: Rig) -> None:
    """While vCPU 0 waits for a slow register, vCPU 1 goes on with another device."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
        await guest.out(0x204, 0, 1, vcpu=1)
        release(rig, pump)
        done = await guest.expect(Completed)
        assert done.completion == Values((0xC0FFEE).to_bytes(4, "little"))


async def test_accesses_behind_a_pending_one_keep_their_order(rig: Rig) -> None:
    """A device that owes an answer gets no other access until it has given it."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
        await guest.send(guest.client.exit(DecodedExit(1, 0, Space.PIO, READ, 0x100, 4)))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.machine.hosts["counter"].device.values["count"] == 0
        release(rig, pump)
        answers = [await guest.expect(Completed) for _ in range(2)]
        assert [done.vcpu for done in answers] == [0, 1]
        assert rig.machine.hosts["counter"].device.values["count"] == 1


async def test_reset_of_a_vcpu_drops_its_pending_exit(rig: Rig) -> None:
    """The late answer of a dropped access goes nowhere, and the device serves on."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
        await guest.send(guest.client.reset(0)[1])
        assert (await guest.expect(Completed)).completion == Retry()
        await guest.expect(Ack)
        release(rig, pump)
        assert await guest.inp(0x100) == 1


async def test_halt_ends_with_the_interrupt_and_inta_gives_the_vector(rig: Rig) -> None:
    """HLT is an exit that completes when the controller raises INTR."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["INTR"])
        await guest.out(0x200, 1_000)
        await guest.send(guest.client.exit(HaltExit(0, 0)))
        assert await guest.expect(Intr) == Intr(0, True)
        done = await guest.expect(Completed)
        assert done.completion == Values()
        assert done.interrupt
        await guest.send(guest.client.exit(AcknowledgeExit(0, 0)))
        assert await guest.expect(Intr) == Intr(0, False)
        vector = await guest.expect(Completed)
        assert vector.completion == Values(b"\x30")
        assert not vector.interrupt


async def test_virtual_time_goes_with_the_exits(rig: Rig) -> None:
    """With GUEST_TIME a timer is due when an exit says so, and a halt skips to it."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["GUEST_TIME"] | CAPABILITY["INTR"])
        armed = await guest.out(0x200, 5_000, guest_ns=1_000)
        assert (armed.guest_ns, armed.deadline_ns) == (1_000, 6_000)
        early = await guest.exit(TickExit(0, 0), guest_ns=5_999)
        assert not early.interrupt
        due = await guest.exit(TickExit(0, 0), guest_ns=6_000)
        assert due.interrupt
        await guest.exit(AcknowledgeExit(0, 0), guest_ns=6_000)
        await guest.out(0x200, 1_000_000, guest_ns=7_000)
        woken = await guest.exit(HaltExit(0, 0), guest_ns=8_000)
        assert (woken.guest_ns, woken.interrupt) == (1_007_000, True)


async def test_request_of_a_device_reaches_the_hypervisor(rig: Rig) -> None:
    """A reset asked for by the guest goes out before the completion of the write that asked."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["REQUESTS"])
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, WRITE, 0x205, 1, data=b"\1")))
        assert (await guest.expect(Request)).kind == NUMBERS["request_kind"]["RESET"]
        await guest.expect(Completed)


async def test_reset_returns_devices_to_power_on(rig: Rig) -> None:
    """RESET of the machine resets every device."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.out(0x104, 5)
        await guest.send(guest.client.reset()[1])
        await guest.expect(Ack)
        assert await guest.inp(0x10C) == 0


async def test_pause_freezes_the_clock_and_refuses_exits_until_resume(rig: Rig) -> None:
    """PAUSE stops time; an exit meanwhile is refused without harm."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.out(0x104, 5)
        await guest.send(guest.client.pause()[1])
        await guest.expect(Ack)
        now = rig.machine.clock.now_ns
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x10C, 4)))
        refused = await guest.expect(Error)
        assert (refused.name, refused.fatal) == ("exit.sequence", False)
        assert rig.machine.clock.now_ns == now
        await guest.send(guest.client.resume()[1])
        await guest.expect(Ack)
        [again] = guest.client.unanswered(0)
        await guest.send(again)
        assert (await guest.expect(Completed)).completion == Values(b"\5\0\0\0")


async def test_pause_waits_for_what_a_device_holds_up(rig: Rig) -> None:
    """PAUSE is acknowledged behind the completion of what was under way; until then time goes on."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
        await guest.send(guest.client.pause()[1])
        await trio.testing.wait_all_tasks_blocked()
        assert rig.machine.clock.runs
        release(rig, pump)
        await guest.expect(Completed)
        await guest.expect(Ack)
        assert not rig.machine.clock.runs


async def test_state_goes_from_one_machine_to_another(tmp_path: Path) -> None:
    """SAVE while paused gives a memfd; RESTORE in another VM's fresh session takes it."""
    one, two = Rig(tmp_path / "one.exit", "one"), Rig(tmp_path / "two.exit", "two")
    async with serving(one, two):
        guest, successor = await attach(one), await attach(two)
        await guest.out(0x104, 5)
        await guest.send(guest.client.save()[1])
        assert (await guest.expect(Error)).reason == "SAVE comes after the ACK of a PAUSE"
        await guest.send(guest.client.pause()[1])
        await guest.expect(Ack)
        await guest.send(guest.client.save()[1])
        descriptor, length = await guest.expect_descriptor()
        await successor.send(successor.client.restore(length)[1], descriptor)
        os.close(descriptor)
        await successor.expect(Ack)
        assert await successor.inp(0x10C) == 5


async def test_state_that_does_not_fit_is_refused_by_name(rig: Rig, tmp_path: Path) -> None:
    """The error names the place in the document; the session goes on."""
    async with serving(rig):
        guest = await attach(rig)
        (tmp_path / "state").write_text('{"kind": "mmiod-state", "schema": 9}')
        with (tmp_path / "state").open("rb") as file:
            await guest.send(guest.client.restore(100)[1], file.fileno())
        refused = await guest.expect(Error)
        assert (refused.name, refused.reason) == ("restore", "schema: 9, this mmiod reads 2, 3")
        assert await guest.inp(0x100) == 1


async def test_claims_tell_who_answers_where(rig: Rig) -> None:
    """QUERY_CLAIMS gives every range of every space with its owner."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.send(guest.client.query_claims()[1])
        claims = (await guest.expect(Claims)).claims
        assert [(c.base, c.length) for c in claims if c.owner == "counter"] == [(0x100, 16)]


async def test_second_client_is_refused_and_the_first_undisturbed(rig: Rig) -> None:
    """One VM has one hypervisor."""
    async with serving(rig):
        guest = await attach(rig)
        other = await dial(rig)
        await other.send(other.client.hello())
        refused = await other.expect(Error)
        assert refused.code == NUMBERS["error"]["BUSY"]
        assert await other.receive() is None
        assert await guest.inp(0x100) == 1


async def test_wrong_vm_name_is_refused(rig: Rig) -> None:
    """A socket belongs to one VM."""
    async with serving(rig):
        guest = await dial(rig)
        guest.client.vm = "another"
        await guest.send(guest.client.hello())
        refused = await guest.expect(Error)
        assert (refused.code, refused.name) == (NUMBERS["error"]["IDENTITY"], "hello.vm")


async def test_joined_channel_carries_a_vcpu(rig: Rig) -> None:
    """A thread per vCPU uses a channel of its own; completions come where the exit went."""
    async with serving(rig):
        guest = await attach(rig)
        channel = await dial(rig)
        channel.client.token = guest.client.token
        await channel.hello(join=True)
        assert await channel.inp(0x100, vcpu=1) == 1
        assert await guest.inp(0x100, vcpu=0) == 2


async def test_session_ends_when_its_client_does_not_return(
    rig: Rig, mock_clock: trio.testing.MockClock
) -> None:
    """After the grace period devices are reset and guest memory is let go."""
    mock_clock.autojump_threshold = 0.05
    async with serving(rig, grace_s=5):
        guest = await attach(rig)
        await guest.map_ram()
        await guest.out(0x104, 5)
        guest.socket.close()
        await trio.sleep(4.9)
        assert rig.machine.memory.slots
        await trio.sleep(0.2)
        assert not rig.machine.memory.slots
        assert rig.machine.hosts["counter"].device.values["total"] == 0


async def test_two_vms_with_eight_vcpus_each(tmp_path: Path) -> None:
    """VMs on one pump keep apart; all vCPUs of both have exits in flight at once."""
    rigs = [Rig(tmp_path / f"{name}.exit", name) for name in ("one", "two")]
    async with serving(*rigs):
        guests = [await attach(rig, vcpus=8) for rig in rigs]
        for _ in range(50):
            for guest in guests:
                for vcpu in range(8):
                    add_one = DecodedExit(vcpu, 0, Space.PIO, WRITE, 0x104, 4, data=b"\1\0\0\0")
                    await guest.send(guest.client.exit(add_one))
            for guest in guests:
                seen = {(await guest.expect(Completed)).vcpu for _ in range(8)}
                assert seen == set(range(8))
        assert [await guest.inp(0x10C) for guest in guests] == [400, 400]


def release(rig: Rig, pump: object) -> None:
    """Let the slow register of the counter answer."""
    del pump
    host = rig.machine.hosts["counter"]

    def answer() -> None:
        host.deliver("release", level=True)
        rig.attachment._flush()

    rig.pump.work(answer)


__all__ = ["Guest", "Welcome"]


async def test_message_of_a_device_reaches_a_client_that_asked_for_messages(rig: Rig) -> None:
    """MSI with address and data, before the completion of the write that caused it."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["MSI"])
        write = DecodedExit(0, 0, Space.PIO, WRITE, 0x205, 1, data=b"\x04")
        await guest.send(guest.client.exit(write))
        assert await guest.expect(Msi) == Msi(0xFEE0_1000, 0x4030)
        await guest.expect(Completed)


async def test_message_is_not_sent_to_a_client_that_cannot_deliver_it(rig: Rig) -> None:
    """Without the capability the completion comes alone, and an event names who is not heard."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.out(0x205, 4, size=1)
        assert await guest.inp(0x100) == 1
    assert [dropped("bell", "MSI")] == drops(rig)


def dropped(device: str, capability: str, reason: str = "the client does not take these") -> Fields:
    """An interrupt that nobody heard of."""
    return {"device": device, "capability": capability, "reason": reason}


def drops(rig: Rig) -> list[Fields]:
    """What was told about such."""
    return [fields for event, fields in rig.events if event == "interrupt_dropped"]


@pytest.mark.parametrize(("sink", "capability"), [("hypervisor.4", "LEVELS"), ("vcpu0.intr", "INTR")])
async def test_line_of_a_controller_that_the_client_has_not_is_told(
    tmp_path: Path, sink: str, capability: str
) -> None:
    """A machine file for another hypervisor: each rise of the line is an event, its fall is none."""
    rig = Rig(tmp_path / "vm.exit", wires={"bell.intr": sink})
    async with serving(rig):
        guest = await attach(rig)
        for _ in range(2):
            await guest.inp(0x100)
            bell = rig.machine.hosts["bell"].device.lines["intr"]
            await rig.attachment.inject(partial(bell.set_level, True))
            await rig.attachment.inject(partial(bell.set_level, False))
    assert [dropped("bell", capability)] * 2 == drops(rig)


async def test_message_that_comes_while_nobody_is_connected_is_told(rig: Rig) -> None:
    """A level is told to a client that comes back; a message is lost, unless somebody says so."""
    async with serving(rig):
        guest = await attach(rig, required=CAPABILITY["MSI"])
        await guest.inp(0x100)
        guest.socket.close()
        await trio.testing.wait_all_tasks_blocked()
        bell = rig.machine.hosts["bell"].device
        await rig.attachment.inject(partial(bell.context.msi, 0xFEE0_1000, 0x4030))
        await rig.attachment.inject(partial(bell.lines["intr"].set_level, True))
    assert [dropped("bell", "MSI", "nobody is connected")] == drops(rig)
