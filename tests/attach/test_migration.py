"""A client migrates a function: what stops, what is read and written, what is logged, what is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from mmiod.attach.accesses import Accesses
from mmiod.attach.migration import Migration
from mmiod.core.ports import RequestQueue
from mmiod.errors import ProtocolError
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription
from mmiod.machine.machine import Machine
from mmiod.machine.migration import pack
from mmiod.machine.ports import BackendStatus
from mmiod.protocol.vfio_user import Outgoing, ReadState, Request, SetState, State, WriteState, path
from tests.attach import functions as f
from tests.attach.functions import Client, Functions, SlowFunction, attached, eventfd, serving, told
from tests.attach.sample import PAGE, SampleFunction
from tests.attach.test_dma_messages import Asked, start

GET, SET = 0x1_0000, 0x2_0000
DEVICE_STATE, LOG_START, LOG_STOP, LOG_REPORT = 2, 6, 7, 8
MIG_READ, MIG_WRITE = 17, 18
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = State
SECOND = 1_000_000_000
IN_AN_HOUR = struct.pack("<Q", 1_700_000_000 + 3600)
ASKED = Request(1, 16)
SMALL = b'{"capabilities":{"pgsizes":4096,"max_data_xfer_size":1024}}\0'
"""Of a client that takes messages of 1 KiB."""


def rig(directory: Path, *names: str, deadline_s: float = 1000) -> Functions:
    """A machine of sample functions."""
    return Functions(directory, dict.fromkeys(names or ("sample",), SampleFunction), deadline_s)


async def change(client: Client, state: int) -> int:
    """Set the state; the errno."""
    payload = struct.pack("<IIIi", 16, SET | DEVICE_STATE, state, -1)
    reply = await client.call(f.FEATURE, payload)
    assert reply.failed or reply.payload == payload
    return reply.error


async def state_of(client: Client) -> int:
    """Ask the state."""
    reply = await client.call(f.FEATURE, struct.pack("<II", 16, GET | DEVICE_STATE))
    return int(struct.unpack("<IIII", reply.payload)[2])


async def read_all(client: Client, size: int = 1000) -> list[bytes]:
    """All of the state that there is now."""
    parts: list[bytes] = []
    while True:
        reply = await client.call(MIG_READ, struct.pack("<II", size + 8, size))
        assert not reply.failed
        assert 8 + size == len(reply.payload)
        _, count = struct.unpack_from("<II", reply.payload)
        if not count:
            return parts
        parts.append(reply.payload[8 : 8 + count])


async def write(client: Client, part: bytes) -> int:
    """Write some state; the errno."""
    return (await client.call(MIG_WRITE, struct.pack("<II", 8 + len(part), len(part)) + part)).error


async def logged(client: Client, command: int, flags: int, data: bytes = b"") -> int:
    """Start or stop the log; the errno."""
    return (await client.call(f.FEATURE, struct.pack("<II", 1 << 16, flags | command) + data)).error


async def report(client: Client, start: int, pages: int) -> int:
    """The bits of written pages."""
    asked = struct.pack("<IIQQQ", 1 << 16, GET | LOG_REPORT, start, pages * PAGE, PAGE)
    reply = await client.call(f.FEATURE, asked)
    assert not reply.failed
    return int.from_bytes(reply.payload[32:], "little")


def sample(made: Functions, name: str = "sample") -> SampleFunction:
    """The device."""
    device = made.machine.hosts[name].device
    assert isinstance(device, SampleFunction)
    return device


def migrating(made: Functions) -> bool:
    """What an upgrade asks."""
    return made.attachment.functions["sample"].migrating


async def test_a_function_goes_from_one_socket_to_another(tmp_path: Path) -> None:
    """With an early copy, which comes in part; an alarm that was set on one rings on the other."""
    here, there = rig(tmp_path), rig(tmp_path / "there")
    (tmp_path / "there").mkdir()
    async with (
        serving(here),
        serving(there),
        attached(here, "sample") as old,
        attached(there, "sample") as new,
    ):
        await old.write(1, 0, b"early")
        assert 0 == await change(old, PRE_COPY)
        early = await read_all(old)
        await old.write(1, 0, b"later")
        await old.write(0, 0, IN_AN_HOUR)
        assert 0 == await change(old, STOP_COPY)
        last = await read_all(old)
        assert 0 == await change(old, STOP)
        assert 0 == await change(new, RESUMING)
        for part in early[:-1] + last:
            assert 0 == await write(new, part)
        assert 0 == await change(new, STOP)
        assert b"later" == await new.read(1, 0, 5)
        assert 0 == await change(new, RUNNING)
        deadline, _, _ = there.machine.clock.armed["sample", "alarm"]
        assert 3500 * SECOND < deadline < 3700 * SECOND
        with eventfd() as intx:
            await new.set_irqs(0, f.EVENTFD_TRIGGER, 0, 1, intx)
            assert 0 == told(intx)
            await there.attachment.inject(lambda: there.machine.hosts["sample"].fire("alarm"))
            assert 1 == told(intx)


async def test_a_stopped_function(tmp_path: Path) -> None:
    """Its alarm does not ring and its BARs take no writes; reads, configuration and, later, all do."""
    made = rig(tmp_path)
    async with serving(made), attached(made, "sample") as client:
        await client.write(1, 0, b"as it was")
        await client.write(0, 0, IN_AN_HOUR)
        assert 0 == await change(client, STOP)
        await made.attachment.inject(lambda: made.machine.hosts["sample"].fire("alarm"))
        await client.write(1, 0, b"otherwise")
        await client.write(7, 4, b"\2\0")
        assert b"as it was" == await client.read(1, 0, 9)
        assert b"\2\0" == await client.read(7, 4, 2)
        assert not sample(made).lines["intx"].level
        assert 0 == await change(client, RUNNING)
        await client.write(1, 0, b"otherwise")
        assert b"otherwise" == await client.read(1, 0, 9)
        await made.attachment.inject(lambda: made.machine.hosts["sample"].fire("alarm"))
        assert sample(made).lines["intx"].level


@pytest.mark.parametrize("done", [True, False], ids=["done", "at the deadline"])
async def test_a_function_stops_when_its_backends_are_done(tmp_path: Path, done: bool) -> None:
    """The answer waits for that; at the deadline it is EBUSY, and the function runs on."""
    made = rig(tmp_path, deadline_s=1000 if done else 0.01)
    async with serving(made), attached(made, "sample") as client:
        queue = made.machine.services["sample", "disk"] = RequestQueue(BackendStatus("disk"))
        queue.ask(1, "read", b"")
        await client.send(f.FEATURE, struct.pack("<IIIi", 16, SET | DEVICE_STATE, STOP_COPY, -1))
        await trio.testing.wait_all_tasks_blocked()
        if done:
            await made.attachment.inject(queue.waiting.clear)
        reply = await client.receive()
        assert (0 if done else errno.EBUSY) == reply.error
        assert (STOP_COPY if done else RUNNING) == await state_of(client)
        assert done == made.machine.hosts["sample"].held


async def test_a_reset_and_a_client_that_goes_end_a_migration(tmp_path: Path) -> None:
    """The function runs; a reset leaves the log of writes, and nothing is left for the next client."""
    made = rig(tmp_path)
    async with serving(made):
        async with attached(made, "sample") as client:
            assert 0 == await logged(client, LOG_START, SET, struct.pack("<QII", PAGE, 0, 0))
            assert 0 == await change(client, RESUMING)
            assert not (await client.call(f.RESET)).failed
            assert RUNNING == await state_of(client)
            assert 0 == await report(client, 0, 1)
            assert 0 == await change(client, STOP)
            assert migrating(made)
        await made.wait_for("function_detached")
        assert not migrating(made)
        async with attached(made, "sample") as client:
            assert RUNNING == await state_of(client)
            await client.write(1, 0, b"it runs")
            assert b"it runs" == await client.read(1, 0, 7)


@pytest.mark.parametrize("what", ["nothing", "half", "garbage", "another function"])
async def test_a_state_that_does_not_fit(tmp_path: Path, what: str) -> None:
    """It is refused when it is whole, or in the end; then only a reset helps."""
    made = Functions(tmp_path, {"sample": SampleFunction, "other": SlowFunction})
    async with serving(made), attached(made, "sample") as client, attached(made, "other") as other:
        source = other if what == "another function" else client
        assert 0 == await change(source, STOP_COPY)
        whole = await read_all(source)
        assert 0 == await change(client, RESUMING)
        parts = {"nothing": [], "half": whole[:-1], "garbage": [b"garbage" * 9]}.get(what, whole)
        errors = [await write(client, part) for part in parts]
        assert ({errno.EINVAL} if parts and what != "half" else set()) == set(errors[-1:]) - {0}
        assert errno.EINVAL == await change(client, STOP)
        assert ERROR == await state_of(client)
        assert errno.EINVAL == await change(client, RUNNING)
        assert not (await client.call(f.RESET)).failed
        assert RUNNING == await state_of(client)


async def test_data_moves_in_its_states_only(tmp_path: Path) -> None:
    """Nothing is read of a function that runs, nothing written to one that is not to be another."""
    made = rig(tmp_path)
    async with serving(made), attached(made, "sample") as client:
        for state in (RUNNING, STOP, RESUMING):
            assert 0 == await change(client, state)
            assert errno.EINVAL == (await client.call(MIG_READ, struct.pack("<II", 108, 100))).error
        assert not (await client.call(f.RESET)).failed
        for state in (RUNNING, PRE_COPY, STOP_COPY, STOP):
            assert 0 == await change(client, state)
            assert errno.EINVAL == await write(client, b"data")


async def test_the_log_of_written_pages(tmp_path: Path) -> None:
    """What the function wrote since the last report, and nothing while nobody wants to know."""
    made = Functions(tmp_path, {"slow": SlowFunction})
    begin = struct.pack("<QII", PAGE, 0, 0)
    async with serving(made), attached(made, "slow") as client:
        await map_memory(client, 16)
        await client.write(0, 16, struct.pack("<Q", 2 * PAGE))
        asked = struct.pack("<IIQQQ", 1 << 16, GET | LOG_REPORT, 0, PAGE, PAGE)
        assert errno.EINVAL == (await client.call(f.FEATURE, asked)).error
        assert 0 == await logged(client, LOG_START, SET, begin)
        assert errno.EINVAL == await logged(client, LOG_START, SET, begin)
        await client.write(0, 16, struct.pack("<Q", 4 * PAGE - 8))
        assert 0b11000 == await report(client, 0, 16)
        assert 0 == await report(client, 0, 16)
        await client.write(0, 16, struct.pack("<Q", 5 * PAGE))
        assert 0b10 == await report(client, 4 * PAGE, 4)
        assert 0 == await logged(client, LOG_STOP, SET)
        assert made.machine.memory_of("slow").log is None


async def test_memory_that_is_shared_and_asked_for_all_the_same(tmp_path: Path) -> None:
    """With `dma = "messages"` a work goes by messages, to a client that names nothing; the rest directly.

    What goes by messages is not in the log: the client writes it.
    """
    made = Functions(tmp_path, {"sample": SampleFunction}, dma="messages")
    async with serving(made), f.dialled(made, "sample") as client:
        hello = struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":32,"max_data_xfer_size":1024}}\0'
        assert not (await client.call(f.VERSION, hello)).failed
        await map_memory(client, 2)
        assert 0 == await logged(client, LOG_START, SET, struct.pack("<QII", PAGE, 0, 0))
        await made.attachment.inject(lambda: made.machine.hosts["sample"].fire("alarm"))
        for number in range(8):
            head = await client.exactly(32)
            id_, command, _, _, _, address, count = struct.unpack("<HHIIIQQ", head)
            assert (12 if number < 4 else 11, number % 4 * 1024, 1024) == (command, address, count)
            letters = bytes([ord("A") + number % 4]) * 1024
            if number < 4:
                assert letters == await client.exactly(1024)
            data = struct.pack("<QQ", address, count) + (letters if number >= 4 else b"")
            if number < 7:
                await client.send_raw(struct.pack("<HHIII", id_, command, 16 + len(data), 1, 0) + data)
                continue
            assert 0 == await report(client, 0, 2)
            await client.send_raw(struct.pack("<HHIII", id_, command, 16 + len(data), 1, 0) + data)
        assert 0b10 == await report(client, 0, 2)
        assert 0 == sample(made).state.faults


async def test_a_stopped_function_sends_nothing_more(tmp_path: Path) -> None:
    """What it has not asked yet of a long read; when it runs again the read begins anew."""
    made = Functions(tmp_path, {"slow": SlowFunction})
    async with serving(made), f.dialled(made, "slow") as client:
        asked = Asked(client)
        await client.call(f.VERSION, struct.pack("<HH", 0, 1) + SMALL)
        await client.map(0, 1 << 20)
        await start(client, 20 * 1024)
        first = [await asked.take() for _ in range(16)]
        assert 0 == await change(client, STOP)
        await asked.answer(first[0][0], 11, struct.pack("<QQ", *first[0][2:4]) + bytes(1024))
        assert STOP == await state_of(client)
        assert 0 == await change(client, RUNNING)
        assert (11, 0x1000, 1024) == (await asked.take())[1:4]


async def test_no_upgrade_is_begun_during_a_migration(tmp_path: Path) -> None:
    """What the client began would be lost on the way."""
    made = rig(tmp_path)
    async with serving(made), attached(made, "sample") as client:
        assert not migrating(made)
        assert 0 == await change(client, PRE_COPY)
        assert migrating(made)
        assert 0 == await change(client, RUNNING)
        assert not migrating(made)


ACTIONS = st.lists(st.sampled_from([*range(9), "reset", "read", "write"]), max_size=30)


@given(actions=ACTIONS)
@settings(max_examples=100, deadline=None)
def test_any_client(actions: list[int | str]) -> None:
    """States are those of the specification's table, and the function stands still in its states only."""
    machine = machine_at_rest()
    host = machine.hosts["sample"]
    migration = Migration(Accesses(machine, host), machine.memory_of("sample"), ignore, ignore)
    model, whole = RUNNING, pack(machine, "sample")
    parcel, written = Outgoing(1, whole).take(1 << 20), False
    for action in actions:
        if isinstance(action, int):
            model, written = stepped(migration, model, action, written=written)
        elif action == "reset":
            migration.drop()
            host.reset()
            model = RUNNING
        elif action == "read":
            assert (model in {PRE_COPY, STOP_COPY}) == works(lambda: migration.read(ReadState(ASKED, 100)))
        else:
            written = works(lambda: migration.write(WriteState(ASKED, parcel)))
            assert (model == RESUMING) == written
        assert model == migration.state
        assert (model not in {RUNNING, PRE_COPY}) == host.held or model == ERROR


