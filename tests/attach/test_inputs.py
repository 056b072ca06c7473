"""Inputs of backends reach a device through its VM's attachment: in the core, while the VM runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from mmiod.machine.ports import BackendStatus, Keeping
from mmiod.protocol.exit import NUMBERS, Ack, Completed, Error, Intr
from mmiod.values import READ, DecodedExit, HaltExit, Retry, Space, Values
from tests.attach.peers import Guest, Rig, attach, serving

VIRTUAL = NUMBERS["capability"]["GUEST_TIME"] | NUMBERS["capability"]["INTR"]


@define(eq=False)
class Port:
    """A service's near end that owes an answer, or not."""

    busy: bool
    status: BackendStatus = field(factory=lambda: BackendStatus("test"))
    keeping: Keeping | None = None
    kept: Mapping[str, bytes] | None = None
    refusal: str | None = None
    moves: list[Mapping[str, bytes] | None] = field(factory=list)

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Nobody asks."""

    def cancel(self, number: int) -> None:
        """Nobody cancels."""

    def disown(self, last: int) -> None:
        """Nobody fails."""

    def fetch(self) -> None:
        """Be busy with it."""
        self.busy = True
        self.moves.append(None)

    def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Be busy with it."""
        self.busy = True
        self.moves.append(parts)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A VM that is not served yet."""
    return Rig(tmp_path / "vm.exit")


async def test_input_waits_until_the_vm_is_on_and_while_it_is_paused(rig: Rig) -> None:
    """Before the first exit a reset would swallow it; a paused VM's state does not change."""
    seen: list[int] = []
    async with serving(rig), trio.open_nursery() as nursery:
        nursery.start_soon(rig.attachment.inject, partial(seen.append, 1))
        await trio.testing.wait_all_tasks_blocked()
        guest = await attach(rig)
        assert [] == seen
        await guest.inp(0x100)
        await trio.testing.wait_all_tasks_blocked()
        assert [1] == seen
        await guest.send(guest.client.pause()[1])
        await guest.expect(Ack)
        nursery.start_soon(rig.attachment.inject, partial(seen.append, 2))
        await trio.testing.wait_all_tasks_blocked()
        assert [1] == seen
        await guest.send(guest.client.resume()[1])
        await guest.expect(Ack)
        await trio.testing.wait_all_tasks_blocked()
    assert [1, 2] == seen


async def test_what_follows_from_an_input_goes_out_at_once(rig: Rig) -> None:
    """An answer that a device owed, and an interrupt, though no exit comes."""
    async with serving(rig):
        guest = await attach(rig, required=NUMBERS["capability"]["INTR"])
        await guest.inp(0x100)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
        await trio.testing.wait_all_tasks_blocked()
        counter, bell = (rig.machine.hosts[name].device for name in ("counter", "bell"))
        await rig.attachment.inject(partial(counter.complete, 0xC0FFEE))
        assert isinstance(await guest.receive(), Completed)
        await rig.attachment.inject(partial(bell.lines["intr"].set_level, True))
        await guest.expect(Intr)


async def test_pause_waits_for_what_backends_owe(rig: Rig) -> None:
    """Its ACK comes when no request of a device is under way any more."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.inp(0x100)
        port = Port(busy=True)
        rig.machine.services["counter", "disk"] = port
        serial, message = guest.client.pause()
        await guest.send(message)
        await trio.testing.wait_all_tasks_blocked()
        port.busy = False
        await rig.attachment.inject(lambda: None)
        assert serial == (await guest.expect(Ack)).serial


# --- backends that keep something -----------------------------------------------------------


DISK = Keeping("disk", 1, {"cache": 100})


def with_disk(rig: Rig) -> Port:
    """The counter's service, at rest."""
    port = Port(busy=False, keeping=DISK)
    rig.machine.services["counter", "disk"] = port
    return port


async def done(rig: Rig, port: Port, kept: Mapping[str, bytes] | None, refusal: str | None = None) -> None:
    """The backend has done its part."""
    port.busy, port.kept, port.refusal = False, kept, refusal
    await rig.attachment.inject(lambda: None)


async def saved(guest: Guest, rig: Rig, port: Port) -> tuple[int, int]:
    """SAVE of a paused VM: a descriptor and its length."""
    await guest.send(guest.client.save()[1])
    await trio.testing.wait_all_tasks_blocked()
    await done(rig, port, {"cache": b"kept"})
    return await guest.expect_descriptor()


