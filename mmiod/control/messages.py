"""What `io.mmiod` tells and asks: the types of its interface description.

Addresses and values are unsigned ints.  Times are ns.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Nothing:
    """No parameters."""


@frozen
class OfVm:
    """About one VM, or about all."""

    vm: str | None = None


# --- devices ---------------------------------------------------------------------------


@frozen
class Region:
    """Where a region of a device is; one that the guest has not placed has no space and base."""

    name: str
    length: int
    space: str | None
    base: int | None


@frozen
class Backend:
    """Where a device's stream or service `name` leads; `where` is what can be connected to.

    `lost` counts bytes that the device sent in vain; `failure` says why it is not open.
    """

    name: str
    backend: str
    where: str | None
    lost: int
    failure: str | None


@frozen
class Device:
    """A device; `state` is serving or quarantined, and then `reason` says why."""

    vm: str
    name: str
    plugin: str
    generation: int
    state: str
    reason: str | None
    regions: list[Region]
    outputs: dict[str, bool]
    inputs: dict[str, bool]
    backends: list[Backend]
    reads: int
    writes: int
    errors: int


@frozen
class Devices:
    """All devices."""

    devices: list[Device]


# --- functions behind vfio-user ------------------------------------------------------------


@frozen
class Function:
    """A PCI function behind a socket: its place on the guest's bus, if the machine file gives one.

    `client` is the process that is attached, `memory` what it has mapped, in bytes; `msix` says
    whether the function has MSI-X.
    """

    vm: str
    device: str
    socket: str
    slot: str | None
    msix: bool
    client: int | None
    memory: int


@frozen
class Functions:
    """All functions that hypervisors reach by vfio-user."""

    functions: list[Function]


# --- the address map ---------------------------------------------------------------------


@frozen
class Range:
    """Addresses `start` to `last`: of a region of `owner`, or what `policy` gives where nobody is.

    `fixed` says that the machine file placed the region, not the guest.  `hits` counts
    accesses that met the policy.
    """

    vm: str
    space: str
    start: int
    last: int
    owner: str | None
    region: str | None
    fixed: bool
    policy: str | None
    hits: int


@frozen
class Map:
    """Every address of every space, ascending."""

    ranges: list[Range]


# --- exits -------------------------------------------------------------------------------


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


# --- traffic -----------------------------------------------------------------------------


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


# --- breaks ------------------------------------------------------------------------------


@frozen
class BreakRequest:
    """Which accesses are to stop: `register` takes * and ?, `direction` is read or write, `value` what is
    written, or would be read.  What nobody lets go on does so after `timeout_ms` (30000 if left out).
    """

    device: str
    vm: str | None = None
    register: str | None = None
    direction: str | None = None
    value: int | None = None
    timeout_ms: int | None = None


@frozen
class Stop:
    """An access that stands: nothing of it was done.

    `value` is what is written, or what a read would give as far as that is known without one.
    """

    number: int
    vm: str
    vcpu: int
    sequence: int
    space: str
    direction: str
    address: int
    size: int
    value: int | None
    device: str
    generation: int
    region: str
    offset: int
    register: str | None
    fields: dict[str, int]
    pc: int | None


@frozen
class Over:
    """A stop has ended: continued, answered (by `value`), timeout, cleared (nobody breaks there any more),
    paused, reset, dropped (its client has gone), or posted (nobody waits for that write: it did not stop).
    """

    number: int
    how: str
    value: int | None


@frozen
class Broken:
    """A stop, or the end of one, after `lost` of them that were not told.

    The first reply has neither: it says in words what the break `covers`, what `timeout_ms` is, and
    whether registers of the device were published else: while this call lasts nothing of it is.
    """

    stop: Stop | None
    over: Over | None
    lost: int
    covers: str | None = None
    timeout_ms: int | None = None
    withdrawn: bool | None = None


@frozen
class ContinueRequest:
    """Let what stands at a device go on, or stop `number` only.

    With a `value` the device is not asked: a read gives that, a write is dropped.
    """

    device: str
    vm: str | None = None
    number: int | None = None
    value: int | None = None


@frozen
class Continued:
    """The stops that ended."""

    numbers: list[int]


# --- registers ---------------------------------------------------------------------------


@frozen
class RegistersRequest:
    """A device's registers; `vm` may be left out where one VM has the device; `pattern` takes * and ?."""

    device: str
    vm: str | None = None
    pattern: str | None = None


@frozen
class Register:
    """A register as it is now; one whose value cannot be had says why in `error`."""

    name: str
    region: str
    offset: int
    size: int
    access: str
    value: int | None
    fields: dict[str, int]
    error: str | None


@frozen
class Registers:
    """Registers of one device, in the order of its datasheet."""

    vm: str
    device: str
    registers: list[Register]


# --- statistics --------------------------------------------------------------------------


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


# --- reload --------------------------------------------------------------------------------


@frozen
class PluginRequest:
    """A plugin's name, or that of a device of it as DEVICE or VM/DEVICE."""

    name: str


@frozen
class Reloaded:
    """The plugin's new generation serves all `devices`; `pause_us` were without service.

    `accesses` of late were repeated by both generations: the first `differences` of all that are
    `differing`.  `dropped` is state that an older class does not know.
    """

    plugin: str
    generation: int
    devices: list[str]
    pause_us: int
    load_us: int
    accesses: int
    differing: int
    differences: list[str]
    dropped: list[str]


# --- errors ------------------------------------------------------------------------------


@frozen
class UnknownVm:
    """There is no such VM."""

    vm: str
    known: list[str]


@frozen
class UnknownDevice:
    """There is no such device, or in more than one VM."""

    device: str
    known: list[str]


@frozen
class UnknownRegister:
    """The device has no register of such a name; those that it has are `known`."""

    device: str
    register: str
    known: list[str]


@frozen
class NotStopped:
    """Nothing stands there."""

    device: str


@frozen
class InvalidFilter:
    """The filter cannot be read."""

    reason: str


@frozen
class UnknownPlugin:
    """There is no such plugin, and no one device of that name."""

    name: str
    known: list[str]


@frozen
class ReloadRejected:
    """The old generation serves on; `file` and `line` (0) may be unknown."""

    plugin: str
    file: str
    line: int
    reason: str
    remedy: str


@frozen
class Upgraded:
    """The daemon has executed itself anew, `upgrades` times by now, and is this version.

    `pause_us` is for how long no client was served.
    """

    upgrades: int
    pause_us: int
    version: str


@frozen
class UpgradeRejected:
    """The daemon serves on as it was."""

    reason: str


@frozen
class TooManyClients:
    """The control socket serves `limit` clients already."""

    limit: int
