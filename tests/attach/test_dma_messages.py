"""Guest memory that a client does not share: it is asked, and nobody waits for it."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import trio.testing

from mmiod.device.pci import PciFunction
from tests.attach import functions as f
from tests.attach.functions import Client, Functions, SlowFunction, attached, dialled, serving
from tests.attach.peers import sealed

READ_MEMORY, WRITE_MEMORY = 11, 12
ERROR = 0x21
PLACE, SIZE, MOVE, MOVED, QUICK = 8, 28, 32, 40, 4
PAGE = 4096


class Asked:
    """What the server asks of this client's memory, message by message."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def take(self) -> tuple[int, int, int, int, bytes]:
        """Id, command, address, count and data of the next message, which must be a command."""
        number, command, size, flags, error = struct.unpack("<HHIII", await self.client.exactly(16))
        assert (0, 0) == (flags, error)
        address, count = struct.unpack("<QQ", await self.client.exactly(16))
        return number, command, address, count, await self.client.exactly(size - 32)

    async def answer(self, number: int, command: int, payload: bytes = b"", flags: int = 1) -> None:
        """Reply to one."""
        header = struct.pack("<HHIII", number, command, 16 + len(payload), flags, 5 * (flags == ERROR))
        await self.client.send_raw(header + payload)

    async def give(self, data: bytes) -> None:
        """Take a read, which must be of that many bytes, and answer it."""
        number, command, address, count, _ = await self.take()
        assert (READ_MEMORY, len(data)) == (command, count)
        await self.answer(number, command, struct.pack("<QQ", address, count) + data)


def rig(directory: Path, deadline_s: float = 1000) -> Functions:
    """A machine of one function."""
    return Functions(directory, {"slow": SlowFunction}, deadline_s)


async def start(client: Client, size: int, place: int = 0x1000, target: int = 0x2000) -> None:
    """Let the function move bytes; posted, so that nothing is answered."""
    await client.post(0, SIZE, struct.pack("<I", size))
    await client.post(0, PLACE, struct.pack("<Q", place))
    await client.post(0, MOVE, struct.pack("<Q", target))


@pytest.mark.parametrize("echoes", [False, True], ids=["header only", "32 bytes"])
async def test_what_is_not_shared_is_asked_for(tmp_path: Path, echoes: bool) -> None:
    """A read, then a write of what was read; both forms of the reply to a write are taken."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        asked = Asked(client)
        await client.map(0, 1 << 20)
        await start(client, 5)
        await asked.give(b"ABCDE")
        number, command, address, count, data = await asked.take()
        assert (WRITE_MEMORY, 0x2000, 5, b"EDCBA") == (command, address, count, data)
        assert bytes(4) == await client.read(0, MOVED, 4)
        await asked.answer(number, command, struct.pack("<QQ", address, count) if echoes else b"")
        assert b"\1\0\0\0" == await client.read(0, MOVED, 4)


async def test_the_access_is_answered_first(tmp_path: Path) -> None:
    """Also where the client waits for the write that starts it; accesses go on meanwhile."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        await client.map(0, 1 << 20)
        await client.write(0, PLACE, struct.pack("<Q", 0x1000))
        await client.write(0, MOVE, struct.pack("<Q", 0x2000))  # its reply comes first
        assert (READ_MEMORY, 0x1000, 16) == (await Asked(client).take())[1:4]
        assert b"\x78\x56\x34\x12" == await client.read(0, QUICK, 4)


async def test_nothing_is_asked_while_the_client_waits_for_an_access(tmp_path: Path) -> None:
    """A client may serve memory only when its vCPU goes on."""
    made = rig(tmp_path)
    async with serving(made), attached(made, "slow") as client:
        await client.map(0, 1 << 20)
        await client.send(f.READ, struct.pack("<QII", 0, 0, 4))
        await trio.testing.wait_all_tasks_blocked()
        device = made.machine.hosts["slow"].device
        assert isinstance(device, SlowFunction)
        await made.attachment.inject(device.moving.start)
        await trio.testing.wait_all_tasks_blocked()
        await made.attachment.inject(lambda: made.machine.hosts["slow"].receive("answer", b"\7\0\0\0"))
        assert b"\7\0\0\0" == (await client.receive()).payload[16:]
        assert READ_MEMORY == (await Asked(client).take())[1]


