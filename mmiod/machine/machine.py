"""One VM: its devices, placed and wired, behind one set of doors for the core.

Everything is synchronous.  What leaves the machine goes through `outlet` (towards the
hypervisor), `backends` and `services` (streams and requests), `notify` (events for people) and `recorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from attrs import define, field

from mmiod.device import Pending, Region
from mmiod.machine.address_map import MSR_BYTES, AddressMap, Claim, Policy, Range, Stretch
from mmiod.machine.backoff import Backoff
from mmiod.machine.breaks import Breaks
from mmiod.machine.clock import MachineClock
from mmiod.machine.grantable import Grantable, GuestPage
from mmiod.machine.host import InlineHost
from mmiod.machine.layout import Layout
from mmiod.machine.mark import Mark, reason_of
from mmiod.machine.memory import GuestMemory
from mmiod.machine.outlet import Nowhere, Outlet
from mmiod.machine.ports import ServicePort, StreamPort
from mmiod.machine.published import Page
from mmiod.machine.shelves import NOBODY, Surroundings
from mmiod.machine.stop import Stop
from mmiod.machine.storage import Backings, backings_of
from mmiod.machine.waist import Busy, Named, Status
from mmiod.machine.wires import Wires, hypervisor_line_of, vcpu_of
from mmiod.values import READ, WRITE, Direction, Space, ones

Record = tuple[int, str, int, int, int, int, int, int, int, str, int, str, str, int, int, int]
"""See `mmiod.trace.record`."""

MAX_MISSES: Final = 4096


@define(eq=False)
class Cause:
    """Which exit the accesses of this moment belong to, and which address they went to."""

    vcpu: int = -1
    sequence: int = 0
    pc: int = -1
    space: Space = Space.MMIO
    address: int = 0
    posted: bool = False
    """Nobody waits for it."""


@define(eq=False)
class Machine:
    """One VM's devices and what joins them.  `vcpus` is known once a hypervisor is there."""

    name: str
    clock: MachineClock
    notify: Callable[..., None]
    recorder: Callable[[Record], None]
    own_memories: bool = False
    """Each device reaches guest memory on a way of its own (vfio-user), else all on the same."""
    memory: GuestMemory = field(factory=GuestMemory)
    memories: dict[str, GuestMemory] = field(factory=dict)
    """By device, where each has its own."""
    wires: Wires = field(factory=Wires)
    hosts: dict[str, InlineHost] = field(factory=dict)
    mark: Mark = field(factory=Mark)
    backoff: Backoff = field(init=False)
    """Of devices in quarantine."""
    breaks: Breaks = field(init=False)
    cause: Cause = field(factory=Cause)
    outlet: Outlet = field(factory=Nowhere)
    backends: dict[tuple[str, str], StreamPort] = field(factory=dict)
    """By device and stream; one that is not here drops what it is sent."""
    services: dict[tuple[str, str], ServicePort] = field(factory=dict)
    """By device and service."""
    interrupts: dict[int, bool] = field(factory=dict)
    """The interrupt request of each vCPU that a wire leads to."""
    misses: dict[tuple[Space, int], int] = field(factory=dict)
    """Accesses that no device claimed, by address; at most `MAX_MISSES` addresses."""
    levels: dict[int, bool] = field(factory=dict)
    """Lines of the hypervisor's interrupt controller that a wire leads to."""
    settled: list[tuple[InlineHost | Stop, int | None]] = field(factory=list)
    """Answers that devices owed and have given, and accesses that stood and go on; the core takes them."""
    controllers: dict[int, tuple[InlineHost, str]] = field(factory=dict)
    """Which device's line interrupts a vCPU, and answers INTA."""
    layout: Layout = field(factory=Layout)
    storages: dict[str, Backings] = field(factory=dict)
    """By device."""
    mappable: set[str] = field(factory=set)
    """Devices whose storage a hypervisor may map, as the machine file says."""
    page: Page | None = None
    """What the hypervisor sees without asking, once it wants to."""
    withheld: dict[str, int] = field(factory=dict)
    """Of which devices it sees nothing, and for how many reasons."""

    def __attrs_post_init__(self) -> None:
        """Devices come back by the host's time."""
        self.backoff = Backoff(self.clock.monotonic)
        self.breaks = Breaks(self)

    def memory_of(self, device: str) -> GuestMemory:
        """Guest memory as a device reaches it."""
        return self.memories.setdefault(device, GuestMemory()) if self.own_memories else self.memory

    def add_host(self, host: InlineHost) -> None:
        """Enter a device, with storage."""
        self.hosts[host.name] = host
        host.storages = self.storages[host.name] = backings_of(host.device)

    # --- the address spaces --------------------------------------------------------------

    @property
    def claims(self) -> dict[tuple[str, str], tuple[Space, Claim]]:
        """By device and region."""
        return self.layout.claims

    def find(self, space: Space, address: int) -> Range:
        """The range that answers an address."""
        return self.layout.table(space).find(address)

    def table(self, space: Space) -> AddressMap:
        """The map of a space as it is now."""
        return self.layout.table(space)

    def place(
        self, device: str, region: Region, space: Space, base: int | None, *, fixed: bool = False
    ) -> None:
        """Put a region on the map, move it, or take it off (base None)."""
        key, placed = (device, region.name), None
        known = self.claims.get(key)
        if known is None and base is None:
            return
        if known is not None and known[0] == space and known[1].base == base:
            return
        if base is not None:
            width = MSR_BYTES if space == Space.MSR else 1
            length = region.length // width
            placed = space, Claim(self.hosts[device], region.name, base, length, fixed, width)
        moved = self.layout.move(key, placed)
        if self.page is not None:
            self._move_rows(self.page, device, region, moved)
        self.outlet.map_changed(*moved)

    def _move_rows(self, page: Page, device: str, region: Region, moved: Sequence[Stretch]) -> None:
        """Most regions have no rows, and go where nobody is: what is published is right as it is."""
        wrong = self.layout.overlapping(moved)
        if page.shows(self.hosts[device], region):
            wrong.add(device)
        if any(map(self.layout.ignored, moved)):
            wrong.add(NOBODY)
        for name in wrong:
            page.move(name)

    def reclaim(self, claims: dict[tuple[str, str], tuple[Space, Claim]]) -> None:
        """Put other claims in the place of all; they were checked."""
        if self.page is not None:
            self.page.move()
        self.layout.replace(claims)
        self.outlet.map_changed()

    def pieces(self, space: Space, address: int, size: int) -> Iterator[tuple[Range, int, int]]:
        """An access, split where another range begins: (range, address, size), low to high."""
        table = self.table(space)
        if space is Space.MSR:  # one address, whatever its width
            yield table.find(address), address, size
            return
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
        offset = (address - claim.base) * claim.width
        return claim.host.access(claim.region, offset, size, direction, value)

    def read_batch(self, space: Space, address: int, size: int, count: int, stride: int) -> bytes:
        """As many of `count` elements as the device there answers at once, perhaps none."""
        claim = self._cause(space, address).claim
        if claim is None:
            return b""
        return claim.host.read_batch(claim.region, claim.offset(address), size, count, stride)

    def write_batch(self, space: Space, address: int, size: int, data: bytes, stride: int) -> int:
        """How many elements of `size` bytes the device there takes at once, perhaps none."""
        claim = self._cause(space, address).claim
        if claim is None:
            return 0
        return claim.host.write_batch(claim.region, claim.offset(address), size, data, stride)

    def enqueue(self, found: Range, address: int, command: bytes) -> bool | Busy:
        """Whether the device there takes a command of 64 bytes; what is no queue takes none."""
        self.cause.space, self.cause.address = found.space, address
        claim = found.claim
        return claim is not None and claim.host.enqueue(claim.region, claim.offset(address), command)

    def has_msr(self, number: int, direction: Direction, value: int) -> bool:
        """Whether a processor of this machine has this MSR, and takes `value` if it is written."""
        found = self.find(Space.MSR, number)
        if found.claim is None:
            return found.policy in {Policy.ZEROS, Policy.IGNORE}
        offset = found.claim.offset(number)
        return found.claim.host.answers(found.claim.region, offset, MSR_BYTES, direction, value)

    def _cause(self, space: Space, address: int) -> Range:
        """Note where the next access goes."""
        self.cause.space, self.cause.address = space, address
        return self.find(space, address)

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

    # --- what needs no access ---------------------------------------------------------------

    def publish(self, words: memoryview, changed: Callable[[], None] | None = None) -> None:
        """Show the hypervisor what it need not ask for, in `words` of 64 bits that it shares.

        Nothing is shown before `page.go`, which follows each start of the machine and its clock.
        With `changed` pages and doorbells may stand in the hypervisor; it is called when others may.
        """
        around, clock, withheld = self._surroundings, self.clock, self.withheld
        if changed is None:
            self.page = Page(words, around, clock=clock, withheld=withheld)
        else:
            self.page = GuestPage(words, around, clock=clock, withheld=withheld, changed=changed)

    @property
    def grantable(self) -> list[Grantable]:
        """What may stand in the hypervisor now."""
        return list(self.page.grantable()) if isinstance(self.page, GuestPage) else []

    def unpublish(self) -> None:
        """Show nothing any more."""
        if self.page is not None:
            self.page.stop()
            self.page = None

    def withhold(self, device: str, reason: str) -> bool:
        """Have every access to a device come here, until `release`; whether some would not else."""
        reasons = self.withheld.get(device, 0)
        self.withheld[device] = reasons + 1
        if not reasons:
            self._withdraw(device, reason)
            self._regrant()
        return self.page is not None and self.page.publishes(device)

    def _withdraw(self, device: str, reason: str) -> None:
        """See that the hypervisor asks for what it had on its page, and say so."""
        if self.page is not None and self.page.publishes(device):
            self.page.withdraw(device)
            if device != NOBODY:
                self.notify("publication_withdrawn", device=device, reason=reason)

    def release(self, device: str) -> None:
        """One reason less."""
        reasons = self.withheld.pop(device, 1) - 1
        if reasons:
            self.withheld[device] = reasons
        elif self.page is not None:
            self.page.look(device)
            self._regrant()

    def _regrant(self) -> None:
        """Others may stand in the hypervisor than before."""
        if isinstance(self.page, GuestPage):
            self.page.changed()

    def _surroundings(self) -> Surroundings:
        return Surroundings(self.layout.whole(), self.hosts, self.layout.idle())

    # --- life ------------------------------------------------------------------------------

    def power_on(self, *, virtual: bool) -> None:
        """Begin anew: the clock at 0, every device reset."""
        self.clock.power_on(virtual=virtual)
        self.reset()

    def reset(self) -> None:
        """A system reset; the clock goes on."""
        self.breaks.let_go("reset")
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
                self.interrupt(vcpu, bool(net.high))
            elif line is not None:
                self.set_level(line, bool(net.high))

    def acknowledge(self, vcpu: int) -> int | None:
        """INTA: the vector of the pending interrupt of a vCPU; None without a controller."""
        controller = self.controllers.get(vcpu)
        return None if controller is None else controller[0].acknowledge(controller[1])

    def settle(self, host: InlineHost, value: int) -> None:
        """A device gives the answer it owed."""
        self.settled.append((host, host.settle(value)))

    def record(
        self,
        host: Named | None,
        direction: Direction,
        size: int,
        value: int,
        register: str,
        status: Status,
        ns: int,
        count: int = 1,
    ) -> None:
        """Tell the recorder of one access, or of a batch of `count`."""
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
                count,
            )
        )

    def quarantined(self, host: Named, reason: BaseException) -> None:
        """A device failed: say so, answer what it owes, let its lines go, and see when it comes back."""
        if host.name not in self.withheld:
            self._withdraw(host.name, "quarantine")
        if isinstance(self.page, GuestPage):
            self.page.blank(host.name)
        self.notify("device_quarantined", device=host.name, reason=reason_of(reason))
        if not self.backoff.failed(host.name):
            self.notify("device_abandoned", device=host.name, attempts=self.backoff.attempts(host.name))
            self.streams_ready(host.name)  # what waits for it is lost from now on
        if not isinstance(host, InlineHost):
            return
        if host.owes is not None:
            self.settle(host, ones(host.owes.size))
        for name in host.device.lines:
            self.wires.drive(f"{host.name}.{name}", level=False)
        for timer in host.device.timers:
            self.clock.arm(host.name, timer, None, _never)

    def returns(self, host: Named) -> bool:
        """Whether a device in quarantine is tried again."""
        return self.backoff.waits(host.name)

    def streams_ready(self, device: str) -> None:
        """The room of a device's streams may be another now."""
        for (owner, _), port in self.backends.items():
            if owner == device:
                port.ready()

    def interrupt(self, vcpu: int, level: bool) -> None:
        """The interrupt request of a vCPU changes."""
        self.interrupts[vcpu] = level
        self.outlet.intr(vcpu, level)

    def set_level(self, line: int, level: bool) -> None:
        """A line of the hypervisor's interrupt controller changes."""
        self.levels[line] = level
        self.outlet.set_level(line, level)


def _never() -> None:
    """The hook of a cancelled timer."""
