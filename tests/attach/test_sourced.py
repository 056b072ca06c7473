"""Exits of sources over a real socket: read, executed once, answered in their own structure."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import trio

from mmiod.protocol.exit import NUMBERS, Claims, Client, Completed, Error, Reply, SourceExit
from mmiod.protocol.exit.sourced import MAX_BODY
from mmiod.values import Forward, NeedRegisters, RegisterSet, TickExit, Values
from tests.attach.peers import Guest, Rig, dial, serving
from tests.attach.test_vm import release

SOURCE = NUMBERS["source"]
ROOT = Path(__file__).parents[2]
IOREQ = struct.Struct("<QQIIIHBB")
PIO, READ, POINTER, READY = 0, 1 << 5, 1 << 4, 1
"""Of struct ioreq (Xen, public/hvm/ioreq.h)."""
ADD, COUNT, TOTAL, SLOW = 0x104, 0x100, 0x10C, 0x108


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """One VM behind a socket."""
    return Rig(tmp_path / "vm.exit")


async def attach(rig: Rig, source: str) -> Guest:
    """A client that sends its exits in its own way."""
    guest = await dial(rig)
    guest.client = Client(rig.name, 1, source=SOURCE[source])
    await guest.hello()
    return guest


def ioreq(address: int, bits: int, value: int = 0) -> SourceExit:
    """One request of 4 bytes."""
    return SourceExit(0, 0, IOREQ.pack(address, value, 1, 4, 0, 0, bits | READY, PIO))


def data_of(reply: object) -> int:
    """The data of an ioreq that came back ready."""
    assert isinstance(reply, Reply)
    _, value, *_, bits, _ = IOREQ.unpack(reply.body)
    assert 3 == bits & 15
    return int(value)


async def test_request_is_answered_in_its_own_structure(rig: Rig) -> None:
    """Writes take effect in order, and a read has its value in the ioreq."""
    async with serving(rig):
        guest = await attach(rig, "XEN")
        await guest.exit_of_source(ioreq(ADD, 0, 5))
        await guest.exit_of_source(ioreq(ADD, 0, 6))
        done = await guest.exit_of_source(ioreq(TOTAL, READ))
        assert data_of(done.completion) == 11


async def test_resend_is_answered_and_not_executed_again(rig: Rig) -> None:
    """The same bytes under the same number give the same bytes; the device counts once."""
    async with serving(rig):
        guest = await attach(rig, "XEN")
        sent = guest.client.exit(ioreq(COUNT, READ))
        await guest.send(sent)
        first = await guest.receive_raw()
        await guest.send(sent)
        assert first == await guest.receive_raw()
        guest.client.receive(first)
        done = await guest.exit_of_source(ioreq(COUNT, READ))
        assert data_of(done.completion) == 2


async def test_device_may_keep_a_source_waiting(rig: Rig) -> None:
    """A device that owes its answer gets it into the structure later."""
    async with serving(rig) as pump:
        guest = await attach(rig, "XEN")
        await guest.send(guest.client.exit(ioreq(SLOW, READ)))
        await guest.send(guest.client.query_claims()[1])
        await guest.expect(Claims)
        release(rig, pump)
        done = await guest.expect(Completed)
        assert data_of(done.completion) == 0xC0FFEE


async def test_buffered_writes_are_done_before_the_answer(rig: Rig) -> None:
    """A page of writes that nobody waits for is one exit; its read pointer has moved on."""
    async with serving(rig):
        guest = await attach(rig, "XEN")
        slots = b"".join(
            struct.pack("<II", 2 << 10 | address << 12, value) for address, value in ((ADD, 7), (ADD, 8))
        )
        page = (struct.pack("<II", 0, 2) + slots).ljust(4096, b"\0")
        done = await guest.exit_of_source(SourceExit(0, 0, page))
        assert isinstance(done.completion, Reply)
        assert done.completion.body[:8] == struct.pack("<II", 2, 2)
        done = await guest.exit_of_source(ioreq(TOTAL, READ))
        assert data_of(done.completion) == 15


async def test_the_largest_structure_and_the_longest_string_fit_an_answer(rig: Rig) -> None:
    """Both at once; one byte more, or one element, is the client's error and nobody else's."""
    async with serving(rig):
        guest = await attach(rig, "XEN")
        string = IOREQ.pack(COUNT, 0x10_0000, MAX_BODY // 4, 4, 0, 0, READ | POINTER | READY, PIO)
        done = await guest.exit_of_source(SourceExit(0, 0, string.ljust(4095, b"\0")))
        assert isinstance(done.completion, Reply)
        assert [(0x10_0000, MAX_BODY)] == [(gpa, len(data)) for gpa, data in done.completion.memory]
        done = await guest.exit_of_source(SourceExit(0, 0, bytes(MAX_BODY)))  # nothing is buffered
        assert isinstance(done.completion, Reply)
        await guest.send(guest.client.exit(SourceExit(0, 0, bytes(MAX_BODY + 1))))
        error = await guest.expect(Error)
        assert ("exit_source.length", MAX_BODY + 1) == (error.name, error.value)


async def test_structure_that_cannot_be_ends_the_connection(rig: Rig) -> None:
    """The error names the field of the structure and the exit's number; nothing was executed."""
    async with serving(rig):
        guest = await attach(rig, "XEN")
        await guest.send(guest.client.exit(SourceExit(0, 0, b"short")))
        error = await guest.expect(Error)
        assert (error.name, error.value, error.subject, error.fatal) == ("ioreq", 5, 1, True)
        assert await guest.receive() is None


async def test_what_is_lacking_is_asked_for(rig: Rig) -> None:
    """A source without registers is asked for them, under the next number it brings them."""
    async with serving(rig):
        guest = await attach(rig, "BHYVE")
        done = await guest.exit_of_source(SourceExit(0, 0, struct.pack("<IIQ", 15, 1, 0x1000)))
        assert done.completion == NeedRegisters(RegisterSet.GENERAL)


@pytest.mark.needs("gcc")
async def test_device_manager_in_c(rig: Rig, tmp_path: Path) -> None:
    """acrn.c fills slots as <linux/acrn.h> has them, sends them, and reads the values there."""
    program = tmp_path / "acrn"
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "include")]
    source = Path(__file__).with_name("acrn.c")
    await trio.run_process(["gcc", *strict, str(source), "-o", str(program)])
    async with serving(rig):
        done = await trio.run_process([program, rig.path, rig.name], capture_stdout=True, check=False)
    assert (done.stdout.decode().splitlines(), done.returncode) == (["12", "another length", "forward"], 0)


async def test_other_kinds_of_exits_go_beside(rig: Rig) -> None:
    """A tick and a decoded access are as in every session; what is no access is handed back."""
    async with serving(rig):
        guest = await attach(rig, "XEN")
        done = await guest.exit(TickExit(0, 0))
        assert done.completion == Values()
        assert await guest.inp(COUNT) == 1
        invalidate = IOREQ.pack(0, 0, 1, 4, 0, 0, READY, 8)
        done = await guest.exit_of_source(SourceExit(0, 0, invalidate))
        assert done.completion == Forward()
