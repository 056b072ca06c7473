"""Any accesses, times and inputs leave every device of a bundled machine in service, and small.

What is read fits its size; each timer is armed once; state and queues stay under a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
from attrs import define, field

from mmiod.core.strings import room_of
from mmiod.device import Pending
from mmiod.device.block import RANGE, SECTOR, Blocks, Medium
from mmiod.machine.machine import Machine
from mmiod.machine.ports import BackendStatus, Keeping
from mmiod.machine.waist import Busy
from mmiod.values import READ, WRITE, Space, ones
from tests.fuzz.machines import FOLDER, Kit, failed
from tests.fuzz.reader import Reader, written

KITS: Final = [Kit.of(file.name) for file in sorted(FOLDER.glob("*.toml"))]
OPERATIONS: Final = 64
SIZES: Final = (1, 2, 4, 8, 3, 16)
STATE_LIMIT: Final = 1 << 18
"""Things that the state of one device may be made of, bytes included."""
SENT_LIMIT: Final = 1 << 20
"""Bytes that the operations of one input may make a device send."""
ACCESS, WAIT, RECEIVE, ACKNOWLEDGE, RESET, MEMORY, REPLY = range(7)


def seeds() -> list[bytes]:
    """Every claimed place read and written, PCI functions configured, time, inputs."""
    inputs: list[bytes] = []
    for kit, known in enumerate(KITS):
        count = len(_places(known.build()))
        for first in range(0, count, 8):
            numbers = range(first, min(first + 8, count))
            inputs += [
                written(
                    kit, *(access(place, offset, 0, value) for place in numbers for value in (None, 0x5A))
                )
                for offset in range(4)
            ]
        inputs.append(
            written(kit, *(part for n in range(8) for part in (WAIT, n * 8, RECEIVE, n, 4, b"abcd")))
        )
        inputs.append(written(kit, ACKNOWLEDGE, 0, RESET, MEMORY, (0x1000, 2), 16, bytes(16), REPLY, 0, 0))
    return inputs


def access(place: int, offset: int, size: int, value: int | None) -> bytes:
    """One access by the number of its place."""
    return written(ACCESS, place, (offset, 2), size, value is not None, (value or 0, 4))


@define(eq=False)
class Bin:
    """A backend: of a stream, which counts what is sent, and of a service, which keeps requests."""

    sent: int = 0
    asked: dict[int, tuple[str, bytes]] = field(factory=dict)
    """Kind and data of the requests without an answer, by number."""
    status: BackendStatus = field(factory=lambda: BackendStatus("bin"))
    keeping: Keeping | None = None
    kept: Mapping[str, bytes] | None = None
    refusal: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self.asked)

    def put(self, data: bytes) -> None:
        """Take bytes."""
        self.sent += len(data)

    def ready(self) -> None:
        """There is nothing to send."""

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Keep a request."""
        self.asked[number] = kind, data

    def fetch(self) -> None:
        """It keeps nothing."""

    def put_back(self, parts: Mapping[str, bytes]) -> None:
        """It keeps nothing."""

    def cancel(self, number: int) -> None:
        """Answer early."""
        if number in self.asked:
            self.asked = {number: self.asked.pop(number)} | self.asked

    def disown(self, last: int) -> None:
        """Answer only what the device knows."""
        self.asked = {number: asked for number, asked in self.asked.items() if number <= last}


def run(data: bytes) -> None:
    """The first byte chooses the machine."""
    reader = Reader(data)
    machine = reader.pick(KITS).build()
    bins: dict[tuple[str, str], Bin] = {}
    for name, host in machine.hosts.items():
        bins |= {(name, one): Bin() for one in (*host.device.streams, *host.device.services)}
    for key, one in bins.items():
        machine.backends[key] = machine.services[key] = one
    for _ in reader.times(OPERATIONS):
        reader.pick(DOERS)(machine, bins, reader)
        assert {} == failed(machine)
    _check_bounds(machine, bins)


def _check_bounds(machine: Machine, bins: dict[tuple[str, str], Bin]) -> None:
    timers = sum(len(host.device.timers) for host in machine.hosts.values())
    assert len(machine.clock.armed) <= timers
    assert len(machine.clock._queue) <= 2 * len(machine.clock.armed) + 65
    for name, host in machine.hosts.items():
        assert _weight(host.device.state) <= STATE_LIMIT, name
    assert sum(one.sent for one in bins.values()) <= SENT_LIMIT
    assert len(machine.settled) <= OPERATIONS


