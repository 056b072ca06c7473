"""What a worker's hooks do to their surroundings, and ask of them: done on the mirror of the device.

A guest may have written what a worker says, so its types are checked before it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mmiod.device import Device, Request, StorageFace
from mmiod.device.faces import Ranges
from mmiod.device.storage import areas_of
from mmiod.machine.context import DeviceContext
from mmiod.machine.memory import DMA_LIMIT
from mmiod.plugins.process.channel import HostEnd, WorkerGone
from mmiod.values import Space


def perform(device: Device, channel: HostEnd, name: str, arguments: list[Any]) -> None:
    """Do what a hook did, or answer what it asks, on the mirror of its device.

    Raises:
        WorkerGone: no worker says that.
    """
    action, *kinds = EFFECTS.get(name, QUERIES.get(name, (None,)))
    if (
        action is None
        or len(arguments) != len(kinds)
        or not all(isinstance(given, kind) for given, kind in zip(arguments, kinds, strict=True))
    ):
        raise WorkerGone(f"it says {[name, *arguments]!r:.80}")
    answer = action(device, *arguments)
    if name in QUERIES:
        channel.send(("answer", answer))


def _set_level(device: Device, line: str, level: bool) -> None:
    device.lines[line].set_level(level)


def _arm(device: Device, timer: str, deadline_ns: int | None) -> None:
    device.alarms[timer].deadline_ns = deadline_ns
    device.context.arm(timer, deadline_ns)


def _ask(device: Device, service: str, number: int, kind: str, data: bytes) -> None:
    if kind not in device.askers[service].effects:
        raise ValueError(f"{service}: {kind!r} is no request")
    if service in device.clients:
        device.clients[service].number = number
    device.context.ask(service, number, kind, data)


def _notify(device: Device, event: str, fields: dict[str, object]) -> None:
    device.context.notify(event, **fields)


def _told(device: Device, value: int) -> None:
    context = device.context
    assert isinstance(context, DeviceContext), context
    context.journal.told(value)


def _gathered(device: Device, flat: list[Any]) -> bytes | None:
    ranges = _ranges(flat)
    total = sum(length for _, length in ranges)
    if total > DMA_LIMIT:
        raise ValueError(f"memory: {total:#x} bytes in ranges: at most {DMA_LIMIT:#x} at once")
    return device.memory.gather(ranges)


def _ranges(flat: list[Any]) -> Ranges:
    """Addresses and lengths in turn."""
    if len(flat) % 2 or not all(isinstance(number, int) and number >= 0 for number in flat):
        raise ValueError(f"memory: {flat!r:.80} is no list of ranges")
    return list(zip(flat[::2], flat[1::2], strict=True))


def _stored(device: Device, region: str, offset: int, given: int | bytes) -> StorageFace:
    """The device's storage, seen that all of it is inside: the worker may say anything."""
    length = given if isinstance(given, int) else len(given)
    areas = areas_of(device, region)
    if not any(start <= offset and 0 <= length <= start + size - offset for start, size in areas):
        raise ValueError(f"storage: {length:#x} bytes at {offset:#x} of {region}")
    return device.context.storage


EFFECTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "set_level": (_set_level, str, bool),
    "arm": (_arm, str, int | None),
    "ask": (_ask, str, int, str, bytes),
    "notify": (_notify, str, dict),
    "told": (_told, int),
    "msi": (lambda device, address, data: device.context.msi(address, data), int, int),
    "request": (lambda device, kind, value: device.context.request(Request(kind), value), int, int),
    "place": (
        lambda device, region, space, base: device.context.place(device.regions[region], Space(space), base),
        str,
        int,
        int | None,
    ),
    "send": (lambda device, stream, data: device.channels[stream].send(data), str, bytes),
    "ready": (lambda device, stream: device.channels[stream].ready(), str),
    "cancel": (lambda device, service, number: device.clients[service].cancel(number), str, int),
    "complete": (lambda device, value: device.context.complete(value), object),
    "storage.write": (lambda device, *given: _stored(device, *given).write(*given), str, int, bytes),
    "storage.clear": (lambda device, *given: _stored(device, *given).clear(*given), str, int, int),
    "memory.write": (lambda device, gpa, data: device.memory.write(gpa, data), int, bytes),
}
"""What a hook does: the action, and the types of its arguments."""
QUERIES: Final[Mapping[str, tuple[Any, ...]]] = {
    "memory.below_4g": (lambda device: device.memory.below_4g,),
    "memory.above_4g": (lambda device: device.memory.above_4g,),
    "memory.read": (lambda device, gpa, length: device.memory.read(gpa, length), int, int),
    "memory.fetch": (lambda device, gpa, length: device.memory.fetch(gpa, length), int, int),
    "memory.store": (lambda device, gpa, data: device.memory.store(gpa, data), int, bytes),
    "memory.gather": (_gathered, list),
    "memory.scatter": (lambda device, flat, data: device.memory.scatter(_ranges(flat), data), list, bytes),
    "memory.holds": (lambda device, gpa, length: device.memory.holds(gpa, length), int, int),
    "memory.by_message": (lambda device, gpa, length: device.memory.by_message(gpa, length), int, int),
    "storage.read": (lambda device, *given: _stored(device, *given).read(*given), str, int, int),
    "bus.read": (lambda device, space, at, size: device.bus.read(Space(space), at, size), int, int, int),
    "bus.write": (
        lambda device, space, at, size, value: device.bus.write(Space(space), at, size, value),
        int,
        int,
        int,
        int,
    ),
}
"""What a hook waits for."""
