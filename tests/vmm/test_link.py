from __future__ import annotations

import socket
from pathlib import Path

import pytest
from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import replies
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.codec import pack
from mmiod.protocol.exit.events import Pause, Reset, Restore, Save
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import READ, Completion, DecodedExit, Exit, HaltExit, Space, Values
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.link import HandOver, Link
from mmiod.vmm.session import LinkLost, Refused
from mmiod.vmm.wire import connect_to
from tests.vmm.fake import EXIT, PATIENCE_S, TOKEN, VM, FakeDaemon, firmware, guest, ports, runs_out

COUNTING = "b003 e680 fec8 75fa" + EXIT
"""mov al, 3; out 0x80, al; dec al; jnz: three port writes and the exit, sequences 1 to 4."""
COUNTED = [("WRITE", 0x80, b"\3"), ("WRITE", 0x80, b"\2"), ("WRITE", 0x80, b"\1")]


def link_to(daemon: FakeDaemon) -> Link:
    """An open link without guest memory."""
    link = Link(daemon.connect, Client(VM, vcpus=1), (), patience=PATIENCE_S)
    link.open()
    return link


def reading(port: int) -> DecodedExit:
    """An IN of one byte."""
    return DecodedExit(0, 0, Space.PIO, READ, port, 1)


def test_guest_memory_is_mapped_before_the_first_exit() -> None:
    """The slots leave out the VGA hole, and the ROM is read-only."""
    daemon = FakeDaemon()
    memory = GuestMemory.create(2, firmware(EXIT))
    link = Link(daemon.connect, Client(VM, vcpus=1), memory.slots)
    link.open()
    link.close()
    memory.close()
    daemon.join()

    assert [
        (0, 0, 0xA0000, 0, False),
        (1, 0xC0000, 0x140000, 0xC0000, False),
        (2, 0xFFFF0000, 0x10000, 0, True),
    ] == [(slot.slot, slot.gpa, slot.length, slot.offset, slot.read_only) for slot in daemon.maps]


@pytest.mark.needs("unicorn")
@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_broken_connection_is_taken_up_where_it_was(sequence: int, *, executed: bool) -> None:
    """The unanswered exit is sent again with the token; the guest notices nothing, nothing runs twice."""
    daemon = FakeDaemon()
    (daemon.break_after if executed else daemon.break_before).add(sequence)
    run = guest(firmware(COUNTING), daemon)

    assert run.run() == 0

    assert COUNTED == ports(run)
    assert [b"\0" * 16, TOKEN] == [hello.token for hello in daemon.hellos]
    assert executed == daemon.resends


@pytest.mark.needs("unicorn")
def test_a_daemon_that_forgot_the_session_ends_the_run() -> None:
    """A new session would be other devices under a running guest."""
    daemon = FakeDaemon(knows=False, break_before={2})
    run = guest(firmware(COUNTING), daemon)

    with pytest.raises(LinkLost, match=f"does not know session {TOKEN.hex()}"):
        run.run()


def test_a_take_over_has_the_unanswered_exit_sent_again() -> None:
    """RESUMED while an exit waits: the daemon sees the same exit once more."""

    def answer(daemon: FakeDaemon, _exit: object) -> None:
        daemon.send(replies.resumed(2))

    daemon = FakeDaemon(answer)
    link = link_to(daemon)
    # The fake keeps no reply of an exit that it did not answer, so it answers the resend with nothing.
    daemon.answer_resend = Values(b"\x42")

    completed = link.exchange(reading(0x60), 0)
    link.close()
    daemon.join()

    assert completed is not None
    assert (Values(b"\x42"), 1, 1) == (completed.completion, len(daemon.exits), daemon.resends)


