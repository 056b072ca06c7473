"""What a device task leaves to the same task of the program that this one becomes.

Taken at rest: bytes and requests that wait, and descriptors of backends that people or
programs are connected with.  A backend that the machine file now names otherwise is opened
anew; what waits for it stays.
"""

from __future__ import annotations

from attrs import Factory, frozen

from mmiod.core.backends.faces import Lasting
from mmiod.core.descriptor_table import DescriptorTable
from mmiod.core.device_task import DeviceTask
from mmiod.core.ports import Ask
from mmiod.core.service_lane import ServiceLane
from mmiod.core.stream_lane import StreamLane


@frozen
class StreamEstate:
    """One stream."""

    backend: str
    """As the machine file names it."""
    waiting: list[bytes]
    lost: int
    descriptors: dict[str, int]
    """Places in the table, by the backend's names."""


@frozen
class RequestEstate:
    """One request."""

    number: int
    kind: str
    data: bytes


@frozen
class ServiceEstate:
    """One service."""

    waiting: list[RequestEstate]
    doubtful: bool
    """Whether the first may have been done."""


@frozen
class TaskEstate:
    """One device."""

    streams: dict[str, StreamEstate] = Factory(dict)
    services: dict[str, ServiceEstate] = Factory(dict)


def bequeath(task: DeviceTask, table: DescriptorTable) -> TaskEstate:
    """What a device task leaves."""
    return TaskEstate(
        {lane.place.name: _stream(lane, table) for lane in task.streams},
        {lane.place.name: _service(lane) for lane in task.services},
    )


def inherit(task: DeviceTask, estate: TaskEstate, table: DescriptorTable) -> None:
    """Go on with what the task before left; this one has not begun."""
    for stream in task.streams:
        left = estate.streams.get(stream.place.name)
        if left is not None:
            _go_on(stream, left, table)
    for service in task.services:
        asked = estate.services.get(service.place.name)
        if asked is not None:
            asks = [Ask(found.number, found.kind, found.data) for found in asked.waiting]
            service.go_on(asks, doubtful=asked.doubtful)


def _stream(lane: StreamLane, table: DescriptorTable) -> StreamEstate:
    queue, backend = lane.queue, lane.backend
    open_ = backend.descriptors() if isinstance(backend, Lasting) else {}
    waiting = [queue.taken, *queue.waiting] if queue.taken else queue.waiting
    places = {name: table.keep(descriptor) for name, descriptor in open_.items()}
    return StreamEstate(lane.spec, waiting, queue.status.lost, places)


def _service(lane: ServiceLane) -> ServiceEstate:
    asks = [ask for ask in (*lane.queue.waiting, *lane.queue.refused) if isinstance(ask, Ask)]
    return ServiceEstate([RequestEstate(ask.number, ask.kind, ask.data) for ask in asks], lane.doubtful)


def _go_on(lane: StreamLane, left: StreamEstate, table: DescriptorTable) -> None:
    lane.queue.status.lost = left.lost
    for piece in left.waiting:
        lane.queue.put(piece)
    if isinstance(lane.backend, Lasting) and left.backend == lane.spec:
        lane.backend.inherited.update({name: table.take(place) for name, place in left.descriptors.items()})
