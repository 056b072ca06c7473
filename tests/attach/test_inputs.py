"""Inputs of backends reach a device through its VM's attachment: in the core, while the VM runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from mmiod.machine.ports import BackendStatus
from mmiod.protocol.exit import NUMBERS, Ack, Completed, Intr
from mmiod.values import READ, DecodedExit, Space
from tests.attach.peers import Rig, attach, serving


@define(eq=False)
class Port:
    """A service's near end that owes an answer, or not."""

    busy: bool
    status: BackendStatus = field(factory=lambda: BackendStatus("test"))

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Nobody asks."""

    def cancel(self, number: int) -> None:
        """Nobody cancels."""


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
