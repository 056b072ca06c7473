"""From a device's backends in the machine file to its device task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from attrs import define, evolve, field

from mmiod.core.backends.faces import Place, ServiceBackend, StreamBackend
from mmiod.core.backends.specs import NULL, service_backend, stream_backend
from mmiod.core.device_task import DeviceTask
from mmiod.core.gate import Inject, ShortWay
from mmiod.core.ports import no_hurry
from mmiod.core.service_lane import ServiceLane
from mmiod.core.stream_lane import StreamLane
from mmiod.device import Device
from mmiod.machine.description import BackendDescription
from mmiod.machine.machine import Machine


@define(eq=False)
class Backends:
    """What a device's streams and services lead to, chosen and not yet open."""

    streams: list[tuple[Place, str, StreamBackend]] = field(factory=list)
    services: list[tuple[Place, str, ServiceBackend]] = field(factory=list)

    def owned(self) -> Iterator[tuple[str, Place]]:
        """What no other backend may have, and who has it."""
        owned = [(place, backend.owns) for place, _, backend in self.streams]
        owned += [(place, backend.owns) for place, _, backend in self.services]
        return ((owns, place) for place, owns in owned if owns)


def choose(plugin: type[Device], place: Place, specs: Mapping[str, BackendDescription]) -> Backends:
    """Make the backends that a machine file names for a device; `place` says which, without a name.

    Raises:
        ValueError: the device has no such streams or services, or nothing is called so.
    """
    chosen = Backends()
    known = {*plugin.streams, *plugin.services}
    unknown = sorted(specs.keys() - known)
    if unknown:
        names = ", ".join(f"streams.{name}" for name in unknown)
        raise ValueError(f"{names}: the device has {', '.join(sorted(known)) or 'no stream'}")
    for name in plugin.streams:
        own, spec = evolve(place, name=name), specs.get(name, NULL)
        stream = stream_backend(spec, own)
        if stream is not None:
            chosen.streams.append((own, str(spec), stream))
    for name, service in plugin.services.items():
        own, spec = evolve(place, name=name), specs.get(name, NULL)
        backend = service_backend(spec, own, frozenset(service.effects))
        chosen.services.append((own, str(spec), backend))
    return chosen


def connect(
    machine: Machine,
    device: str,
    backends: Backends,
    inject: Inject,
    short: ShortWay,
    hurry: Callable[[], None] = no_hurry,
) -> DeviceTask:
    """Join a device with its backends; the task is to be run, and has something to do at each `hurry`."""
    host, notify = machine.hosts[device], machine.notify
    streams = [
        StreamLane(place, spec, backend, host, inject, notify) for place, spec, backend in backends.streams
    ]
    services = [
        ServiceLane(place, spec, backend, host, inject, notify, short)
        for place, spec, backend in backends.services
    ]
    for stream in streams:
        stream.queue.hurry = hurry
    for service in services:
        service.queue.hurry = hurry
    machine.backends.update({(device, lane.place.name): lane.queue for lane in streams})
    machine.services.update({(device, lane.place.name): lane.queue for lane in services})
    return DeviceTask(streams, services)
