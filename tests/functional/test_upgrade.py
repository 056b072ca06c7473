"""A daemon that executes itself anew under clients that do not notice."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio

from mmiod.core.ports import MAX_QUEUED
from tests.attach.functions import (
    EVENTFD_TRIGGER,
    EVENTFD_UNMASK,
    READ,
    REGION_INFO,
    Client,
    eventfd,
    told,
)
from tests.attach.peers import sealed
from tests.functional.boots import dial
from tests.functional.upgrades import PATIENCE_S, Served, attached, serving

UPGRADES = 5

MOVER = '''\
from mmiod.device import PENDING, Pending, Register, Stream, Timer
from mmiod.device.pci import Bar, Identity, PciFunction


class Mover(PciFunction):
    """Copies guest memory, raises its interrupt, and answers a read when a byte comes, which it asks for."""

    identity = Identity(0x1234, 0x0001, 0x00FF00)
    interrupt_pin_number = 1
    main = Bar(64, number=0)
    answer = Stream()
    kept = Register(0, size=4, region=main)
    source = Register(8, size=8, region=main)
    target = Register(16, size=8, access="w", region=main)
    line = Register(24, size=4, region=main)
    slow = Register(28, size=4, region=main)

    @target.on_write
    def _copy(self, target: int) -> None:
        self.memory.write(target, self.memory.read(self.values["source"], 16))

    @line.on_write
    def _drive(self, level: int) -> None:
        self.values["line"] = level
        self.set_intx(bool(level))

    @slow.on_read
    def _slow(self) -> Pending:
        self.answer.send(b"?")
        return PENDING

    @answer.on_receive
    def _release(self, data: bytes) -> None:
        self.complete(data[0])
'''


def mover(directory: Path) -> dict[str, Any]:
    """The devices of a machine with that plugin."""
    (directory / "mover.py").write_text(MOVER)
    return {"mover": {"plugin": "mover", "streams": {"answer": "unix:answer"}}}


async def test_a_strict_client_reads_and_writes_through_upgrades(tmp_path: Path) -> None:
    """No reply is missing or comes twice; memory, interrupts and state stay, and nothing leaks."""
    async with serving(tmp_path, mover(tmp_path)) as served, attached(served, "mover") as client:
        with sealed(1 << 20) as memory, eventfd() as trigger, eventfd() as unmask:
            await client.map(0, 1 << 20, memory)
            await client.set_irqs(0, EVENTFD_TRIGGER, 0, 1, trigger)
            await client.set_irqs(0, EVENTFD_UNMASK, 0, 1, unmask)
            await client.write(7, 4, struct.pack("<H", 6))
            await client.write(0, 8, struct.pack("<Q", 0x1000))
            before = served.descriptors()
            for turn in range(1, UPGRADES + 1):
                await client.write(0, 24, struct.pack("<I", 1))
                assert 1 == told(trigger)
                count = await busy_through_an_upgrade(served, client)
                assert count == struct.unpack("<I", await client.read(0, 0, 4))[0] > 0
                os.eventfd_write(unmask, 1)
                await told_again(trigger)  # the level is still high
                await client.write(0, 24, struct.pack("<I", 0))
                os.eventfd_write(unmask, 1)
                os.pwrite(memory, bytes([turn]) * 16, 0x1000)
                await client.write(0, 16, struct.pack("<Q", 0x2000))
                assert bytes([turn]) * 16 == os.pread(memory, 16, 0x2000)
                assert 1 == served.maps()
                await served.has(before)
        told_of = served.events("daemon_upgraded")
        assert list(range(1, UPGRADES + 1)) == [event["upgrades"] for event in told_of]
        assert not served.events("message_refused")


async def busy_through_an_upgrade(served: Served, client: Client) -> int:
    """Write and read, each in its turn, until the next program serves; what was written last."""
    done = trio.Event()
    count = 0

    async def upgrade() -> None:
        await served.upgrade()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upgrade)
        while not done.is_set():
            count += 1
            await client.write(0, 0, struct.pack("<I", count))
            assert struct.pack("<I", count) == await client.read(0, 0, 4)
    return count


async def told_again(trigger: int) -> None:
    """Wait until an eventfd is signalled."""
    with trio.fail_after(PATIENCE_S):
        await trio.lowlevel.wait_readable(trigger)
    assert told(trigger)


async def test_what_came_in_part_is_done_by_the_next_program(tmp_path: Path) -> None:
    """Half of a message, messages behind it, and one whose device answers while the daemon comes to rest."""
    async with (
        serving(tmp_path, mover(tmp_path), access_deadline_ms=4000) as served,
        attached(served, "mover") as client,
        await dial(tmp_path / "answer") as stream,
    ):
        await client.write(0, 0, struct.pack("<I", 0x12345678))
        slow, quick = (struct.pack("<QII", offset, 0, 4) for offset in (28, 0))
        await client.send(READ, slow)
        await client.send(READ, quick)
        whole = struct.pack("<HHIII", 77, READ, 32, 0, 0) + quick
        await client.send_raw(whole[:20])
        await asked_for_an_answer(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.upgrade)
            await trio.sleep(0.2)
            await stream.send_all(b"\x2a")
            assert slow + b"\x2a\0\0\0" == (await client.receive()).payload
            assert quick + b"\x78\x56\x34\x12" == (await client.receive()).payload
        await client.send_raw(whole[20:])
        assert (77, quick + b"\x78\x56\x34\x12") == (
            (last := await client.receive()).id,
            last.payload,
        )
        await client.send(READ, slow)
        await asked_for_an_answer(stream)
        await stream.send_all(b"\x2b")  # the backend's connection is the same
        assert slow + b"\x2b\0\0\0" == (await client.receive()).payload
        assert not served.events("access_expired")


async def asked_for_an_answer(stream: trio.SocketStream) -> None:
    """Wait until the device has the read: what came before would not be an answer."""
    with trio.fail_after(PATIENCE_S):
        assert b"?" == await stream.receive_some(1)


async def test_an_access_that_is_given_up_is_nobodys_in_the_next_program(tmp_path: Path) -> None:
    """Its reply comes once, all ones; the device's late answer goes nowhere, and then it serves."""
    async with (
        serving(tmp_path, mover(tmp_path), access_deadline_ms=200) as served,
        attached(served, "mover") as client,
    ):
        slow = struct.pack("<QII", 28, 0, 4)
        await client.send(READ, slow)
        await served.upgrade()
        assert slow + b"\xff" * 4 == (await client.receive()).payload
        assert b"\xff" * 4 == await client.read(0, 0, 4)  # it still owes that answer
        async with await dial(tmp_path / "answer") as stream:
            await stream.send_all(b"\x2a")
            with trio.fail_after(PATIENCE_S):
                while b"\xff" * 4 == await client.read(0, 0, 4):
                    pass
        assert not served.events("device_quarantined")


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("mover.py", "def broken(:\n", "mover.py:1: SyntaxError"),
        ("mmiod.toml", "[daemon]\nno = 1\n", "no"),
        ("guest.toml", '[devices.other]\nplugin = "mover"\n', "guest: devices.mover: it has a client"),
        ("mover.py", MOVER.replace("Bar(64", "Bar(128"), "its client knows other BARs"),
    ],
)
async def test_what_cannot_serve_is_found_out_before(
    tmp_path: Path, file: str, text: str, reason: str
) -> None:
    """The daemon says why, and serves on as if nothing had been asked."""
    async with serving(tmp_path, mover(tmp_path)) as served, attached(served, "mover") as client:
        await client.write(0, 0, struct.pack("<I", 7))
        (tmp_path / file).write_text(text)
        status, said = await served.ctl("upgrade")
        assert (1, True) == (status, reason in said), said
        assert "the daemon is not upgraded, and serves on" in said
        assert 7 == struct.unpack("<I", await client.read(0, 0, 4))[0]
        assert [reason in event["reason"] for event in served.events("upgrade_rejected")] == [True]
        assert not served.events("daemon_upgraded")