def _weight(thing: object) -> int:
    if isinstance(thing, bytes | bytearray | str):
        return len(thing)
    if isinstance(thing, dict):
        return sum(_weight(value) + 1 for value in thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return sum(map(_weight, thing)) + 1
    kind: type = type(thing)
    if attrs.has(kind):
        return sum(_weight(getattr(thing, one.name)) for one in attrs.fields(kind))
    return 1


# --- what may happen -------------------------------------------------------------------------

Bins = dict[tuple[str, str], Bin]


def _places(machine: Machine) -> list[tuple[Space, int, int]]:
    """Where devices are now: space, base, length."""
    ranges = [found for space in Space for found in machine.table(space).ranges if found.claim is not None]
    return [(found.space, found.start, found.end - found.start) for found in ranges]


def _access(machine: Machine, _bins: Bins, reader: Reader) -> None:
    number, offset, size = reader.number(), reader.number(2), reader.pick(SIZES)
    direction = WRITE if reader.number() & 1 else READ
    value = reader.number(4) * 0x1_0000_0001_0000_0001_0000_0001 & ones(size)
    places = _places(machine)
    space, base, length = places[number % len(places)]
    for found, at, taken in machine.pieces(space, base + offset % length, size):
        answer = machine.access(found, at, taken, direction, value & ones(taken))
        if isinstance(answer, Pending | Busy):
            assert found.claim is not None
            return
        assert 0 <= answer <= ones(taken)


def _batch(machine: Machine, _bins: Bins, reader: Reader) -> None:
    """A string: whole elements are moved, and no more than were asked for."""
    number, offset, size = reader.number(), reader.number(2), reader.pick(SIZES)
    count, stride, writes = reader.number() + 1, reader.pick((0, 1, -1)), reader.number() & 1
    places = _places(machine)
    space, base, length = places[number % len(places)]
    address = base + offset % length
    count = min(count, room_of(address, size, stride, machine.find(space, address)))
    if count and writes:
        assert machine.write_batch(space, address, size, bytes(count * size), stride) in range(count + 1)
    elif count:
        data = machine.read_batch(space, address, size, count, stride)
        assert len(data) in range(0, count * size + 1, size)


def _wait(machine: Machine, _bins: Bins, reader: Reader) -> None:
    """Up to 6 ms: a device may set a timer every microsecond."""
    machine.clock.advance_to(machine.clock.now_ns + reader.number() ** 2 * 100)


def _receive(machine: Machine, _bins: Bins, reader: Reader) -> None:
    number, length = reader.number(), reader.number()
    data = reader.take(length)
    streams = [(host, one) for host in machine.hosts.values() for one in host.device.streams]
    if not streams:
        return
    host, stream = streams[number % len(streams)]
    room = host.room(stream)
    host.receive(stream, data if room is None else data[:room])


def _acknowledge(machine: Machine, _bins: Bins, reader: Reader) -> None:
    vector = machine.acknowledge(reader.number() & 1)
    assert vector is None or 0 <= vector <= 0xFF


def _reset(machine: Machine, _bins: Bins, _reader: Reader) -> None:
    machine.reset()


def _memory(machine: Machine, _bins: Bins, reader: Reader) -> None:
    """What devices find by DMA."""
    machine.memory.write(reader.number(2), reader.take(reader.number()))


def _reply(machine: Machine, bins: Bins, reader: Reader) -> None:
    """A service answers the oldest request, or fails."""
    fails, data = reader.number() & 1, reader.take(reader.number())
    for (device, service), port in bins.items():
        if port.asked:
            number = next(iter(port.asked))
            kind, request = port.asked.pop(number)
            host = machine.hosts[device]
            if fails:
                host.fail(service, number, "gone")
            elif isinstance(host.device.services[service], Blocks):
                host.reply(service, number, _sectors(kind, request, data))
            else:
                host.reply(service, number, data)
            return


def _sectors(kind: str, request: bytes, data: bytes) -> bytes:
    """What a disk answers: a backend of ours is trusted to say no less."""
    if kind == "identify":
        return Medium(int.from_bytes(data[:4]), bool(data[4:])).reply()
    return bytes(RANGE.unpack(request)[1] * SECTOR) if kind == "read" else b""


DOERS: Final = (_access, _wait, _receive, _acknowledge, _reset, _memory, _reply, _batch)
