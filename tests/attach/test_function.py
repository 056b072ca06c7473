"""PCI functions behind real vfio-user sockets, as QEMU, rust-vmm and alioth use them."""

from __future__ import annotations

import array
import errno
import gc
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from devices.pci.testdev import TestFunction as Bench
from devices.pci.testdev_express import ExpressTestFunction
from devices.pci.uart import PciUart
from mmiod.attach.functions import check_functions
from mmiod.device import Device, Register
from mmiod.errors import MachineError
from tests.attach import functions as f
from tests.attach.functions import (
    RAM,
    Client,
    Functions,
    SlowFunction,
    attached,
    dialled,
    eventfd,
    serving,
    told,
)
from tests.attach.peers import sealed

RECORDED = Path(__file__).parents[1] / "protocol" / "vfio_user" / "qemu-11.1.3-attach.txt"
CONFIG = 7
COMMAND, INTERRUPTS = 4, (1 << 2 | 3).to_bytes(2, "little")
"""The command register: decode ports and memory, master the bus."""


def open_now() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def nothing_left() -> Iterator[None]:
    """The block leaves no descriptor open and no memory mapped, of what is a client's."""
    gc.collect()  # machines of other tests have storage
    before = open_now()
    yield
    assert before == open_now()
    assert "memfd:" not in Path("/proc/self/maps").read_text()


# --- what QEMU does ---------------------------------------------------------------------------


