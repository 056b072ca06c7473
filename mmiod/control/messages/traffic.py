"""What happens: exits, accesses as they come, and how many there were."""

from __future__ import annotations

from attrs import frozen

from mmiod.control.messages.inventory import Range


@frozen
class Exit:
    """An exit in flight; `waits_for` is the device that owes an answer."""

    vm: str
    vcpu: int
    sequence: int
    kind: str
    age_ns: int
    space: str | None
    address: int | None
    pc: int | None
    waits_for: str | None


@frozen
class Unsupported:
    """Instruction bytes (hex) that mmiod did not execute, and how often."""

    code: str
    count: int


@frozen
class Totals:
    """A session's exits by kind, their completions by kind, what was unsupported."""

    vm: str
    exits: dict[str, int]
    completions: dict[str, int]
    unsupported: list[Unsupported]


@frozen
class Exits:
    """What is in flight and what was; a VM without hypervisor has neither."""

    exits: list[Exit]
    totals: list[Totals]


@frozen
class WatchRequest:
    """A filter such as "device==uart* and direction==write"; `start` is now (if left out) or oldest."""

    filter: str | None = None
    start: str | None = None


@frozen
class Access:
    """One access; `region` and `offset` tell where it is now, if it still is there."""

    time_ns: int
    vm: str
    vcpu: int
    sequence: int
    space: str
    direction: str
    address: int
    size: int
    value: int
    device: str | None
    generation: int
    region: str | None
    offset: int | None
    register: str | None
    fields: dict[str, int]
    status: str
    latency_ns: int
    pc: int | None
    count: int = 1
    """Accesses that the device took in one call; `value` then has their first 64 bytes."""


@frozen
class Watched:
    """Some accesses, after `dropped` that were overwritten unseen.

    The first reply has no accesses: it says in words what the filter `covers`, which
    `devices` it can match now, and of which of them registers are published else: while this
    call lasts the hypervisor asks for those, too.
    """

    accesses: list[Access]
    dropped: int
    covers: str | None = None
    devices: list[str] | None = None
    withdrawn: list[str] | None = None


@frozen
class DeviceStatistics:
    """Counters of a device; latencies are read off buckets of powers of two."""

    vm: str
    device: str
    reads: int
    writes: int
    refused: int
    faults: int
    p50_ns: int | None
    p99_ns: int | None


@frozen
class Statistics:
    """Counters of devices, ranges that nobody claims and that were hit, and sums."""

    devices: list[DeviceStatistics]
    unclaimed: list[Range]
    accesses: int
    p50_ns: int | None
    p99_ns: int | None