async def test_messages_are_of_the_clients_size_and_so_many_at_once(tmp_path: Path) -> None:
    """As it says in VERSION; what is under way is bounded, and its order is the client's."""
    capabilities = {"capabilities": {"max_data_xfer_size": 1024, "pgsizes": 4096}}
    async with serving(rig(tmp_path)) as made, dialled(made, "slow") as client:
        asked = Asked(client)
        await client.call(f.VERSION, struct.pack("<HH", 0, 1) + json.dumps(capabilities).encode() + b"\0")
        await client.map(0, 1 << 20)
        size = 20 * 1024 + 7
        content = os.urandom(size)
        await start(client, size)
        parts = [await asked.take() for _ in range(16)]
        assert [(0x1000 + 1024 * at, 1024) for at in range(16)] == [part[2:4] for part in parts]
        assert bytes(4) == await client.read(0, MOVED, 4)  # and no 17th came
        for number, command, address, count, _ in reversed(parts):
            data = content[address - 0x1000 :][:count]
            await asked.answer(number, command, struct.pack("<QQ", address, count) + data)
        for at in range(16, 21):
            await asked.give(content[1024 * at :][:1024])
        written = b""
        while len(written) < size:
            number, command, address, _, data = await asked.take()
            assert (WRITE_MEMORY, 0x2000 + len(written)) == (command, address)
            written += data
            await asked.answer(number, command)
        assert content[::-1] == written
        assert b"\1\0\0\0" == await client.read(0, MOVED, 4)


async def reply_at_once(sock: trio.socket.SocketType, data: bytes) -> None:
    """As QEMU 11 does: by one call that does not wait, whenever there is room at all."""
    with trio.fail_after(f.PATIENCE_S):
        while True:
            await trio.lowlevel.wait_writable(sock)
            try:
                sent = os.write(sock.fileno(), data)
            except BlockingIOError:
                await trio.lowlevel.checkpoint()
                continue
            assert len(data) == sent, "the rest is lost"
            return


@pytest.mark.parametrize("size", [1 << 16, (1 << 18) - 512, 1 << 20])
async def test_a_client_that_sends_by_one_call_loses_nothing(tmp_path: Path, size: int) -> None:
    """What one message asks for is less than what a socket takes as a whole or not at all."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        asked = Asked(client)
        await client.map(0, 4 << 20)
        content = os.urandom(size)
        await start(client, size, 0, 2 << 20)
        given = 0
        while given < size:
            number, command, address, count, _ = await asked.take()
            assert READ_MEMORY == command
            payload = struct.pack("<QQ", address, count) + content[address:][:count]
            header = struct.pack("<HHIII", number, command, 16 + len(payload), 1, 0)
            await reply_at_once(client.sock, header + payload)
            given += count
        written = b""
        while len(written) < size:
            number, command, _, _, data = await asked.take()
            written += data
            await asked.answer(number, command)
        assert content[::-1] == written


@pytest.mark.parametrize(
    ("payload", "flags"),
    [(b"", ERROR), (bytes(16 + 15), 1), (b"", 1)],
    ids=["an error", "too short", "no data"],
)
async def test_what_the_client_does_not_give_reads_ones(tmp_path: Path, payload: bytes, flags: int) -> None:
    """As memory that is not there."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        asked = Asked(client)
        await client.map(0, 1 << 20)
        await start(client, 16)
        number, command, *_ = await asked.take()
        await asked.answer(number, command, payload, flags)
        assert b"\xff" * 16 == (await asked.take())[4]