async def test_the_recorded_attachment_of_a_stock_qemu(tmp_path: Path) -> None:
    """Message by message the answers are those with which QEMU 11.1.3 went on."""
    lines = [line.split() for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
    rig = Functions(tmp_path, {"uart": PciUart})
    async with serving(rig), dialled(rig, "uart") as client:
        with sealed(256 << 20) as memory, eventfd() as event:
            for way, descriptors, text in lines:
                message = bytes.fromhex(text)
                if way == "<":
                    assert message == await client.exactly(len(message))
                    continue
                command = struct.unpack_from("<H", message, 2)[0]
                given = memory if command == f.MAP else event
                await client.send_raw(message, (given,) * int(descriptors))
        assert not rig.of("message_refused")


async def test_pipelined_maps_keep_their_descriptors(tmp_path: Path) -> None:
    """Each of five maps sent at once gets its own memory, though some come without descriptors."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        with sealed(4096) as low, sealed(4096) as high:
            for number, (address, descriptors) in enumerate(
                [(0, (low,)), (0x2000, ()), (0x3000, ()), (0x4000, (high,)), (0x6000, ())]
            ):
                payload = struct.pack("<IIQQQ", 32, 3, 0, address, 4096)
                await client.send(f.MAP, payload, descriptors)
                assert number + 2 == client.number
            for _ in range(5):
                assert not (await client.receive()).failed
            os.pwrite(low, b"sixteen of them.", 0)
            await client.write(0, 8, struct.pack("<Q", 0))
            await client.write(0, 16, struct.pack("<Q", 0x4000))
            assert b"sixteen of them." == os.pread(high, 16, 0)
            # What no descriptor reaches reads as ones.
            await client.write(0, 8, struct.pack("<Q", 0x2000))
            await client.write(0, 16, struct.pack("<Q", 0x4000))
            assert b"\xff" * 16 == os.pread(high, 16, 0)


async def test_posted_writes_have_no_answer(tmp_path: Path) -> None:
    """A write with No_reply is done in its place, and the next answer is that of the read behind it."""
    rig = Functions(tmp_path, {"test": Bench})
    async with serving(rig), attached(rig, "test") as client:
        for value in range(5):
            await client.post(0, 4, struct.pack("<I", value))
        assert struct.pack("<I", 4) == await client.read(0, 4, 4)
        # Not even an error: there is no such place.
        await client.post(0, 0x4000, b"1234")
        await client.send(99, flags=f.NO_REPLY)
        assert struct.pack("<I", 4) == await client.read(0, 4, 4)
        assert 2 == len(rig.of("message_refused"))


async def test_many_writes_in_one_message(tmp_path: Path) -> None:
    """WRITE_MULTI does its writes in order; those outside of a region are dropped and told."""
    rig = Functions(tmp_path, {"test": Bench})
    async with serving(rig), attached(rig, "test") as client:
        parts = [(4, 0, 4, 1), (8, 0, 8, 0x1122334455667788), (0x9000, 0, 4, 9), (4, 0, 2, 7)]
        payload = struct.pack("<Q", 4) + b"".join(struct.pack("<QIIQ", *part) for part in parts)
        assert struct.pack("<Q", 4) == (await client.call(f.MULTI, payload)).payload
        assert struct.pack("<IQ", 7, 0x1122334455667788) == await client.read(0, 4, 12)
        [complaint] = rig.of("message_refused")
        assert "0x9000" == complaint["value"]


async def test_intx_is_a_level_that_masks_itself(tmp_path: Path) -> None:
    """It is told once; unmasked while it is high it is told again, and not once it is low."""
    rig = Functions(tmp_path, {"test": Bench})
    async with serving(rig), attached(rig, "test") as client:
        with eventfd() as event:
            await client.set_irqs(0, f.EVENTFD_TRIGGER, 0, 1, event)
            await client.write(0, 0x28, struct.pack("<I", 3))
            await client.write(0, 0x20, struct.pack("<I", 1))
            assert 1 == told(event)
            # Low and high again, before the client has unmasked it.
            await client.write(0, 0x24, struct.pack("<I", 1))
            await client.write(0, 0x20, struct.pack("<I", 2))
            assert 0 == told(event)
            await client.set_irqs(0, f.NONE_UNMASK)
            assert 1 == told(event)
            await client.write(0, 0x24, struct.pack("<I", 3))
            await client.set_irqs(0, f.NONE_UNMASK)
            assert 0 == told(event)
            await client.set_irqs(0, f.NONE_MASK)
            await client.write(0, 0x20, struct.pack("<I", 1))
            assert 0 == told(event)
            # A new eventfd of a line that is high is told at once; a reset makes it low.
            await client.set_irqs(0, f.NONE_TRIGGER, 0, 0)
            await client.set_irqs(0, f.EVENTFD_TRIGGER, 0, 1, event)
            assert 1 == told(event)
            await client.call(f.RESET)
            await client.set_irqs(0, f.NONE_UNMASK)
            assert 0 == told(event)


async def test_intx_is_unmasked_by_an_eventfd(tmp_path: Path) -> None:
    """As QEMU on KVM does it: the interrupt controller's acknowledgement tells a high line again."""
    rig = Functions(tmp_path, {"test": Bench})
    async with serving(rig), attached(rig, "test") as client:
        with eventfd() as event, eventfd() as resample:
            await client.set_irqs(0, f.EVENTFD_TRIGGER, 0, 1, event)
            await client.set_irqs(0, f.EVENTFD_UNMASK, 0, 1, resample)
            await client.write(0, 0x28, struct.pack("<I", 1))
            await client.write(0, 0x20, struct.pack("<I", 1))
            assert 1 == told(event)
            os.eventfd_write(resample, 1)
            with trio.fail_after(f.PATIENCE_S):
                await trio.lowlevel.wait_readable(event)
            assert 1 == told(event)


@pytest.mark.parametrize("one_by_one", [True, False])
async def test_msix_vectors_by_eventfd(tmp_path: Path, one_by_one: bool) -> None:
    """A vector is told by its own eventfd; without one it is pending until it gets one."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    async with serving(rig), attached(rig, "express") as client:
        with eventfd() as first, eventfd() as second:
            await client.write(CONFIG, COMMAND, INTERRUPTS)
            await client.set_irqs(2, f.EVENTFD_TRIGGER, 0, 1)  # as QEMU begins: no descriptor
            if one_by_one:
                await client.set_irqs(2, f.EVENTFD_TRIGGER, 0, 1, first)
                await client.set_irqs(2, f.EVENTFD_TRIGGER, 1, 1, second)
            else:
                await client.set_irqs(2, f.EVENTFD_TRIGGER, 0, 2, first, second)
            await client.write(CONFIG, 0xA2, b"\x03\x80")
            for vector in (1, 0, 1):
                await client.write(0, 0, struct.pack("<I", vector))
            assert (1, 2) == (told(first), told(second))
            await client.set_irqs(2, f.EVENTFD_TRIGGER, 1, 1)
            await client.write(0, 0, struct.pack("<I", 1))
            assert 0 == told(second)
            assert b"\x02" == await client.read(0, 0xC00, 1)  # the PBA, which QEMU reads here
            await client.set_irqs(2, f.EVENTFD_TRIGGER, 1, 1, second)
            assert 1 == told(second)
            await client.set_irqs(2, f.NONE_TRIGGER, 0, 0)
            await client.write(0, 0, struct.pack("<I", 0))
            assert 0 == told(first)


async def test_msi_vectors_by_eventfd(tmp_path: Path) -> None:
    """The low bits of the message's data are the vector, as many as the guest allocated."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    async with serving(rig), attached(rig, "express") as client:
        with eventfd() as first, eventfd() as second:
            await client.write(CONFIG, COMMAND, INTERRUPTS)
            await client.write(CONFIG, 0x84, struct.pack("<IIH", 0xFEE00000, 0, 0x4030))
            await client.write(CONFIG, 0x82, b"\x11\x00")
            await client.set_irqs(1, f.EVENTFD_TRIGGER, 0, 2, first, second)
            for vector in (1, 1, 0):
                await client.write(0, 0, struct.pack("<I", vector))
            assert (1, 2) == (told(first), told(second))
            await client.set_irqs(1, f.NONE_TRIGGER, 0, 0)
            await client.write(0, 0, struct.pack("<I", 0))
            [dropped] = rig.of("interrupt_dropped")
            assert "MSI" == dropped["capability"]


async def test_a_client_may_ring_itself(tmp_path: Path) -> None:
    """SET_IRQS with DATA_NONE or DATA_BOOL signals the eventfds that were assigned."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    async with serving(rig), attached(rig, "express") as client:
        with eventfd() as first, eventfd() as second:
            await client.set_irqs(2, f.EVENTFD_TRIGGER, 0, 2, first, second)
            await client.set_irqs(2, f.NONE_TRIGGER, 1, 1)
            await client.set_irqs(2, f.BOOL_TRIGGER, 0, 2, data=b"\x01\x00")
            assert (1, 1) == (told(first), told(second))


async def test_the_whole_configuration_space_in_one_message(tmp_path: Path) -> None:
    """4 KiB of a PCI Express function are one read, and a capability is where its header says."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    async with serving(rig), attached(rig, "express") as client:
        space = await client.read(CONFIG, 0, 4096)
        assert (0x1234, 0x6D6E) == struct.unpack_from("<HH", space)
        assert 0x10 == space[space[0x34]]
        assert space[0x40:0x80] == await client.read(CONFIG, 0x40, 0x40)


async def test_unmapping(tmp_path: Path) -> None:
    """A range takes all maps within it, the flag takes all; what is not there is told and no error."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        memory = rig.machine.memory_of("slow")
        with sealed(0x4000) as descriptor:
            for page in range(4):
                await client.map(page << 12, 0x1000, descriptor, offset=page << 12)
            reply = await client.unmap(0x1000, 0x2000)
            assert struct.pack("<IIQQ", 24, 0, 0x1000, 0x2000) == reply.payload
            assert [0, 0x3000] == [slot.gpa for slot in memory.slots.values()]
            assert not (await client.unmap(0x1000, 0x1000)).failed
            assert 1 == len(rig.of("message_refused"))
            assert not (await client.unmap(0, 0, flags=2)).failed
            assert not memory.slots


async def test_maps_that_cannot_be(tmp_path: Path) -> None:
    """An overlap is EEXIST, what is not in the file EINVAL; what was mapped stays."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        with sealed(0x2000) as descriptor:
            assert not (await client.map(0x1000, 0x2000, descriptor)).failed
            assert errno.EEXIST == (await client.map(0x2000, 0x1000, descriptor)).error
            assert errno.EINVAL == (await client.map(0x8000, 0x3000, descriptor)).error
            assert errno.EINVAL == (await client.map(0x8000, 0x1000, descriptor, offset=0x2000)).error
            assert errno.EINVAL == (await client.map(0x8000, 0)).error
            assert errno.EEXIST == (await client.map(1 << 63, 1 << 63)).error  # no processor has so much
            assert errno.EINVAL == (await client.map((1 << 64) - 1, 2)).error
            assert errno.EINVAL == (await client.map(0x8000, 0x1000, descriptor, descriptor)).error
            assert errno.EINVAL == (await client.map(0x8000, 0x1000, flags=0x80)).error
        assert [0x1000] == [slot.gpa for slot in rig.machine.memory_of("slow").slots.values()]
        assert 8 == len(rig.of("message_refused"))


async def test_read_only_memory_is_not_written(tmp_path: Path) -> None:
    """DMA into a map without the write flag is dropped."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        with sealed(0x2000) as descriptor:
            os.pwrite(descriptor, b"sixteen of them.", 0)
            await client.map(0, 0x1000, descriptor)
            await client.map(0x1000, 0x1000, descriptor, offset=0x1000, flags=1)
            await client.write(0, 16, struct.pack("<Q", 0x1000))
            assert bytes(16) == os.pread(descriptor, 16, 0x1000)


async def test_a_file_that_may_shrink_is_not_mapped(tmp_path: Path) -> None:
    """DMA works through it, and where it has shrunk reads as ones: nothing is killed."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        with sealed(0x2000, seals=0) as descriptor:
            os.pwrite(descriptor, b"sixteen of them.", 0x1000)
            await client.map(0, 0x2000, descriptor)
            await client.write(0, 8, struct.pack("<Q", 0x1000))
            await client.write(0, 16, struct.pack("<Q", 0))
            assert b"sixteen of them." == os.pread(descriptor, 16, 0)
            os.ftruncate(descriptor, 0x1000)
            await client.write(0, 16, struct.pack("<Q", 0))
            assert b"\xff" * 16 == os.pread(descriptor, 16, 0)


# --- devices that do not answer at once -------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
async def test_an_answer_comes_when_the_device_has_it(tmp_path: Path, together: bool) -> None:
    """Messages behind the one that waits are done after it, in order, however they come."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    reads = [struct.pack("<HHIIIQII", id_, f.READ, 32, 0, 0, 4 * id_, 0, 4) for id_ in range(2)]
    async with serving(rig), attached(rig, "slow") as client:
        for data in [b"".join(reads)] if together else reads:
            await client.send_raw(data)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await release(rig, 0xC0FFEE)
        first, second = await client.receive(), await client.receive()
        assert struct.pack("<I", 0xC0FFEE) == first.payload[16:]
        assert struct.pack("<I", 0x12345678) == second.payload[16:]


async def release(rig: Functions, value: int) -> None:
    """Let the slow function answer."""
    host = rig.machine.hosts["slow"]
    await rig.attachment.inject(lambda: host.receive("answer", value.to_bytes(4, "little")))


async def test_at_the_deadline_an_access_is_given_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """All ones go back and one event tells of it; the late answer is nobody's, and then all is well again."""
    autojump_clock.autojump_threshold = 0.05
    rig = Functions(tmp_path, {"slow": SlowFunction}, deadline_s=1)
    async with serving(rig), attached(rig, "slow") as client:
        assert b"\xff" * 4 == await client.read(0, 0, 4)
        assert [{"device": "slow", "message": "REGION_READ", "deadline_s": 1}] == rig.of("access_expired")
        # Until it answers, it is not there: at once, and not after another second.
        assert b"\xff" * 4 == await client.read(0, 4, 4)
        await client.write(0, 4, bytes(4))
        assert 1 == len(rig.of("access_expired"))
        await release(rig, 0xC0FFEE)
        assert struct.pack("<I", 0x12345678) == await client.read(0, 4, 4)
        await client.write(0, 0, bytes(4))
        assert 2 == len(rig.of("access_expired"))
        # A reset ends what it owed.
        await client.call(f.RESET)
        assert struct.pack("<I", 0x12345678) == await client.read(0, 4, 4)


async def test_an_answer_in_the_moment_of_the_deadline(tmp_path: Path) -> None:
    """Whichever comes second finds nothing to answer: one reply, and the next read has its own."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        await client.send(f.READ, struct.pack("<QII", 0, 0, 4))
        await trio.testing.wait_all_tasks_blocked(0.01)
        function = rig.attachment.functions["slow"]
        visit = function.client
        assert visit is not None
        flight = visit.flight
        assert flight is not None
        await release(rig, 0xC0FFEE)
        function.waits._expired(visit, flight)
        assert struct.pack("<I", 0xC0FFEE) == (await client.receive()).payload[16:]
        assert struct.pack("<I", 0x12345678) == await client.read(0, 4, 4)
        assert not rig.of("access_expired")


async def test_what_waits_is_answered_when_the_daemon_stops(tmp_path: Path) -> None:
    """By all ones, and no deadline has passed; then the connection ends."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig), attached(rig, "slow") as client:
        await client.send(f.READ, struct.pack("<QII", 0, 0, 4))
        await trio.testing.wait_all_tasks_blocked(0.01)
        rig.attachment.stop()
        assert b"\xff" * 4 == (await client.receive()).payload[16:]
        await client.closed()
        assert not rig.of("access_expired")


async def test_a_client_that_goes_while_a_device_owes(tmp_path: Path) -> None:
    """The next client finds the device reset."""
    rig = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(rig):
        async with attached(rig, "slow") as client:
            await client.send(f.READ, struct.pack("<QII", 0, 0, 4))
            await trio.testing.wait_all_tasks_blocked(0.01)
        await rig.wait_for("function_detached")
        async with attached(rig, "slow") as client:
            assert struct.pack("<I", 0x12345678) == await client.read(0, 4, 4)


async def test_a_broken_device_reads_ones(tmp_path: Path) -> None:
    """Its hook's error is its own: the connection goes on, other functions too."""
    rig = Functions(tmp_path, {"slow": SlowFunction, "test": Bench})
    async with serving(rig), attached(rig, "slow") as client, attached(rig, "test") as other:
        await client.write(0, 24, bytes(4))
        assert b"\xff" * 4 == await client.read(0, 4, 4)
        assert b"\xff" * 2 == await client.read(CONFIG, 0, 2)
        assert b"mmio" == await other.read(0, 0, 4)


# --- who may come, and what is left -----------------------------------------------------------


async def test_a_second_client_is_refused_at_once(tmp_path: Path) -> None:
    """It gets EBUSY to its VERSION, then the end; the first one does not notice."""
    rig = Functions(tmp_path, {"test": Bench})
    async with serving(rig):
        async with attached(rig, "test") as client:
            async with dialled(rig, "test") as other:
                refused = await other.call(f.VERSION, struct.pack("<HH", 0, 0) + f.QEMU_CAPABILITIES)
                assert errno.EBUSY == refused.error
                await other.closed()
            assert b"mmio" == await client.read(0, 0, 4)
        await rig.wait_for("function_detached")
        async with attached(rig, "test") as client:
            assert b"mmio" == await client.read(0, 0, 4)


async def test_a_connection_that_says_nothing_holds_nobody_up(tmp_path: Path) -> None:
    """The function is taken by VERSION, not by connecting; only so many may wait."""
    rig = Functions(tmp_path, {"test": Bench})
    async with serving(rig), dialled(rig, "test"), attached(rig, "test") as client:
        assert b"mmio" == await client.read(0, 0, 4)
        silent = [trio.socket.socket(socket.AF_UNIX) for _ in range(9)]
        for sock in silent:
            await sock.connect(str(tmp_path / "test"))
        await Client(silent[-1]).closed()
        assert b"mmio" == await client.read(0, 0, 4)
        for sock in silent:
            sock.close()


async def test_functions_have_each_their_own_memory_and_life(tmp_path: Path) -> None:
    """What one client maps the other function does not reach, and its end resets one function alone."""
    rig = Functions(tmp_path, {"one": SlowFunction, "test": Bench})
    async with serving(rig), attached(rig, "one") as client:
        with sealed(RAM) as descriptor:
            await client.map(0, RAM, descriptor)
        assert 1 == len(rig.machine.memory_of("one").slots)
        assert not rig.machine.memory_of("test").slots
        async with attached(rig, "test") as other:
            await other.write(0, 4, b"kept")
            await client.write(0, 4, b"1234")
        await rig.wait_for("function_detached")
        assert b"1234" == await client.read(0, 4, 4)
        async with attached(rig, "test") as other:
            assert bytes(4) == await other.read(0, 4, 4)


async def test_nothing_is_left_of_a_client(tmp_path: Path) -> None:
    """Maps, eventfds, messages half sent and descriptors that nobody wanted: all are closed."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    with nothing_left():
        async with serving(rig):
            async with attached(rig, "express") as client:
                await crowd(client)
            await rig.wait_for("function_detached")
            assert not rig.machine.memory_of("express").slots


async def crowd(client: Client) -> None:
    """Everything that brings descriptors, right or wrong, and half a message in the end."""
    with sealed(RAM) as memory, eventfd() as event:
        await client.map(0, RAM, memory)
        await client.map(0, RAM, memory)  # overlaps
        await client.map(RAM, RAM, memory, memory)
        await client.set_irqs(2, f.EVENTFD_TRIGGER, 0, 4, event, event, event, event)
        await client.set_irqs(2, f.EVENTFD_TRIGGER, 0, 4, event, event, event)
        await client.set_irqs(0, f.EVENTFD_UNMASK, 0, 1, event)
        await client.set_irqs(0, 0x0C, 0, 1, event)  # mask by eventfd
        await client.set_irqs(3, f.EVENTFD_TRIGGER, 0, 1, event)
        await client.call(f.RESET, b"", (event,))
        await client.send_raw(struct.pack("<HHII", 9, f.MAP, 48, 0), (memory,))


async def test_descriptors_inside_of_a_message_end_the_connection(tmp_path: Path) -> None:
    """Nobody can tell whose they are."""
    rig = Functions(tmp_path, {"test": Bench})
    with nothing_left():
        async with serving(rig), attached(rig, "test") as client:
            await client.send_raw(struct.pack("<HHIII", 9, f.MAP, 48, 0, 0))
            await trio.testing.wait_all_tasks_blocked(0.01)
            with eventfd() as event:
                await client.send_raw(bytes(8), (event,))
                await client.closed()


@pytest.mark.parametrize(
    "header",
    [(1, 9, 15, 0, 0), (1, 9, 0xFFFFFFFF, 0, 0), (1, 9, 16, 1, 0), (1, 9, 16, 2, 0)],
    ids=["too short", "too long", "a reply", "neither"],
)
async def test_a_malformed_header_ends_that_connection(
    tmp_path: Path, header: tuple[int, int, int, int, int]
) -> None:
    """It alone: another function's client goes on."""
    rig = Functions(tmp_path, {"test": Bench, "uart": PciUart})
    async with serving(rig), attached(rig, "test") as client, attached(rig, "uart") as other:
        await client.send_raw(struct.pack("<HHIII", *header))
        await client.ended()
        assert b"\x36\x1b" == await other.read(CONFIG, 0, 2)
        assert "connection" == rig.of("message_refused")[0]["message"]


async def test_more_descriptors_than_any_message_has(tmp_path: Path) -> None:
    """The connection ends, and none of them stays open."""
    rig = Functions(tmp_path, {"test": Bench})
    with nothing_left():
        async with serving(rig), attached(rig, "test") as client:
            with eventfd() as event:
                await client.send(f.SET_IRQS, bytes(20), (event,) * 100)
                await client.closed()


async def test_a_client_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    """Answers of a megabyte each wait in the kernel and once here, and all arrive in the end."""
    rig = Functions(tmp_path, {"test": Bench})
    count, size = 8, 1 << 20
    async with serving(rig), attached(rig, "test") as client:
        for _ in range(count):
            await client.send(f.READ, struct.pack("<QII", 1 << 40, 2, size))
        await trio.testing.wait_all_tasks_blocked(0.05)
        [visit] = rig.attachment.functions["test"].visits
        assert not visit.stream.ready
        for number in range(count):
            reply = await client.receive()
            assert (number + 2, b"\xff" * size) == (reply.id, reply.payload[16:])


async def test_nobody_waits_for_a_long_message(tmp_path: Path) -> None:
    """Between 64 accesses of one client another one is answered, and so it is between 64 messages."""
    rig = Functions(tmp_path, {"test": Bench, "uart": PciUart})
    async with serving(rig), attached(rig, "test") as client, attached(rig, "uart") as other:
        writes = b"".join(struct.pack("<QIIQ", 4, 0, 4, number) for number in range(2000))
        await client.send(f.MULTI, struct.pack("<Q", 2000) + writes)
        seen = await between(rig, other)
        assert 0 < seen < 2000
        assert struct.pack("<Q", 2000) == (await client.receive()).payload
        one = struct.pack("<HHIII", 7, f.WRITE, 36, f.NO_REPLY, 0) + struct.pack("<QII", 4, 0, 4)
        await client.send_raw(b"".join(one + struct.pack("<I", number) for number in range(1500)))
        seen = await between(rig, other)
        assert 0 <= seen < 1499
        assert struct.pack("<I", 1499) == await client.read(0, 4, 4)


async def between(rig: Functions, other: Client) -> int:
    """What the first client has written when the other one is answered."""
    assert b"\x36\x1b" == await other.read(CONFIG, 0, 2)
    return rig.machine.hosts["test"].device.values["scratch"]


def test_a_device_that_is_no_function_is_refused(tmp_path: Path) -> None:
    """vfio-user has no way to reach it."""

    class Port(Device):
        """A port."""

        length = 4
        anything = Register(0)

    rig = Functions(tmp_path, {"port": Port, "test": Bench})
    rig.assemble()
    with pytest.raises(MachineError, match=r"devices.port: port is no PCI function"):
        check_functions(rig.machine)


# --- what rust-vmm (Cloud Hypervisor) and alioth do otherwise ---------------------------------


async def fixed(client: Client, command: int, payload: bytes, size: int, *descriptors: int) -> bytes:
    """A command as rust-vmm sends it: id 7 always, and a reply of a size that it knows beforehand."""
    await client.send_raw(struct.pack("<HHIII", 7, command, 16 + len(payload), 0, 0) + payload, descriptors)
    return (await client.exactly(16 + size))[16:]


async def test_a_client_like_rust_vmm(tmp_path: Path) -> None:
    """It never looks at the error flag, so every answer has the size that it waits for."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    async with serving(rig), dialled(rig, "express") as client:
        proposed = (
            b'{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}\0'
        )
        agreed = await client.call(f.VERSION, struct.pack("<HH", 0, 1) + proposed)
        assert (0, 1) == struct.unpack_from("<HH", agreed.payload)
        info = await fixed(client, f.INFO, struct.pack("<IIII", 32, 0, 0, 0), 16)
        _, flags, regions, irqs = struct.unpack("<IIII", info)
        assert (3, 9, 5) == (flags, regions, irqs)
        for index in range(regions):
            found = await fixed(client, f.REGION_INFO, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0), 32)
            argsz, _, same, offset, size, _ = struct.unpack("<IIIIQQ", found)
            assert (32, index, 0) == (argsz, same, offset)
            assert {0: 4096, 7: 4096}.get(index, 0) == size
        for index in range(irqs):
            found = await fixed(client, f.IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0), 16)
            assert index == struct.unpack("<IIII", found)[2]
        # Outside of everything: as long as if it were inside.
        outside = struct.pack("<QII", 0x9000, 0, 4)
        assert outside + b"\xff" * 4 == await fixed(client, f.READ, outside, 20)
        assert outside == await fixed(client, f.WRITE, outside + b"1234", 16)
        nothing = struct.pack("<IIQQ", 24, 0, 0x1000, 0x1000)
        assert nothing == await fixed(client, f.UNMAP, nothing, 24)
        with eventfd() as event:
            asked = struct.pack("<IIIII", 20, f.EVENTFD_TRIGGER, 2, 0, 4)
            await fixed(client, f.SET_IRQS, asked, 0, event, event, event, event)
            await fixed(client, f.WRITE, struct.pack("<QII", COMMAND, CONFIG, 2) + INTERRUPTS, 16)
            await fixed(client, f.WRITE, struct.pack("<QII", 0xA2, CONFIG, 2) + b"\x03\x80", 16)
            await fixed(client, f.WRITE, struct.pack("<QII", 0, 0, 4) + bytes(4), 16)
            assert 1 == told(event)
        await fixed(client, f.RESET, b"", 0)


async def test_a_client_like_alioth(tmp_path: Path) -> None:
    """It reads a reply by one `recvmsg`, and says with an int32 for each vector which descriptor it has."""
    rig = Functions(tmp_path, {"express": ExpressTestFunction})
    async with serving(rig), dialled(rig, "express") as client:

        async def whole(command: int, payload: bytes, *descriptors: int) -> bytes:
            await client.send(command, payload, descriptors)
            with trio.fail_after(f.PATIENCE_S):
                data: bytes = await client.sock.recv(1 << 16)
            assert len(data) == struct.unpack_from("<I", data, 4)[0]
            return data[16:]

        proposed = b'{"capabilities":{"max_fds":32,"max_data_xfer_size":1048576}}\0'
        agreed = await whole(f.VERSION, struct.pack("<HH", 0, 2) + proposed)
        assert struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_data_xfer_size":1048576}}\0' == agreed
        found = await whole(f.IO_FDS, struct.pack("<IIII", 16 + 32 * 40, 0, 0, 0))
        assert struct.pack("<IIII", 16, 0, 0, 0) == found
        with eventfd() as first, eventfd() as second:
            vectors = array.array("i", [-1, 0, -1, 1]).tobytes()
            asked = struct.pack("<IIIII", 36, f.EVENTFD_TRIGGER, 2, 0, 4) + vectors
            await whole(f.SET_IRQS, asked, first, second)
            await whole(f.WRITE, struct.pack("<QII", COMMAND, CONFIG, 2) + INTERRUPTS)
            await whole(f.WRITE, struct.pack("<QII", 0xA2, CONFIG, 2) + b"\x03\x80")
            for vector in range(4):
                await whole(f.WRITE, struct.pack("<QII", 0, 0, 4) + struct.pack("<I", vector))
            assert (1, 1) == (told(first), told(second))