async def test_what_a_device_sends_meanwhile_reaches_its_backend(tmp_path: Path) -> None:
    """Under posted writes, to a program that reads nothing until the end: not a byte is lost."""
    uart = {"plugin": "pci/uart", "streams": {"serial": "unix:serial"}}
    sent = bytearray()
    async with (
        serving(tmp_path, {"uart": uart}) as served,
        attached(served, "uart") as client,
        await dial(tmp_path / "serial") as stream,
    ):
        done = trio.Event()

        async def upgrade() -> None:
            await served.upgrade()
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade)
            while not done.is_set():
                for _ in range(16 if len(sent) < MAX_QUEUED // 2 else 0):
                    sent.append(len(sent) % 251)
                    await client.post(0, 0, bytes(sent[-1:]))
                await client.read(0, 5, 1)
        received = b""
        with trio.fail_after(PATIENCE_S):
            while len(received) < len(sent):
                received += await stream.receive_some()
        assert sent == received


STORE = '''\
from mmiod.device import Register, Storage
from mmiod.device.pci import Bar, Identity, PciFunction


class Store(PciFunction):
    """A byte of its storage, by a register too."""

    identity = Identity(0x1234, 0x0002, 0x00FF00)
    main = Bar(0x2000, number=0)
    last = Register(0, size=4, access="r", region=main)
    frames = Storage(0x1000, 0x1000, region=main)

    @last.value
    def _last(self) -> int:
        return self.frames.read(0xFFF, 1)[0]

    @last.on_write
    def _store(self, value: int) -> None:
        self.frames.write(0xFFF, bytes([value]))
'''


@pytest.mark.parametrize("isolation", ["inline", "process"])
async def test_what_a_client_mapped_stays_mapped(tmp_path: Path, isolation: str) -> None:
    """The next program's device has the very same bytes; none of them is in the document."""
    (tmp_path / "store.py").write_text(STORE)
    devices = {"store": {"plugin": "store", "mmap": True, "isolation": isolation}}
    async with serving(tmp_path, devices) as served, attached(served, "store") as client:
        await client.send(REGION_INFO, struct.pack("<IIIIQQ", 64, 0, 0, 0, 0, 0))
        data, ancillary, _, _ = await client.sock.recvmsg(16 + 64, socket.CMSG_SPACE(4))
        assert (80, 1) == (len(data), len(ancillary))
        (descriptor,) = struct.unpack("i", ancillary[0][2])
        with mmap.mmap(descriptor, 0x1000, offset=0x1000) as view:
            os.close(descriptor)
            for turn in range(1, 3):
                before = served.descriptors()
                view[0xFFF] = turn
                await served.upgrade()
                await served.has(before)
                assert bytes([turn, 0, 0, 0]) == await client.read(0, 0, 4)
                await client.write(0, 0, bytes([0x10 + turn, 0, 0, 0]))
                assert 0x10 + turn == view[0xFFF]
                view[0] = turn
                assert bytes([turn]) == await client.read(0, 0x1000, 1)


async def test_other_storage_is_no_heir_to_a_mapping(tmp_path: Path) -> None:
    """The trial says so, and the daemon serves on."""
    (tmp_path / "store.py").write_text(STORE)
    async with (
        serving(tmp_path, {"store": {"plugin": "store", "mmap": True}}) as served,
        attached(served, "store") as client,
    ):
        await client.write(0, 0x1000, b"kept")
        (tmp_path / "store.py").write_text(
            STORE.replace("0x1000, 0x1000, region", "0, 0x1000, region").replace(
                "Register(0,", "Register(0x1000,"
            )
        )
        status, said = await served.ctl("upgrade")
        assert status
        assert "it has other storage, of which its guest has the old" in said
        assert b"kept" == await client.read(0, 0x1000, 4)
