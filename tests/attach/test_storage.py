"""Storage by vfio-user: clients that map it, and clients that do not."""

from __future__ import annotations

import array
import gc
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from attrs import define

from mmiod.device import MemoryRead, Moves, Register, Storage, Work
from mmiod.device.pci import Bar, Identity, PciFunction
from tests.attach import functions as f
from tests.attach.functions import Client, Functions, Reply, attached, dialled, serving

ROOM = 32 + 16 + 2 * 16
"""Bytes of the answer with both areas."""
READ_WRITE, MAPPABLE = 3, 3 | 4 | 8
BAR0, BAR2 = 0, 2


class Frames(PciFunction):
    """A BAR of registers between pages of storage, and one without storage."""

    identity = Identity(0x1234, 0x0002, 0x00FF00)
    main = Bar(0x8000, number=BAR0)
    plain = Bar(0x1000, number=BAR2)
    check = Register(0, size=4, access="r", region=main)
    fill = Register(4, size=4, access="w", region=main)
    fetch = Register(8, size=8, access="w", region=main)
    ring = Storage(0x1000, 0x1000, region=main)
    frames = Storage(0x4000, 0x3000, region=main)
    fetching = Work()

    @check.value
    def _sum(self) -> int:
        return sum(self.frames.read(0, 0x3000)) + sum(self.ring.read(0, 0x1000))

    @fill.on_write
    def _fill(self, value: int) -> None:
        self.frames.write(0x2FFF, bytes([value]))

    @fetch.on_write
    def _fetch(self, address: int) -> None:
        self.values["fetch"] = address
        self.fetching.start()

    @fetching.on_run
    def _run(self) -> Moves:
        data = yield MemoryRead(self.values["fetch"], 4)
        self.ring.write(0, data)


@define(eq=False)
class Mappable(Functions):
    """Its machine file says `mmap = true`."""

    def assemble(self) -> None:
        """Make the machine."""
        super().assemble()
        self.machine.mappable |= set(self.parts)


async def receive(client: Client) -> tuple[Reply, list[int]]:
    """A reply as QEMU reads it: the header, with what descriptors come with it, then the rest."""
    space = socket.CMSG_SPACE(16 * 4)
    with trio.fail_after(f.PATIENCE_S):
        data, ancillary, _, _ = await client.sock.recvmsg(16, space)
    data += await client.exactly(16 - len(data))
    found = array.array("i")
    for _, _, rights in ancillary:
        found.frombytes(rights)
    id_, command, size, flags, error = struct.unpack("<HHIII", data)
    return Reply(id_, command, flags, error, await client.exactly(size - 16)), found.tolist()


async def region_info(
    client: Client, index: int, argsz: int = 32
) -> tuple[tuple[int, ...], bytes, list[int]]:
    """The members of the answer, its capabilities and descriptors."""
    await client.send(f.REGION_INFO, struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0))
    reply, descriptors = await receive(client)
    assert not reply.failed
    return struct.unpack_from("<IIIIQQ", reply.payload), reply.payload[32:], descriptors


@contextmanager
def mapped(descriptors: list[int], offset: int, size: int) -> Iterator[mmap.mmap]:
    """An area, as a client maps it."""
    (descriptor,) = descriptors
    with mmap.mmap(descriptor, size, offset=offset) as view:
        os.close(descriptor)
        yield view


async def test_who_has_room_gets_areas_and_a_descriptor(tmp_path: Path) -> None:
    """In two steps, as QEMU and rust-vmm ask: the first answer is of 32 bytes and promises nothing."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        assert ((ROOM, READ_WRITE, BAR0, 0, 0x8000, 0), b"", []) == await region_info(client, BAR0)
        info, capabilities, descriptors = await region_info(client, BAR0, ROOM)
        assert (ROOM, MAPPABLE, BAR0, 32, 0x8000, 0) == info
        assert struct.pack("<HHIII", 1, 1, 0, 2, 0) == capabilities[:16]
        assert struct.pack("<QQQQ", 0x1000, 0x1000, 0x4000, 0x3000) == capabilities[16:]
        with mapped(descriptors, 0x4000, 0x3000) as view:
            view[0:2] = b"\7\1"
            assert b"\7\1" == await client.read(BAR0, 0x4000, 2)
            assert struct.pack("<I", 8) == await client.read(BAR0, 0, 4)
            await client.write(BAR0, 4, b"\x2a\0\0\0")
            assert 0x2A == view[0x2FFF]
            await client.write(BAR0, 0x4004, b"by message")
            assert b"by message" == view[4:14]
            await client.call(f.RESET)
            assert bytes(0x3000) == view[:]


@pytest.mark.parametrize("argsz", [0, 32, ROOM - 1])
async def test_who_has_no_room_learns_how_much_it_needs(tmp_path: Path, argsz: int) -> None:
    """And must not take the region for memory: alioth never asks again."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        assert ((ROOM, READ_WRITE, BAR0, 0, 0x8000, 0), b"", []) == await region_info(client, BAR0, argsz)
        await client.write(BAR0, 0x4000, b"\1\2\3\4\5\6\7\x08")
        assert b"\1\2\3\4\5\6\7\x08" == await client.read(BAR0, 0x4000, 8)


