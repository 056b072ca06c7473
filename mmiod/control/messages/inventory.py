"""What there is: devices, functions, the address map, registers."""

from __future__ import annotations

from attrs import frozen


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
