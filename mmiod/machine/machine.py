"""One VM: its devices, placed and wired, behind one set of doors for the core.

Everything is synchronous.  What leaves the machine goes through `outlet` (towards the
hypervisor), `backends` and `services` (streams and requests), `notify` (events for people) and `recorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol

from attrs import define, field

from mmiod.device import Device, IrqInput, IrqInputs, Pending, Region, Request
from mmiod.errors import MachineError
from mmiod.machine.address_map import AddressMap, Claim, Policy, Range, Unclaimed, build
from mmiod.machine.clock import MachineClock
from mmiod.machine.context import DeviceContext
from mmiod.machine.host import Busy, Host, InlineHost, Mark, Status
from mmiod.machine.memory import GuestMemory
from mmiod.machine.ports import ServicePort, StreamPort
from mmiod.machine.wires import Wires, expand, hypervisor_line_of, vcpu_of
from mmiod.values import READ, WRITE, Direction, Space, ones

if TYPE_CHECKING:
    from mmiod.machine.description import DeviceDescription, MachineDescription

CONFIG_REGION: Final = "config_space"
"""The region of a PCI function that its slot places."""

Record = tuple[int, str, int, int, int, int, int, int, int, str, int, str, str, int, int]
"""See `mmiod.trace.record`."""


P = ParamSpec("P")

MAX_MISSES: Final = 4096
Part = tuple[type[Device], object]
"""A device's class and its configuration."""


class Outlet(Protocol):
    """Where a machine's signals to the hypervisor go; all of them return at once."""

    def intr(self, vcpu: int, level: bool) -> None:
        """The interrupt request of a vCPU changed."""

    def set_level(self, line: int, level: bool) -> None:
        """A line of the hypervisor's interrupt controller changed."""

    def msi(self, address: int, data: int) -> None:
        """A device signals an interrupt by a message."""

    def request(self, kind: Request, value: int) -> None:
        """A device asks for a reset, a shutdown, ..."""

    def map_changed(self) -> None:
        """Regions have moved."""


class Nowhere:
    """The outlet of a machine that no hypervisor is attached to."""

    def intr(self, vcpu: int, level: bool) -> None:  # noqa: D102
        pass

    def set_level(self, line: int, level: bool) -> None:  # noqa: D102
        pass

    def msi(self, address: int, data: int) -> None:  # noqa: D102
        pass

    def request(self, kind: Request, value: int) -> None:  # noqa: D102
        pass

    def map_changed(self) -> None:  # noqa: D102
        pass


@define(eq=False)
class Cause:
    """Which exit the accesses of this moment belong to, and which address they went to."""

    vcpu: int = -1
    sequence: int = 0
    pc: int = -1
    space: Space = Space.MMIO
    address: int = 0