@pytest.mark.parametrize("argsz", [32, 4096])
async def test_nothing_is_mapped_unless_the_machine_file_says_so(tmp_path: Path, argsz: int) -> None:
    """One mappable region turns QEMU's posted writes off for the whole device."""
    async with serving(Functions(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        assert ((32, READ_WRITE, BAR0, 0, 0x8000, 0), b"", []) == await region_info(client, BAR0, argsz)
        await client.write(BAR0, 0x4000, b"bytes")
        assert b"bytes" == await client.read(BAR0, 0x4000, 5)


async def test_a_region_without_storage_is_as_ever(tmp_path: Path) -> None:
    """The function's other regions have no areas."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        for index, length in {BAR2: 0x1000, 3: 0, 7: 256}.items():
            flags = READ_WRITE if length else 0
            assert ((32, flags, index, 0, length, 0), b"", []) == await region_info(client, index, 4096)


async def test_the_descriptor_comes_with_its_own_message(tmp_path: Path) -> None:
    """Between answers that were asked for at once, as a client that pipelines does."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        asked = (BAR2, BAR0, BAR2, BAR0, 7)
        together = b"".join(
            struct.pack("<HHIII", number, f.REGION_INFO, 48, 0, 0)
            + struct.pack("<IIIIQQ", 4096, 0, index, 0, 0, 0)
            for number, index in enumerate(asked)
        )
        await client.send_raw(together)
        for number, index in enumerate(asked):
            reply, descriptors = await receive(client)
            assert (number, int(index == BAR0)) == (reply.id, len(descriptors))
            for descriptor in descriptors:
                os.close(descriptor)


async def test_a_client_that_does_not_read_gets_it_later(tmp_path: Path) -> None:
    """The answers before it fill the socket: it stays with its message."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        size = 1 << 15
        for _ in range(40):
            await client.send(f.READ, struct.pack("<QII", 0, BAR2, 0x1000))
        await client.send(f.REGION_INFO, struct.pack("<IIIIQQ", size, 0, BAR0, 0, 0, 0))
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        for _ in range(40):
            _, descriptors = await receive(client)
            assert not descriptors
        reply, descriptors = await receive(client)
        assert (f.REGION_INFO, 1) == (reply.command, len(descriptors))
        os.close(descriptors[0])


async def test_qemu_announces_what_it_mapped(tmp_path: Path) -> None:
    """As DMA_MAP without a descriptor at the BAR's guest address, and takes it away again."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        for _ in range(2):
            for address, size in ((0xE000_1000, 0x1000), (0xE000_4000, 0x3000)):
                assert not (await client.map(address, size)).failed
            for address, size in ((0xE000_1000, 0x1000), (0xE000_4000, 0x3000)):
                assert not (await client.unmap(address, size)).failed
        assert not rig.of("message_refused")


async def test_a_client_like_rust_vmm(tmp_path: Path) -> None:
    """Its replies have the size that it knows: 32 bytes, then what the first one said."""
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, dialled(rig, "it") as client:
        agreed = await client.call(
            f.VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":1}}\0'
        )
        assert not agreed.failed
        for index in range(9):
            payload = struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)
            header = struct.pack("<HHIII", 7, f.REGION_INFO, 48, 0, 0)
            await client.send_raw(header + payload)
            first = await client.exactly(48)
            argsz = struct.unpack_from("<I", first, 16)[0]
            assert 48 == struct.unpack_from("<I", first, 4)[0]
            if argsz == 32:
                continue
            await client.send_raw(header + struct.pack("<I", argsz) + payload[4:])
            reply, descriptors = await receive(client)
            assert (argsz, 1) == (len(reply.payload), len(descriptors))
            os.close(descriptors[0])


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """However often a client asks for it: there is one, which all of them get."""

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # machines of other tests have storage
    async with serving(Mappable(tmp_path, {"it": Frames})) as rig, attached(rig, "it") as client:
        before = count()
        for _ in range(10):
            _, _, descriptors = await region_info(client, BAR0, ROOM)
            assert 1 == len(descriptors)
            os.close(descriptors[0])
        assert before == count()