async def test_a_client_that_loses_its_place_is_not_asked(tmp_path: Path) -> None:
    """rust-vmm and alioth name neither page sizes nor WRITE_MULTI: what they do not share reads ones."""
    capabilities = b'{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576}}\0'
    async with serving(rig(tmp_path)) as made, dialled(made, "slow") as client:
        await client.call(f.VERSION, struct.pack("<HH", 0, 1) + capabilities)
        with sealed(PAGE) as shared:
            await client.map(0, PAGE, shared)
            await client.map(0x10000, PAGE)
            await start(client, 16, 0x10000, 0)
            assert b"\1\0\0\0" == await client.read(0, MOVED, 4)
            assert b"\xff" * 16 == os.pread(shared, 16, 0)


async def test_what_is_shared_is_not_asked_for(tmp_path: Path) -> None:
    """A client that takes messages shares some of its memory: there none is sent."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        with sealed(PAGE) as shared:
            await client.map(0, PAGE, shared)
            await client.map(0x10000, PAGE)
            os.pwrite(shared, b"0123456789abcdef", 0)
            await start(client, 16, 0, 0x100)
            assert b"\1\0\0\0" == await client.read(0, MOVED, 4)
            assert b"fedcba9876543210" == os.pread(shared, 16, 0x100)


async def test_memory_goes_while_it_is_asked_for(tmp_path: Path) -> None:
    """DMA_UNMAP is answered at once, as QEMU serves nothing before; its answers are taken later."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        asked = Asked(client)
        await client.map(0, 1 << 20)
        await start(client, 4)
        number, command, address, count, _ = await asked.take()
        assert not (await client.unmap(0, 1 << 20)).failed
        await client.map(0, 1 << 20)
        await asked.answer(number, command, struct.pack("<QQ", address, count) + b"ABCD")
        assert b"DCBA" == (await asked.take())[4]


async def test_a_reset_forgets_what_is_under_way(tmp_path: Path) -> None:
    """A late answer is nobody's; what is asked anew has its own."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        asked = Asked(client)
        await client.map(0, 1 << 20)
        await start(client, 4)
        number, command, address, count, _ = await asked.take()
        await client.call(f.RESET)
        await start(client, 4, 0x3000)
        second = await asked.take()
        assert number != second[0]
        await asked.answer(number, command, struct.pack("<QQ", address, count) + b"late")
        await asked.answer(second[0], command, struct.pack("<QQ", 0x3000, 4) + b"anew")
        assert b"wena" == (await asked.take())[4]


async def test_a_client_that_goes_leaves_nothing_under_way(tmp_path: Path) -> None:
    """The next one finds the function as new."""
    made = rig(tmp_path)
    async with serving(made):
        async with attached(made, "slow") as client:
            await client.map(0, 1 << 20)
            await start(client, 4)
            await Asked(client).take()
        await made.wait_for("function_detached")
        host = made.machine.hosts["slow"]
        assert not host.device.working
        assert made.machine.memory_of("slow").messenger is None
        async with attached(made, "slow") as client:
            await client.map(0, 1 << 20)
            await start(client, 4)
            await Asked(client).give(b"ABCD")
            assert b"DCBA" == (await Asked(client).take())[4]


async def test_an_answer_to_nothing_ends_the_connection(tmp_path: Path) -> None:
    """There is no telling what such a client means."""
    async with serving(rig(tmp_path)) as made, attached(made, "slow") as client:
        await Asked(client).answer(77, READ_MEMORY)
        await client.closed()


def test_the_function_is_what_it_seems() -> None:
    """The registers above are where this file says."""
    assert issubclass(SlowFunction, PciFunction)
    places = [SlowFunction.declared[name].offset for name in ("source", "size", "move", "moved", "quick")]
    assert [PLACE, SIZE, MOVE, MOVED, QUICK] == places
