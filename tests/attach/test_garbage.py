"""Garbage on the socket: one error that names the field, nobody else disturbed, nothing leaked."""

from __future__ import annotations

import gc
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings, strategies as st

from mmiod.protocol.exit import MAX_MESSAGE, Ack, Error, replies
from mmiod.protocol.exit.table import MESSAGES
from mmiod.values import READ, DecodedExit, Space
from tests.attach.peers import RAM, Guest, Rig, attach, dial, sealed, serving

F_SEAL_GROW = 4


async def leave(guest: Guest, rig: Rig) -> None:
    """Close the connection, and wait until the daemon has seen it."""
    guest.socket.close()
    while rig.attachment.primary is not None:
        await trio.lowlevel.checkpoint()


@pytest.fixture(autouse=True)
def _collected() -> None:
    """Descriptors are counted: those of machines of earlier tests are not closed meanwhile."""
    gc.collect()


def open_descriptors() -> int:
    """Of this process, in which daemon and clients run."""
    return len(list(Path("/proc/self/fd").iterdir()))


def maps() -> int:
    """Mappings of guest memory in this process."""
    return Path("/proc/self/maps").read_text().count("memfd:guest")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """One VM behind a socket."""
    return Rig(tmp_path / "vm.exit")


def patched(position: int, value: int) -> Callable[[bytes], bytes]:
    """A change of one byte."""
    return lambda data: data[:position] + bytes([value]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: data[:5], "header"),
        (lambda data: data[:20], "header.size"),
        (lambda data: data + b"\0" * 8, "header.size"),
        (lambda data: data + b"\0" * MAX_MESSAGE, "header.size"),
        (patched(0, 0xFF), "header.size"),
        (patched(4, 0xEE), "header.type"),
        (patched(6, 0x80), "header.flags"),
        (patched(12, 1), "exit_decoded.exit.reserved"),
        (patched(8, 9), "exit_decoded.exit.vcpu"),
        (patched(16, 0), "exit_decoded.exit.sequence"),
        (patched(16, 9), "exit.sequence"),
        (patched(48, 9), "exit_decoded.space"),
        (patched(49, 9), "exit_decoded.direction"),
        (patched(50, 3), "exit_decoded.size"),
        (patched(52, 0), "exit_decoded.count"),
        (patched(56, 5), "exit_decoded.stride"),
    ],
)
async def test_malformed_exit_gets_one_error_naming_the_field(
    rig: Rig, change: Callable[[bytes], bytes], field: str
) -> None:
    """The bad message's connection gets the error and closes; another VM-side channel goes on."""
    async with serving(rig):
        guest = await attach(rig)
        channel = await dial(rig)
        channel.client.token = guest.client.token
        await channel.hello(join=True)
        await channel.send(change(channel.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x100, 4))))
        refused = await channel.expect(Error)
        assert refused.name == field
        assert refused.fatal
        assert await channel.receive() is None
        assert rig.machine.hosts["counter"].device.values["count"] == 0
        assert await guest.inp(0x100) == 1


