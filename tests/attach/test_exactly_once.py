"""Nothing runs twice and nothing is lost: resends, reconnects, kills, posted writes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from mmiod.protocol.exit import NUMBERS, Ack, Completed, Error
from mmiod.values import READ, WRITE, Access, DecodedExit, Retry, Space, Values
from tests.attach.peers import PATIENCE_S, Guest, Rig, attach, dial, serving
from tests.attach.test_vm import release


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """One VM behind a socket."""
    return Rig(tmp_path / "vm.exit")


def count_exit(vcpu: int = 0) -> DecodedExit:
    """A read of the register that counts its reads."""
    return DecodedExit(vcpu, 0, Space.PIO, READ, 0x100, 4)


async def again(guest: Guest, rig: Rig) -> Guest:
    """The same client on a new connection, with its token."""
    back = await dial(rig)
    back.client = guest.client
    welcome = await back.hello()
    assert welcome.continued
    return back


async def test_resend_of_the_last_exit_gets_the_kept_reply(rig: Rig) -> None:
    """The same bytes come back and the counter has counted once."""
    async with serving(rig):
        guest = await attach(rig)
        message = guest.client.exit(count_exit())
        await guest.send(message)
        first = await guest.receive_raw()
        await guest.send(message)
        assert await guest.receive_raw() == first
        assert rig.machine.hosts["counter"].device.values["count"] == 1


async def test_client_that_reconnects_goes_on_where_it_was(rig: Rig) -> None:
    """An exit whose completion was lost with the connection is answered from the books."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.map_ram()
        await guest.send(guest.client.exit(count_exit()))
        await guest.receive_raw()  # the completion arrives, and is lost
        guest.socket.close()
        back = await again(guest, rig)
        [pending] = guest.client.unanswered(0)
        await back.send(pending)
        assert (await back.expect(Completed)).completion == Values(b"\1\0\0\0")
        assert await back.inp(0x100) == 2
        assert rig.machine.memory.slots, "guest memory outlives the connection"


async def test_exit_in_flight_is_answered_on_the_new_connection(rig: Rig) -> None:
    """A slow device answers after its client has reconnected."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
        await trio.testing.wait_all_tasks_blocked()
        guest.socket.close()
        back = await again(guest, rig)
        [pending] = guest.client.unanswered(0)
        await back.send(pending)
        await trio.testing.wait_all_tasks_blocked()
        release(rig, pump)
        assert (await back.expect(Completed)).completion == Values((0xC0FFEE).to_bytes(4, "little"))


async def test_sequence_gap_and_changed_resend_are_errors(rig: Rig) -> None:
    """A number that was skipped, or used for another exit, names itself and closes."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.inp(0x100)
        other = await attach_channel(guest, rig)
        message = bytearray(other.client.exit(count_exit()))
        message[16:24] = (7).to_bytes(8, "little")
        await other.send(bytes(message))
        refused = await other.expect(Error)
        assert (refused.name, refused.value, refused.fatal) == ("exit.sequence", 7, True)
        assert await other.receive() is None


async def attach_channel(guest: Guest, rig: Rig) -> Guest:
    """A further channel of a guest's session."""
    channel = await dial(rig)
    channel.client = guest.client
    await channel.hello(join=True)
    return channel


async def test_posted_writes_are_applied_once_and_in_order(rig: Rig) -> None:
    """Posted writes come before the exit behind them, and again after a reconnect only if lost."""
    async with serving(rig):
        guest = await attach(rig)
        posts = [guest.client.post(0, Access(Space.PIO, WRITE, 0x104, 4, n)) for n in (1, 10)]
        for post in posts:
            await guest.send(post)
        done = await guest.exit(DecodedExit(0, 0, Space.PIO, READ, 0x10C, 4))
        assert (done.completion, done.posted) == (Values(b"\x0b\0\0\0"), 2)
        guest.socket.close()
        back = await again(guest, rig)
        for post in posts:
            await back.send(post)
        assert await back.inp(0x10C) == 11