@define(eq=False)
class Machine:
    """One VM's devices and what joins them.  `vcpus` is known once a hypervisor is there."""

    name: str
    clock: MachineClock
    notify: Callable[..., None]
    recorder: Callable[[Record], None]
    memory: GuestMemory = field(factory=GuestMemory)
    wires: Wires = field(factory=Wires)
    hosts: dict[str, InlineHost] = field(factory=dict)
    mark: Mark = field(factory=Mark)
    cause: Cause = field(factory=Cause)
    outlet: Outlet = field(factory=Nowhere)
    backends: dict[tuple[str, str], StreamPort] = field(factory=dict)
    """By device and stream; one that is not here drops what it is sent."""
    services: dict[tuple[str, str], ServicePort] = field(factory=dict)
    """By device and service."""
    interrupts: dict[int, bool] = field(factory=dict)
    """The interrupt request of each vCPU that a wire leads to."""
    unclaimed: dict[Space, list[Unclaimed]] = field(factory=dict)
    misses: dict[tuple[Space, int], int] = field(factory=dict)
    """Accesses that no device claimed, by address; at most `MAX_MISSES` addresses."""
    levels: dict[int, bool] = field(factory=dict)
    """Lines of the hypervisor's interrupt controller that a wire leads to."""
    settled: list[tuple[InlineHost, int]] = field(factory=list)
    """Answers that devices owed and have given; the core takes them."""
    _controllers: dict[int, tuple[InlineHost, str]] = field(factory=dict)
    _claims: dict[tuple[str, str], tuple[Space, Claim]] = field(factory=dict)
    _maps: dict[Space, AddressMap] = field(factory=dict)

    # --- the address spaces --------------------------------------------------------------

    def find(self, space: Space, address: int) -> Range:
        """The range that answers an address."""
        return self.table(space).find(address)

    def table(self, space: Space) -> AddressMap:
        """The map of a space as it is now."""
        table = self._maps.get(space)
        if table is None:
            claims = [claim for at, claim in self._claims.values() if at == space]
            table = self._maps[space] = build(space, claims, self.unclaimed.get(space, ()))
        return table

    def place(
        self, device: str, region: Region, space: Space, base: int | None, *, fixed: bool = False
    ) -> None:
        """Put a region on the map, move it, or take it off (base None)."""
        key = (device, region.name)
        known = self._claims.get(key)
        if known is None and base is None:
            return
        if known is not None:
            if known[0] == space and known[1].base == base:
                return
            del self._claims[key]
            self._maps.pop(known[0], None)
        if base is not None:
            self._claims[key] = (space, Claim(self.hosts[device], region.name, base, region.length, fixed))
        # Built anew at the next access: a config write moves several BARs at once.
        self._maps.pop(space, None)
        self.outlet.map_changed()

    def pieces(self, space: Space, address: int, size: int) -> Iterator[tuple[Range, int, int]]:
        """An access, split where another range begins: (range, address, size), low to high."""
        table = self.table(space)
        end = address + size
        while address < end:
            found = table.find(address)
            taken = min(end, found.end) - address
            if not taken:  # the space ends here, the access does not
                taken = end - address
                found = Range(space, address, end, None, Policy.ONES)
            yield found, address, taken
            address += taken

    def access(
        self, found: Range, address: int, size: int, direction: Direction, value: int
    ) -> int | Pending | Busy:
        """One access within one range."""
        self.cause.space, self.cause.address = found.space, address
        claim = found.claim
        if claim is None:
            return self._unclaimed_access(found, size, direction, value)
        return claim.host.access(claim.region, address - claim.base, size, direction, value)

    def read(self, space: Space, address: int, size: int) -> int:
        """Read as a bridge: ones from a device that does not answer at once."""
        return self._bridge(space, address, size, READ, 0)

    def write(self, space: Space, address: int, size: int, value: int) -> None:
        """Write as a bridge: lost on a device that does not take it at once."""
        self._bridge(space, address, size, WRITE, value)

    def _bridge(self, space: Space, address: int, size: int, direction: Direction, value: int) -> int:
        cause, total = self.cause, 0
        outer = (cause.space, cause.address)
        for found, at, taken in self.pieces(space, address, size):
            shift = 8 * (at - address)
            part = self.access(found, at, taken, direction, value >> shift & ones(taken))
            if isinstance(part, Pending):
                assert found.claim is not None, "only a device makes anybody wait"
                found.claim.host.quarantine(TypeError(f"PENDING to a bridge, at {space.name} {at:#x}"))
            total |= (ones(taken) if isinstance(part, Pending | Busy) else part) << shift
        cause.space, cause.address = outer
        return total

    def _count_miss(self, space: Space, address: int) -> None:
        """Count an access that met a policy, by address: the map may move under it."""
        known = self.misses.get((space, address), 0)
        if known or len(self.misses) < MAX_MISSES:
            self.misses[space, address] = known + 1

    def _unclaimed_access(self, found: Range, size: int, direction: Direction, value: int) -> int:
        self._count_miss(found.space, self.cause.address)
        answer = 0 if direction == WRITE or found.policy == Policy.ZEROS else ones(size)
        status: Status = "forwarded" if found.policy == Policy.FORWARD else "unclaimed"
        self.record(None, direction, size, value if direction == WRITE else answer, "", status, 0)
        if found.policy in {Policy.ONES, Policy.ZEROS}:
            cause = self.cause
            self.notify(
                "access_unclaimed",
                space=cause.space.name.lower(),
                address=cause.address,
                size=size,
                direction=direction.name.lower(),
            )
        return answer

    # --- life ------------------------------------------------------------------------------

    def power_on(self, *, virtual: bool) -> None:
        """Begin anew: the clock at 0, every device reset."""
        self.clock.power_on(virtual=virtual)
        self.reset()

    def reset(self) -> None:
        """A system reset; the clock goes on."""
        self.settled.clear()
        for host in self.hosts.values():
            host.reset()

    def restore_levels(self) -> None:
        """After devices were restored: wires are as the lines that drive them."""
        high = {
            f"{host.name}.{name}"
            for host in self.hosts.values()
            for name, line in host.device.lines.items()
            if line.level
        }
        self.wires.restore(high)
        for sink, net in self.wires.sinks.items():
            vcpu, line = vcpu_of(sink), hypervisor_line_of(sink)
            if vcpu is not None:
                self._interrupt(vcpu, bool(net.high))
            elif line is not None:
                self._level(line, bool(net.high))

    def acknowledge(self, vcpu: int) -> int | None:
        """INTA: the vector of the pending interrupt of a vCPU; None without a controller."""
        controller = self._controllers.get(vcpu)
        return None if controller is None else controller[0].acknowledge(controller[1])

    def settle(self, host: InlineHost, value: int) -> None:
        """A device gives the answer it owed."""
        self.settled.append((host, host.settle(value)))

    def record(
        self,
        host: Host | None,
        direction: Direction,
        size: int,
        value: int,
        register: str,
        status: Status,
        ns: int,
    ) -> None:
        """Tell the recorder of one access."""
        cause = self.cause
        name = host.name if host is not None else ""
        generation = host.generation if isinstance(host, InlineHost) else 0
        self.recorder(
            (
                self.clock.now_ns,
                self.name,
                cause.vcpu,
                cause.sequence,
                cause.space,
                direction,
                cause.address,
                size,
                value,
                name,
                generation,
                register,
                status,
                ns,
                cause.pc,
            )
        )

    def quarantined(self, host: Host, reason: BaseException) -> None:
        """A device failed: say so, answer what it owes, let its lines go."""
        self.notify("device_quarantined", device=host.name, reason=f"{type(reason).__name__}: {reason}")
        if not isinstance(host, InlineHost):
            return
        if host.owes is not None:
            self.settle(host, ones(host.owes.size))
        for name in host.device.lines:
            self.wires.drive(f"{host.name}.{name}", level=False)
        for timer in host.device.timers:
            self.clock.arm(host.name, timer, None, _never)

    def _interrupt(self, vcpu: int, level: bool) -> None:
        self.interrupts[vcpu] = level
        self.outlet.intr(vcpu, level)

    def _level(self, line: int, level: bool) -> None:
        self.levels[line] = level
        self.outlet.set_level(line, level)

    # --- building ------------------------------------------------------------------------------

    def add(self, name: str, plugin: type[Device], described: DeviceDescription, config: object) -> None:
        """Make a device and place what the machine file places.

        Raises:
            MachineError: a place names no region of it, or its class cannot be made.
        """
        try:
            device = plugin(DeviceContext(self, name), config)
        except Exception as error:  # a plugin may raise anything
            raise MachineError(f"{name}: {described.plugin}: {type(error).__name__}: {error}") from error
        host = self.hosts[name] = InlineHost(name, described.plugin, device, self)
        places = {region: (place.space, place.base) for region, place in described.at.items()}
        if described.slot is not None:
            places[CONFIG_REGION] = (Space.PCI_CONFIG, described.slot)
        for region, (space, base) in places.items():
            if region not in device.regions:
                has = ", ".join(device.regions) or "none"
                raise MachineError(f"{name}: {described.plugin} has no region {region}; it has {has}")
            self.place(host.name, device.regions[region], space, base, fixed=True)

    def connect(self, wires: Mapping[str, str]) -> None:
        """Wire the devices.

        Raises:
            MachineError: a wire leads nowhere.
        """
        sources = [f"{host.name}.{line}" for host in self.hosts.values() for line in host.device.lines]
        sinks: dict[str, tuple[InlineHost, IrqInput | IrqInputs, str]] = {}
        for host in self.hosts.values():
            for declared in host.device.input_lines.values():
                sinks.update({f"{host.name}.{line}": (host, declared, line) for line in declared.names()})
        for source, sink in expand(wires, sources, sinks):
            self._wire(source, sink, sinks)

    def check_announced(self) -> None:
        """See that devices are where others tell the guest that they are.

        Raises:
            MachineError: nobody is there; with every such place.
        """
        wrong = [
            f"{host.name}: {key} says {space.name.lower()}:{address:#x}, where no device is"
            for host in self.hosts.values()
            for key, (space, address) in host.device.announced().items()
            if self.find(space, address).claim is None
        ]
        if wrong:
            raise MachineError(*wrong)

    def _wire(
        self, source: str, sink: str, sinks: dict[str, tuple[InlineHost, IrqInput | IrqInputs, str]]
    ) -> None:
        vcpu, line = vcpu_of(sink), hypervisor_line_of(sink)
        if vcpu is not None:
            device, _, output = source.partition(".")
            self._controllers[vcpu] = (self.hosts[device], output)
            self.interrupts[vcpu] = False
            self.wires.connect(source, sink, partial(self._interrupt, vcpu))
        elif line is not None:
            self.wires.connect(source, sink, partial(self._level, line))
        else:
            host, declared, name = sinks[sink]
            self.wires.connect(source, sink, partial(host.deliver, declared, name))