def test_the_last_words_of_a_peer_that_died_are_heard() -> None:
    """It died with our message unread (ECONNRESET): what it had sent before still counts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spare = FakeDaemon()
    connections = [theirs]
    link = Link(lambda: connections.pop() if connections else spare.connect(), Client(VM, vcpus=1), ())
    ours.send(pack("WELCOME", version=1, token=TOKEN))
    link.open()
    ours.send(replies.intr(0, level=True))
    ours.close()

    link.poll()
    assert link.interrupt

    link.close()


def test_a_request_ends_a_halt_and_the_reset_drops_it() -> None:
    """No completion comes; afterwards no interrupt is pending and numbers go on."""

    def answer(daemon: FakeDaemon, exit_: object) -> Values | None:
        if isinstance(exit_, HaltExit):
            daemon.request("RESET")
            return None
        return Values(b"\1")

    daemon = FakeDaemon(answer)
    link = link_to(daemon)

    assert link.exchange(HaltExit(0, 0), 0) is None
    assert [NUMBERS["request_kind"]["RESET"]] == [request.kind for request in link.requests]

    link.interrupt = True
    link.reset()

    assert not link.interrupt

    completed = link.exchange(reading(0x60), 0)
    link.close()
    daemon.join()

    assert completed is not None
    assert 2 == completed.sequence


def test_a_reset_survives_a_broken_connection() -> None:
    """The RESET whose ACK was lost is sent again."""
    daemon = FakeDaemon(break_at=Reset)
    link = link_to(daemon)
    link.reset()
    link.close()
    daemon.join()

    assert 2 == len(daemon.resets)


def test_intr_follows_only_where_it_may() -> None:
    """With virtual time the level comes with completions alone."""
    levels = []
    for follow in (True, False):
        daemon = FakeDaemon()
        link = Link(daemon.connect, Client(VM, vcpus=1), (), follow_intr=follow)
        link.open()
        daemon.send(replies.intr(0, level=True))
        link.poll()
        levels.append(link.interrupt)
        link.close()
        daemon.join()

    assert [True, False] == levels


def test_an_error_is_told_with_field_and_value() -> None:
    """ERROR ends the run with what the daemon says."""
    error = ProtocolError(NUMBERS["error"]["IDENTITY"], "hello.vm", 7, "this is the socket of another")

    with pytest.raises(Refused, match=r"hello\.vm = 0x7: this is the socket of another"):
        link_to(FakeDaemon(greeting=replies.error(error)))


def test_a_busy_vm_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """BUSY may mean that the daemon has not noticed yet that our last connection is gone."""
    runs_out(monkeypatch, PATIENCE_S)
    busy = ProtocolError(NUMBERS["error"]["BUSY"], "hello.token", 0, "the VM has a client")
    daemon = FakeDaemon(greeting=replies.error(busy))

    with pytest.raises(LinkLost, match="the VM has a client"):
        link_to(daemon)

    assert len(daemon.hellos) == 2


def test_a_daemon_that_says_nothing_is_given_up() -> None:
    """A connection that is taken but never greeted ends with patience, too."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(theirs.dup, Client(VM, vcpus=1), (), patience=0.05)

    with ours, theirs, pytest.raises(LinkLost, match="timed out"):
        link.open()


def test_nobody_listening_is_told_after_a_while(tmp_path: Path) -> None:
    """A socket that is not there is looked for again until patience ends."""
    link = Link(connect_to(str(tmp_path / "none")), Client(VM, vcpus=1), (), patience=0.1)

    with pytest.raises(LinkLost, match="No such file or directory"):
        link.open()


def test_a_session_is_handed_over() -> None:
    """PAUSE and SAVE here; there a new session, memory, the state, and sequence 1 again."""
    here, there = FakeDaemon(saved=b"all devices"), FakeDaemon()
    memory = GuestMemory.create(1, firmware(EXIT))
    link = Link(here.connect, Client(VM, vcpus=1), memory.slots, patience=PATIENCE_S)
    link.open()
    link.exchange(reading(0x40), 0)
    link.exchange(reading(0x41), 0)
    here.interrupt = True
    link.exchange(reading(0x42), 0)

    link.hand_over(HandOver(3, there.connect, "other"))

    assert link.interrupt
    link.exchange(reading(0x43), 0)
    link.close()
    memory.close()
    here.join()
    there.join()
    assert [b"all devices"] == there.restored
    assert ("other", bytes(16)) == (there.hellos[0].vm, there.hellos[0].token)
    assert [slot.gpa for slot in here.maps] == [slot.gpa for slot in there.maps]
    assert [(0x40, 1), (0x41, 2), (0x42, 3)] == numbered(here)
    assert [(0x43, 1)] == numbered(there)
    assert 4 == link.exits