async def test_exit_waits_behind_a_posted_write_that_is_held_up(rig: Rig) -> None:
    """Order as one vCPU sees it holds: the read is not served before the slow write is done."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.post(0, Access(Space.PIO, WRITE, 0x108, 4, 1)))
        await guest.send(guest.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x3000, 4)))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.records == []
        release(rig, pump)
        await guest.expect(Completed)
        assert [record[11] for record in rig.records] == ["slow", ""]


async def test_resend_of_an_exit_that_waits_behind_a_posted_write(rig: Rig) -> None:
    """The posted write stays without reply; the exit is answered once, where it was asked last."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.post(0, Access(Space.PIO, WRITE, 0x108, 4, 1)))
        message = guest.client.exit(count_exit())
        await guest.send(message)
        channel = await attach_channel(guest, rig)
        await channel.send(message)
        await trio.testing.wait_all_tasks_blocked()
        release(rig, pump)
        done = await channel.expect(Completed)
        assert (done.sequence, done.completion, done.posted) == (1, Values(b"\1\0\0\0"), 1)
        assert await guest.inp(0x100) == 2


async def test_reset_ends_an_exit_that_waits_behind_a_posted_write(rig: Rig) -> None:
    """It gets RETRY, once, and the vCPU goes on with its next number."""
    async with serving(rig) as pump:
        guest = await attach(rig)
        await guest.send(guest.client.post(0, Access(Space.PIO, WRITE, 0x108, 4, 1)))
        await guest.send(guest.client.exit(count_exit()))
        await guest.send(guest.client.reset(0)[1])
        assert (await guest.expect(Completed)).completion == Retry()
        await guest.expect(Ack)
        release(rig, pump)
        assert await guest.inp(0x100) == 1


async def test_new_session_needs_the_old_client_gone(rig: Rig) -> None:
    """Without a token, after the first client is gone, a fresh machine is there."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.out(0x104, 9)
        guest.socket.close()
        await trio.testing.wait_all_tasks_blocked()
        fresh = await attach(rig)
        assert await fresh.inp(0x10C) == 0


async def test_token_of_an_ended_session_is_refused(rig: Rig) -> None:
    """An old client cannot take a new session over."""
    async with serving(rig):
        guest = await attach(rig)
        guest.socket.close()
        await trio.testing.wait_all_tasks_blocked()
        await attach(rig)
        late = await dial(rig)
        late.client = guest.client
        await late.send(late.client.hello())
        refused = await late.expect(Error)
        assert (refused.code, refused.name) == (NUMBERS["error"]["IDENTITY"], "hello.token")


KILLED = """
import socket, sys
from mmiod.protocol.exit import Client, MAX_MESSAGE
from mmiod.values import DecodedExit, Space, READ
client = Client("one", 1)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.send(client.hello())
client.receive(sock.recv(MAX_MESSAGE))
sock.send(client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x108, 4)))
print("in exit\\n", end="", flush=True)  # in one write
sock.recv(MAX_MESSAGE)
"""


async def test_client_killed_in_mid_exit_leaves_the_other_vm_untouched(tmp_path: Path) -> None:
    """With kill -9 while a device holds the exit up: the daemon and the other VM go on."""
    one, two = Rig(tmp_path / "one.exit", "one"), Rig(tmp_path / "two.exit", "two")
    async with serving(one, two) as pump:
        guest = await attach(two)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", KILLED, str(one.path)], stdout=-1, env=environment
        )
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"in exit\n"
        assert await guest.inp(0x100) == 1
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await process.stdout.aclose()
        while one.attachment.primary is not None:
            await trio.lowlevel.checkpoint()
        release(one, pump)
        assert await guest.inp(0x100) == 2
        successor = await attach(one)
        assert await successor.inp(0x100) == 1


async def test_unread_completions_disconnect_only_their_client(tmp_path: Path) -> None:
    """A client that never reads is dropped at a bound; the other VM is served on."""
    one, two = Rig(tmp_path / "one.exit", "one"), Rig(tmp_path / "two.exit", "two")
    async with serving(one, two):
        guest = await attach(two)
        deaf = await attach(one)
        query = deaf.client.query_claims()[1]
        with trio.fail_after(PATIENCE_S):
            while one.attachment.primary is not None:
                try:
                    await deaf.send(query)
                except (BrokenPipeError, ConnectionResetError):
                    break
        assert one.attachment.primary is None
        assert await guest.inp(0x100) == 1