async def test_message_of_the_other_direction_is_refused(rig: Rig) -> None:
    """A client does not acknowledge."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.send(replies.ack(1))
        refused = await guest.expect(Error)
        assert (refused.name, refused.reason) == ("header.type", "ACK goes to the client")


async def test_message_before_hello_is_refused(rig: Rig) -> None:
    """A connection begins with HELLO."""
    async with serving(rig):
        guest = await dial(rig)
        await guest.send(guest.client.map(0, 0, RAM, descriptor=False)[1])
        assert (await guest.expect(Error)).name == "header.type"


async def test_descriptors_that_nobody_asked_for_are_closed(rig: Rig) -> None:
    """Wrong counts of descriptors are an error, and none of them stays open."""
    async with serving(rig):
        for count in (1, 2, 5):
            guest = await dial(rig)
            while not rig.attachment.connections:
                await trio.lowlevel.checkpoint()
            before = open_descriptors()
            with sealed(RAM) as descriptor:
                await guest.send(guest.client.hello(), *[descriptor] * count)
            refused = await guest.expect(Error)
            assert (refused.name, refused.value) == ("hello descriptors", count)
            assert await guest.receive() is None
            assert open_descriptors() == before - 1, "the daemon's end is closed too"


async def test_map_with_too_few_or_too_many_descriptors(rig: Rig) -> None:
    """MAP comes with one descriptor."""
    async with serving(rig):
        for count in (0, 2):
            guest = await attach(rig)
            with sealed(RAM) as descriptor:
                await guest.send(guest.client.map(0, 0, RAM)[1], *[descriptor] * count)
            assert (await guest.expect(Error)).name == "map descriptors"
            assert await guest.receive() is None


@pytest.mark.parametrize(
    ("slot", "gpa", "length", "field"),
    [
        (99, 0, RAM, "map.slot"),
        (1, 0x800, RAM, "map.gpa"),
        (1, 0x1000, RAM, "map.slot"),
        (1, 1 << 40, RAM * 2, "map.length"),
        (1, (1 << 52) - 0x1000, RAM, "map.slot"),
    ],
)
async def test_slot_that_cannot_be_is_refused(rig: Rig, slot: int, gpa: int, length: int, field: str) -> None:
    """Unknown number, unaligned, overlapping, longer than its file, outside the address space."""
    async with serving(rig):
        guest = await attach(rig)
        await guest.map_ram()
        before = open_descriptors(), maps()
        with sealed(RAM) as descriptor:
            await guest.send(guest.client.map(slot, gpa, length)[1], descriptor)
        assert (await guest.expect(Error)).name == field
        while rig.attachment.primary is not None:
            await trio.lowlevel.checkpoint()
        assert (open_descriptors(), maps()) == (before[0] - 1, before[1])


async def test_memory_that_can_shrink_is_never_mapped(rig: Rig) -> None:
    """An unsealed memfd is used by pread: after it has shrunk it reads as ones, and nobody dies."""
    async with serving(rig):
        guest = await attach(rig)
        with sealed(RAM, seals=F_SEAL_GROW) as descriptor:
            mapped = maps()
            await guest.send(guest.client.map(0, 0, RAM)[1], descriptor)
            await guest.expect(Ack)
            assert maps() == mapped
            os.pwrite(descriptor, b"abcd", 0x3000)
            assert rig.machine.memory.read(0x3000, 4) == b"abcd"
            os.ftruncate(descriptor, 0x1000)
            assert rig.machine.memory.read(0x3000, 4) == b"\xff" * 4
            rig.machine.memory.write(0x3000, b"lost")
        assert await guest.inp(0x100) == 1


async def test_map_that_is_sent_again_is_acknowledged(rig: Rig) -> None:
    """A client that missed the ACK repeats its MAP; one mapping is left."""
    async with serving(rig):
        guest = await attach(rig)
        before = maps()
        for _ in range(2):
            with sealed(RAM) as descriptor:
                await guest.send(guest.client.map(0, 0, RAM)[1], descriptor)
            await guest.expect(Ack)
        assert maps() == before + 1


async def test_sealed_memory_is_mapped_and_let_go(rig: Rig) -> None:
    """A sealed memfd is mapped while its slot exists, and no descriptor is left behind."""
    async with serving(rig):
        guest = await attach(rig)
        before = open_descriptors(), maps()
        await guest.map_ram()
        assert maps() == before[1] + 1
        await guest.send(guest.client.unmap(0)[1])
        await guest.expect(Ack)
        assert (open_descriptors(), maps()) == before


async def test_memory_that_is_not_mapped_is_let_go(rig: Rig) -> None:
    """The descriptor of an unsealed memfd is kept while its slot exists, and no longer."""
    async with serving(rig):
        guest = await attach(rig)
        before = open_descriptors()
        with sealed(RAM, seals=F_SEAL_GROW) as descriptor:
            await guest.send(guest.client.map(0, 0, RAM)[1], descriptor)
            await guest.expect(Ack)
        assert open_descriptors() == before + 1
        await guest.send(guest.client.unmap(0)[1])
        await guest.expect(Ack)
        assert open_descriptors() == before


async def test_a_hundred_connections_leak_nothing(rig: Rig) -> None:
    """Connecting, mapping and leaving costs no descriptor and no map."""
    async with serving(rig):
        await leave(await attach(rig), rig)
        before = open_descriptors(), maps()
        for _ in range(100):
            guest = await attach(rig)
            await guest.map_ram()
            await leave(guest, rig)
        await leave(await attach(rig), rig)
        assert (open_descriptors(), maps()) == before


MESSAGE_TYPES = st.sampled_from(sorted(MESSAGES)) | st.integers(0, 0xFFFF)


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Random bytes with, mostly, a header that fits."""
    type_ = draw(MESSAGE_TYPES)
    layout = MESSAGES.get(type_)
    length = layout.size - 8 if layout and draw(st.booleans()) else draw(st.integers(0, 600))
    body = draw(st.binary(min_size=length, max_size=length) | st.just(bytes(length)))
    size = len(body) + 8 if draw(st.integers(0, 9)) else draw(st.integers(0, 1 << 32 - 1))
    return struct.pack("<IHH", size, type_, draw(st.integers(0, 3))) + body


@settings(max_examples=150)
@given(messages=st.lists(datagrams(), min_size=1, max_size=8), hello=st.booleans())
async def test_any_bytes_leave_the_daemon_and_the_other_vm_alone(
    tmp_path_factory: pytest.TempPathFactory, messages: list[bytes], hello: bool
) -> None:
    """Whatever comes, before or after HELLO: the other VM's counter counts exactly its own reads."""
    directory = tmp_path_factory.mktemp("garbage")
    one, two = Rig(directory / "one.exit", "one"), Rig(directory / "two.exit", "two")
    async with serving(one, two):
        guest = await attach(two)
        before = open_descriptors()
        bad = await (attach(one) if hello else dial(one))
        await _throw(bad, messages)
        bad.socket.close()
        while one.attachment.connections:
            await trio.lowlevel.checkpoint()
        assert await guest.inp(0x100) == 1
        assert open_descriptors() == before


async def _throw(guest: Guest, messages: list[bytes]) -> None:
    for message in messages:
        try:
            await guest.send(message)
        except OSError:
            return
