"""GRANT, REVOKE and REVOKED: who is given what, and what happens to who does not give it back."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from attrs import define, evolve, field

from mmiod.attach import grants
from mmiod.attach.connection import Connection
from mmiod.attach.grants import Grants
from mmiod.attach.shared import OFFERED
from mmiod.attach.vm import VmAttachment
from mmiod.core.pump import Pump
from mmiod.daemon import Daemon
from mmiod.machine.grantable import Grantable, GrantKind
from mmiod.machine.stop import Break
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.events import Revoke
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import READ, DecodedExit, Space, TickExit, Values
from mmiod.vmm.link import Link
from mmiod.vmm.wire import Wire, connect_to
from tests.attach.peers import OFFER
from tests.functional.boots import Boot, pc, serving

pytestmark = pytest.mark.skipif(not OFFERED, reason="x86-64 only")

CAPABILITY = NUMBERS["capability"]
CRB = 0xFED4_0000
BELL = Grantable(GrantKind.DOORBELL, "panel", Space.MMIO, 0xE000_0000, 2, 5)
BELLS = [evolve(BELL, value=value) for value in range(3)]
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


# --- one connection's, without a daemon -----------------------------------------------------


def opened() -> int:
    """How many eventfds this process has."""
    found = Path("/proc/self/fd").iterdir()
    return sum("eventfd" in str(one.readlink()) for one in found if one.is_symlink())


@define(eq=False)
class Side:
    """Grants of one connection, and its client."""

    client: Wire
    grants: Grants
    rung: list[Grantable]
    reasons: list[str] = field(factory=list)

    @classmethod
    def make(cls) -> Side:
        """Both ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pump, rung = Pump(threading.Event()), list[Grantable]()

        def closed(_connection: Connection, reason: str) -> None:
            made.reasons.append(reason)
            made.grants.close()

        connection = Connection.accept(ours, pump, OFFER, lambda *_: None, closed)
        made = cls(Wire(theirs), Grants(connection, 0, pump, rung.append), rung)
        return made

    def close(self) -> None:
        """Both ends."""
        self.grants.connection.close("done")
        self.client.close()
        self.grants.pump._epoll.close()
        os.close(self.grants.pump._wake)

    def received(self) -> list[int]:
        """Take what was sent; the eventfds."""
        found = list[int]()
        while self.client.ready():
            found += self.client.receive()[1]
        return found


@pytest.fixture
def side() -> Iterator[Side]:
    """One with nothing granted."""
    made = Side.make()
    yield made
    made.close()


def test_a_signal_is_heard_behind_the_revoked_that_it_came_before(side: Side) -> None:
    """Both are there at the same poll, and the socket's turn is first."""
    side.grants.update([BELL])
    (bell,) = side.received()
    side.grants.update([])
    os.eventfd_write(bell, 1)
    side.grants.revoked(1)
    side.grants.pump.turn()
    assert side.rung == [BELL]
    assert (side.grants.given, side.grants.ending) == ({}, set())
    os.close(bell)


@pytest.mark.parametrize(
    ("before", "between", "behind", "expected"),
    [(0, 0, 0, 0), (2, 0, 0, 2), (1, 1, 0, 2), (1, 1, 1, 3), (0, 0, 2, 1), (1, 0, 1, 2)],
)
def test_a_doorbell_that_nobody_rings_rings_nothing(
    side: Side, before: int, between: int, behind: int, expected: int
) -> None:
    """What was heard before REVOKE, or between it and REVOKED, is not heard again; what was not, is, once."""
    side.grants.update([BELL])
    (bell,) = side.received()
    for rings in (before, between):
        for _ in range(rings):
            os.eventfd_write(bell, 1)
            side.grants.pump.turn()
        side.grants.update([])
    for _ in range(behind):
        os.eventfd_write(bell, 1)
    side.grants.revoked(1)
    side.grants.pump.turn()
    assert side.rung == [BELL] * expected
    os.close(bell)


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_rung_before_revoke_is_heard_in_any_row(side: Side, *, inside: bool) -> None:
    """A message and REVOKED are taken in one row; the ring came before REVOKE, within the message or not."""
    side.grants.update([BELL])
    (bell,) = side.received()

    def withdraw() -> None:
        os.eventfd_write(bell, 1)
        side.grants.update([])
        side.client.send(b"revoked")

    def received(_connection: Connection, data: bytes, _descriptors: list[int]) -> None:
        if data == b"revoked":
            side.grants.revoked(1)
        elif inside:
            withdraw()

    side.grants.connection.receive = received
    side.client.send(b"message")
    if not inside:
        withdraw()
    side.grants.pump.turn()
    assert (side.rung, side.grants.ending) == ([BELL], set())
    os.close(bell)