def _never() -> None:
    """The hook of a cancelled timer."""


def assemble(
    name: str,
    description: MachineDescription,
    parts: Mapping[str, Part],
    clock: MachineClock,
    notify: Callable[..., None],
    recorder: Callable[[Record], None],
) -> Machine:
    """Build a machine from its description.

    Args:
        name: the VM's name.
        description: its devices and wires.
        parts: for each device its class and its structured configuration.
        clock: its clock.
        notify: takes events for people, `notify(event, **fields)`.
        recorder: takes one record per access.

    Raises:
        MachineError: devices cannot be placed or wired as described; with every problem.
    """
    machine = Machine(name, clock, notify, recorder)
    problems: list[str] = []
    for found in description.unclaimed:
        machine.unclaimed.setdefault(found.space, []).append(
            Unclaimed(found.base, found.length, found.policy)
        )
    for device, described in description.devices.items():
        plugin, config = parts[device]
        _collect(problems, machine.add, device, plugin, described, config)
    for space in Space:
        _collect(problems, machine.table, space)
    if set(machine.hosts) == set(description.devices):  # else wires fail for that alone
        _collect(problems, machine.connect, description.wires)
    if not problems:  # else the map is not what the file means
        machine.check_announced()
    if problems:
        raise MachineError(*problems)
    return machine


def _collect(problems: list[str], action: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
    try:
        action(*arguments, **named)
    except MachineError as error:
        problems += error.problems