def stepped(migration: Migration, model: State, wanted: int, *, written: bool) -> tuple[State, bool]:
    """Ask for a state; the one that it is in then, and whether a state to come to was written."""
    try:
        way = path(model, wanted)
    except ProtocolError:
        way = None
    fails = way is None or (bool(way) and model == RESUMING and not written)
    change_ = migration.change(SetState(ASKED, wanted, b""))
    assert fails == (not works(lambda: list(change_)))
    if way is None or not way:
        return model, written
    return (ERROR if fails else way[-1]), False


def works(action: Callable[[], object]) -> bool:
    """Whether it is not refused."""
    try:
        action()
    except ProtocolError:
        return False
    return True


def machine_at_rest() -> Machine:
    """A machine of one sample function."""
    clock = MachineClock(lambda: 0, lambda: 0.0)
    description = MachineDescription({"sample": DeviceDescription("sample")})
    parts = {"sample": (SampleFunction, SampleFunction.config_class())}
    machine = assemble("vm", description, parts, clock, ignore, ignore, own_memories=True)
    machine.power_on(virtual=False)
    return machine


def ignore(*_parts: object, **_fields: object) -> None:
    """What happened, and each access."""


async def map_memory(client: Client, pages: int) -> None:
    """Share memory from 0 on."""
    descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, pages * PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert not (await client.map(0, pages * PAGE, descriptor)).failed
    os.close(descriptor)
