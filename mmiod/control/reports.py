"""The machine's objects as messages of the control socket."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mmiod.attach.flights import Flight, Flights
from mmiod.attach.function import FunctionAttachment
from mmiod.control import messages
from mmiod.device import Fifo, Register
from mmiod.machine.address_map import Range
from mmiod.machine.assembly import CONFIG_REGION
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.ports import ServicePort, StreamPort
from mmiod.values import DecodedExit, RawExit, Space


def device(machine: Machine, host: InlineHost) -> messages.Device:
    """One device."""
    model, counters = host.device, host.statistics
    places = {
        claim.region: (space.name.lower(), claim.base)
        for space in Space
        for found in machine.table(space).ranges
        if (claim := found.claim) is not None and claim.host is host
    }
    return messages.Device(
        vm=machine.name,
        name=host.name,
        plugin=host.plugin,
        generation=host.generation,
        state="serving" if host.failure is None else "quarantined",
        reason=host.failure,
        regions=[
            messages.Region(name, region.length, *places.get(name, (None, None)))
            for name, region in model.regions.items()
        ],
        outputs={name: line.level for name, line in model.lines.items()},
        inputs=dict(model.inputs),
        backends=[
            messages.Backend(
                name, port.status.backend, port.status.where or None, port.status.lost, port.status.failure
            )
            for (owner, name), port in _ports(machine)
            if owner == host.name
        ],
        reads=counters.reads,
        writes=counters.writes,
        errors=counters.refused + counters.faults,
    )


def function(machine: Machine, attached: FunctionAttachment) -> messages.Function:
    """One function behind vfio-user."""
    name = attached.host.name
    placed = machine.claims.get((name, CONFIG_REGION))
    client = attached.client
    return messages.Function(
        vm=machine.name,
        device=name,
        socket=attached.path,
        slot=None if placed is None else _slot(placed[1].base),
        msix=attached.accesses.has_msix,
        client=None if client is None else client.stream.peer[0],
        memory=sum(slot.length for slot in attached.maps.memory.slots.values() if slot.storage is not None),
    )


def _slot(base: int) -> str:
    """A place in configuration space as bus:device.function."""
    return f"{base >> 20:02x}:{base >> 15 & 0x1F:02x}.{base >> 12 & 7}"


def _ports(machine: Machine) -> Iterator[tuple[tuple[str, str], StreamPort | ServicePort]]:
    yield from machine.backends.items()
    yield from machine.services.items()


def misses(machine: Machine, found: Range) -> int:
    """Accesses to addresses that are in this range now, and that nobody claimed."""
    return sum(
        count
        for (space, address), count in machine.misses.items()
        if space == found.space and found.start <= address < found.end
    )


def range_(machine: Machine, found: Range) -> messages.Range:
    """One range of the address map."""
    claim = found.claim
    return messages.Range(
        vm=machine.name,
        space=found.space.name.lower(),
        start=found.start,
        last=found.end - 1,
        owner=claim.host.name if claim else None,
        region=claim.region if claim else None,
        fixed=claim.fixed if claim else True,
        policy=None if claim else found.policy.name.lower(),
        hits=0 if claim else misses(machine, found),
    )


def exit_(vm: str, flight: Flight, now_ns: int) -> messages.Exit:
    """One exit in flight; `now_ns` is the time on the clock of its `since_ns`."""
    what = flight.exit
    space = what.space if isinstance(what, DecodedExit) else Space.MMIO
    address = what.address if isinstance(what, DecodedExit) else getattr(what, "gpa", None)
    return messages.Exit(
        vm=vm,
        vcpu=flight.vcpu,
        sequence=flight.sequence,
        kind=_kind(type(what).__name__),
        age_ns=now_ns - flight.since_ns,
        space=None if address is None else space.name.lower(),
        address=address,
        pc=what.state.rip if isinstance(what, RawExit) else None,
        waits_for=None if flight.waits_for is None else flight.waits_for.name,
    )


def totals(vm: str, flights: Flights) -> messages.Totals:
    """What a session has seen."""
    counted = flights.totals.fold()
    return messages.Totals(
        vm=vm,
        exits={_kind(name): count for name, count in counted.exits.items()},
        completions={_kind(name): count for name, count in counted.completions.items()},
        unsupported=[
            messages.Unsupported(code.hex(" "), count) for code, count in counted.unsupported.items()
        ],
    )


def _kind(class_name: str) -> str:
    """`RawExit` is an exit of kind raw."""
    return class_name.removesuffix("Exit").lower()


def register(machine: Machine, host: InlineHost, declared: Register | Fifo) -> messages.Register:
    """One register, read without side effect; of a FIFO its oldest element, and how full it is.

    What a plugin's getter raises is reported and has no other consequence: nobody but
    us asked, so the device goes on serving the guest.
    """
    value, fields, error = None, dict[str, int](), None
    outer = machine.mark.enter(host.name)
    try:
        try:
            value, fields = _value(host, declared)
        finally:
            machine.mark.leave(outer)  # until its end the watchdog may interrupt, in here too
    except (Exception, HookDeadlineExceeded) as failure:  # noqa: BLE001  # a plugin may raise anything
        machine.mark.leave(outer)
        error = f"{type(failure).__name__}: {failure}"
    region = declared.region or next(iter(host.device.regions.values()))
    return messages.Register(
        name=declared.name,
        region=region.name,
        offset=declared.offset,
        size=declared.size,
        access=declared.access,
        value=value,
        fields=fields,
        error=error,
    )


def _value(host: InlineHost, declared: Register | Fifo) -> tuple[int, dict[str, int]]:
    """A value and its fields."""
    if isinstance(declared, Fifo):
        host.refresh()
        return declared.inspect(host.device)
    value = host.value_of(declared)
    return value, declared.describe(value)


def statistics(vm: str, host: InlineHost) -> messages.DeviceStatistics:
    """One device's counters."""
    counters = host.statistics
    return messages.DeviceStatistics(
        vm=vm,
        device=host.name,
        reads=counters.reads,
        writes=counters.writes,
        refused=counters.refused,
        faults=counters.faults,
        p50_ns=quantile(counters.latency, 0.50),
        p99_ns=quantile(counters.latency, 0.99),
    )


def quantile(buckets: Sequence[int], part: float) -> int | None:
    """A quantile, in ns, of latencies counted in buckets: bucket n holds those of n bits.

    Within a bucket latencies are taken as evenly spread, so the error is below a factor of 2.
    """
    rank = math.ceil(part * sum(buckets))
    for bits, count in enumerate(buckets):
        if 0 < rank <= count:
            low = (1 << bits) >> 1
            return low + low * rank // (count + 1)
        rank -= count
    return None
