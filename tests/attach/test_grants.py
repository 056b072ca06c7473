"""GRANT, REVOKE and REVOKED: who is given what, and what happens to who does not give it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mmiod.attach import grants
from mmiod.attach.shared import OFFERED
from mmiod.attach.vm import VmAttachment
from mmiod.daemon import Daemon
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.events import Revoke
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import READ, DecodedExit, Space, TickExit, Values
from mmiod.vmm.link import Link
from mmiod.vmm.wire import connect_to
from tests.functional.boots import Boot, pc, serving

pytestmark = pytest.mark.skipif(not OFFERED, reason="x86-64 only")

CAPABILITY = NUMBERS["capability"]
CRB = 0xFED4_0000
PAGES = [("PAGE", CRB + 4096 * number) for number in range(5)]


def link_to(directory: Path, *required: str) -> Link:
    """A client with these capabilities; the machine is on, and all that follows from it has come."""
    client = Client("vm", vcpus=1, required=sum(CAPABILITY[name] for name in ("SHARED_MEMORY", *required)))
    link = Link(connect_to(str(directory / "vm.exit")), client, ())
    link.open()
    while link.slot is None or not link.slot.usable:
        link.wait()
    link.exchange(TickExit(0, 0), 0)
    return link


async def served(directory: Path, play: Callable[[Link], object], *required: str) -> list[tuple[str, int]]:
    """What a client was granted, before it does `play` in a thread."""
    found = list[tuple[str, int]]()
    async with serving(directory, Boot(pc("pc-tpm.toml"))) as daemon:
        link = await trio.to_thread.run_sync(link_to, directory, *required)
        given = attached(daemon).grants
        for known in given.given if given is not None else ():
            found.append((known.kind.name, known.address))
        await trio.to_thread.run_sync(play, link)
        link.close()
    return found


def give_back(link: Link, count: int) -> None:
    """Take messages until so many REVOKEs were answered."""
    while count:
        count -= isinstance(link.next(), Revoke)


def attached(daemon: Daemon) -> VmAttachment:
    """The VM's."""
    attachment = daemon.attachments["vm"]
    assert isinstance(attachment, VmAttachment)
    return attachment


async def test_grants_are_for_who_asks(tmp_path: Path) -> None:
    """Pages of the CRB with the capability; nothing without it."""
    assert await served(tmp_path, lambda _link: None, "PUBLISHED", "GRANTS") == PAGES
    assert await served(tmp_path, lambda _link: None, "PUBLISHED") == []


async def test_in_virtual_time_nothing_is_granted(tmp_path: Path) -> None:
    """The guest would see at another instruction in each run what it had not asked for."""
    assert await served(tmp_path, lambda _link: None, "PUBLISHED", "GRANTS", "GUEST_TIME") == []


async def test_the_shared_page_shows_what_a_read_gives(tmp_path: Path) -> None:
    """At the place that GRANT tells, in the memory that the client made."""
    seen = list[bytes]()

    def play(link: Link) -> None:
        assert link.slot is not None
        values = []
        for offset in range(0, 0x60, 4):
            done = link.exchange(DecodedExit(0, 0, Space.MMIO, READ, CRB + offset, 4), 0)
            assert done is not None
            assert isinstance(done.completion, Values)
            values.append(done.completion.data)
        begin = 2 * 4096 + (256 << 10)
        seen.extend((b"".join(values), link.slot.mapping[begin : begin + 0x60]))

    await served(tmp_path, play, "PUBLISHED", "GRANTS")
    assert seen[0] == seen[1] != bytes(0x60)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_client_gives_back_what_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    """Who looks at a device's traffic waits for that; a client that does not answer is disconnected."""
    monkeypatch.setattr(grants, "PATIENCE_S", 20 if answers else 0.05)
    async with serving(tmp_path, Boot(pc("pc-tpm.toml"))) as daemon:
        link = await trio.to_thread.run_sync(link_to, tmp_path, "PUBLISHED", "GRANTS")
        attachment = attached(daemon)
        given = attachment.grants
        assert given is not None
        daemon.machines["vm"].withhold("tpm", "watch")
        assert (len(given.given), len(given.ending)) == (0, 5)
        async with trio.open_nursery() as nursery:
            if answers:
                nursery.start_soon(trio.to_thread.run_sync, give_back, link, 5)
            await daemon.withdrawn()
        assert (not given.ending, attachment.attached) == (True, answers)
        link.close()