async def test_save_waits_for_what_backends_keep(rig: Rig, tmp_path: Path) -> None:
    """Nothing else happens meanwhile; RESTORE hands it over, and only then the VM is restored."""
    other = Rig(tmp_path / "other.exit", "other")
    async with serving(rig, other):
        guest, successor = await attach(rig), await attach(other)
        port, others = with_disk(rig), with_disk(other)
        await guest.out(0x104, 5)
        await guest.send(guest.client.pause()[1])
        await guest.expect(Ack)
        await guest.send(guest.client.save()[1])
        for _, message in (guest.client.resume(), guest.client.reset(), guest.client.save()):
            await guest.send(message)
            assert "a SAVE or RESTORE is under way" == (await guest.expect(Error)).reason
        await done(rig, port, {"cache": b"kept"})
        descriptor, length = await guest.expect_descriptor()
        await successor.send(successor.client.restore(length)[1], descriptor)
        os.close(descriptor)
        await successor.send(successor.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x10C, 4)))
        assert "header.type" != (await successor.expect(Error)).name
        assert [{"cache": b"kept"}] == others.moves
        assert 0 == other.machine.hosts["counter"].device.values["total"]
        await done(other, others, {"cache": b"kept"})
        await successor.expect(Ack)
        assert 5 == other.machine.hosts["counter"].device.values["total"]


async def test_state_that_a_backend_does_not_take_is_refused(rig: Rig) -> None:
    """The error has its words; the VM is as it was, and goes on."""
    async with serving(rig):
        guest, port = await attach(rig), with_disk(rig)
        await guest.out(0x104, 5)
        await guest.send(guest.client.pause()[1])
        await guest.expect(Ack)
        descriptor, length = await saved(guest, rig, port)
        rig.machine.hosts["counter"].device.values["total"] = 6
        await guest.send(guest.client.restore(length)[1], descriptor)
        os.close(descriptor)
        await trio.testing.wait_all_tasks_blocked()
        await done(rig, port, None, "bad header")
        refused = await guest.expect(Error)
        assert ("restore", "devices.counter.backends.disk: bad header") == (refused.name, refused.reason)
        await guest.send(guest.client.resume()[1])
        await guest.expect(Ack)
        assert 6 == await guest.inp(0x10C)


# --- virtual time ----------------------------------------------------------------------------


async def test_virtual_time_stands_while_a_backend_owes_an_answer(rig: Rig) -> None:
    """An exit that comes meanwhile waits, then the clock goes on to it: replies have one place."""
    async with serving(rig):
        guest = await attach(rig, required=VIRTUAL)
        await guest.inp(0x100)
        port = rig.machine.services["counter", "disk"] = Port(busy=True)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x100, 4), 5000))
        await trio.testing.wait_all_tasks_blocked()
        seen: list[int] = []
        port.busy = False
        await rig.attachment.inject(lambda: seen.append(rig.machine.clock.now_ns))
        assert Values(b"\2\0\0\0") == (await guest.expect(Completed)).completion
        assert ([0], 5000) == (seen, rig.machine.clock.now_ns)


async def test_a_halt_waits_for_backends_too(rig: Rig) -> None:
    """Time is not skipped to the next timer before the reply."""
    async with serving(rig):
        guest = await attach(rig, required=VIRTUAL)
        await guest.out(0x200, 7000)
        port = rig.machine.services["counter", "disk"] = Port(busy=True)
        await guest.send(guest.client.exit(HaltExit(0, 0), 100))
        await trio.testing.wait_all_tasks_blocked()
        assert 0 == rig.machine.clock.now_ns
        port.busy = False
        await rig.attachment.inject(lambda: None)
        assert (await guest.expect(Completed)).interrupt
        assert 7000 == rig.machine.clock.now_ns


async def test_a_timer_that_asks_a_backend_stops_the_skipping_of_time(rig: Rig) -> None:
    """While all vCPUs halt: the next timer waits for the reply."""
    async with serving(rig):
        guest = await attach(rig, required=VIRTUAL)
        port = Port(busy=False)
        rig.machine.services["counter", "disk"] = port
        await guest.out(0x200, 7000)
        rig.machine.clock.arm("counter", "asks", 3000, partial(setattr, port, "busy", True))
        await guest.send(guest.client.exit(HaltExit(0, 0), 100))
        await trio.testing.wait_all_tasks_blocked()
        assert 3000 == rig.machine.clock.now_ns
        port.busy = False
        await rig.attachment.inject(lambda: None)
        assert (await guest.expect(Completed)).interrupt
        assert 7000 == rig.machine.clock.now_ns


async def test_a_reset_ends_what_waits_for_a_backend(rig: Rig) -> None:
    """With RETRY, and it is not executed later."""
    async with serving(rig):
        guest = await attach(rig, required=VIRTUAL)
        await guest.inp(0x100)
        port = rig.machine.services["counter", "disk"] = Port(busy=True)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x100, 4), 5000))
        await guest.send(guest.client.reset()[1])
        assert isinstance((await guest.expect(Completed)).completion, Retry)
        await guest.expect(Ack)
        port.busy = False
        await rig.attachment.inject(lambda: None)
        assert 0 == rig.machine.hosts["counter"].device.values["count"]