def numbered(daemon: FakeDaemon) -> list[tuple[int, int]]:
    """Port and sequence number of the exits of a daemon."""
    exits = [exit_ for exit_, _ in daemon.exits if isinstance(exit_, DecodedExit)]
    return [(exit_.address, exit_.sequence) for exit_ in exits]


@pytest.mark.parametrize("request_", [Pause, Save])
def test_a_daemon_that_goes_away_while_it_saves_is_lost(request_: type) -> None:
    """Nobody knows what it saved: the run ends."""
    here, there = FakeDaemon(break_at=request_), FakeDaemon()
    link = link_to(here)

    with pytest.raises(LinkLost, match="went away while it saved"):
        link.hand_over(HandOver(0, there.connect))

    link.close()
    here.join()
    assert [] == there.hellos


def test_a_daemon_that_goes_away_while_it_restores_is_tried_again() -> None:
    """With another new session; the state is still at hand."""
    here, there = FakeDaemon(), FakeDaemon(break_at=Restore)
    link = link_to(here)

    link.hand_over(HandOver(0, there.connect))

    link.close()
    here.join()
    there.join()
    assert [b"state", b"state"] == there.restored
    assert [VM, VM] == [hello.vm for hello in there.hellos]
    assert {bytes(16)} == {hello.token for hello in there.hellos}


@pytest.mark.needs("unicorn")
@pytest.mark.parametrize("exits", [0, 1, 2, 3])
def test_the_vcpu_hands_over_after_that_many_exits(exits: int) -> None:
    """Between two instructions: the guest notices nothing, no exit is lost or done twice."""
    here, there = FakeDaemon(), FakeDaemon()
    run = guest(firmware(COUNTING), here)
    run.vcpu.hand_over = HandOver(exits, there.connect)

    assert run.run() == 0

    there.join()
    assert exits == len(here.exits)
    values = [
        exit_.data for daemon in (here, there) for exit_, _ in daemon.exits if isinstance(exit_, DecodedExit)
    ]
    assert [b"\3", b"\2", b"\1", b"\0"] == values


@define
class Controller:
    """An interrupt controller that keeps what it is told; the guest ends line 11's interrupt once."""

    told: list[tuple[object, ...]] = field(factory=list)
    lines: list[int] = field(factory=lambda: [11])

    def set_level(self, line: int, level: bool) -> None:
        """Keep it."""
        self.told.append(("level", line, level))

    def msi(self, address: int, data: int) -> None:
        """Keep it."""
        self.told.append(("msi", address, data))

    def ended(self) -> list[int]:
        """Line 11, then nothing."""
        lines, self.lines = self.lines, []
        return lines


def test_a_controller_on_this_side_hears_of_lines_and_messages_and_is_heard() -> None:
    """SET_LEVEL and MSI before the completion that they come with; what has ended is an EOI, once."""

    def answer(daemon: FakeDaemon, _exit: Exit) -> Completion:
        daemon.set_level(11, level=True)
        daemon.send(replies.msi(0xFEE0_0000, 0x41))
        return Values(b"\0")

    daemon = FakeDaemon(answer)
    link = link_to(daemon)
    link.controller = controller = Controller()

    link.exchange(reading(0x40), 0)
    assert [("level", 11, True), ("msi", 0xFEE0_0000, 0x41)] == controller.told
    daemon.high.clear()
    link.poll()
    link.poll()
    link.exchange(reading(0x40), 0)
    link.close()
    daemon.join()

    assert [11] == daemon.eois