def test_what_is_revoked_of_a_client_that_is_gone_ends_with_it(side: Side) -> None:
    """The first message that cannot be sent closes the connection, and nothing is left."""
    before = opened()
    side.grants.update(BELLS)
    for bell in side.received():
        os.close(bell)
    side.client.close()
    side.grants.update([])
    assert (side.grants.given, side.grants.ending, len(side.reasons)) == ({}, set(), 1)
    assert opened() == before


def test_nothing_is_given_to_a_client_that_is_gone(side: Side) -> None:
    """The same of GRANT: no eventfd is made for a connection that one before it has closed."""
    before = opened()
    side.client.close()
    side.grants.update(BELLS)
    assert (side.grants.given, len(side.reasons), opened()) == ({}, 1, before)


def test_a_client_owes_so_many_answers_at_most(side: Side) -> None:
    """A guest that moves a region in a loop uses up no descriptors of ours."""
    before = opened()
    turns = 0
    while not side.reasons:
        turns += 1
        side.grants.update(BELLS)
        for bell in side.received():
            os.close(bell)
        side.grants.update([])
    assert turns == grants.MAX_ENDING // 3 + 1
    assert side.reasons == ["more than 256 REVOKEs were not answered"]
    assert opened() == before


@pytest.mark.parametrize("call", ["eventfd", "dup"])
def test_without_descriptors_a_doorbell_stays_an_exit(
    side: Side, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Pages are granted as ever; the doorbell is when there is something to be granted again."""

    def fail(*_arguments: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    page = Grantable(GrantKind.PAGE, "panel", Space.MMIO, 0xE000_1000, 4096, 1 << 18)
    before = opened()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        side.grants.update([BELL, page])
    assert (list(side.grants.given), opened()) == ([page], before)
    side.grants.update([BELL, page])
    assert list(side.grants.given) == [page, BELL]
    for bell in side.received():
        os.close(bell)


# --- whose region has moved -----------------------------------------------------------------

PLUGIN = """
from attrs import define, field
from mmiod.device import Device, Region, Register

@define
class State:
    rung: list[int] = field(factory=list)

class Panel(Device):
    \"\"\"A doorbell.  Threat: it is a test's.\"\"\"

    bells = Region(16)
    state: State
    notify = Register(0, size=2, access="w", doorbell=True, rings=(5,), region=bells)

    @notify.on_write
    def _rung(self, value: int) -> None:
        self.state.rung.append(value)
"""


async def test_a_break_begins_without_a_write_that_nobody_made(tmp_path: Path) -> None:
    """A client gives its doorbell back for it: neither the break nor the records tell of a write."""
    (tmp_path / "panel.py").write_text(PLUGIN)
    machine = pc(panel={"plugin": "panel", "at": {"bells": f"mmio:{BELL.address:#x}"}})
    async with serving(tmp_path, Boot(machine, plugins=tmp_path)) as daemon:
        link = await trio.to_thread.run_sync(link_to, tmp_path, "PUBLISHED", "GRANTS")
        wish = Break("panel")
        daemon.machines["vm"].breaks.add(wish)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, give_back, link, 1)
            await daemon.withdrawn()
        assert [] == list(wish.news)
        assert 0 == daemon.machines["vm"].hosts["panel"].statistics.writes
        link.close()


async def test_a_doorbell_whose_region_has_moved_rings_nothing(tmp_path: Path) -> None:
    """Not even what is at its address now, of the same device or another."""
    (tmp_path / "panel.py").write_text(PLUGIN)
    machine = pc(panel={"plugin": "panel", "at": {"bells": f"mmio:{BELL.address:#x}"}})
    async with serving(tmp_path, Boot(machine, plugins=tmp_path)) as daemon:
        link = await trio.to_thread.run_sync(link_to, tmp_path, "PUBLISHED", "GRANTS")
        attachment = attached(daemon)
        given = attachment.grants
        assert given is not None
        assert list(given.given) == [BELL]
        panel = daemon.machines["vm"].hosts["panel"]
        given.ring(BELL)
        given.ring(evolve(BELL, value=6))
        given.ring(evolve(BELL, address=BELL.address + 8))
        assert panel.device.state.rung == [5]
        daemon.machines["vm"].place("panel", panel.device.regions["bells"], Space.MMIO, 0xE100_0000)
        panel.feed(None, "write", "bells", 8, 1, 0)
        assert [known.address for known in given.given] == [0xE100_0000]
        given.ring(BELL)
        assert panel.device.state.rung == [5]
        link.close()
