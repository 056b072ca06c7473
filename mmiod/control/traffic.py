"""`Watch`: the recorder's ring, filtered and put into words, for one client."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from mmiod.control.daemon import Daemon
from mmiod.control.messages import Access, Watched
from mmiod.machine.machine import Machine
from mmiod.machine.shelves import NOBODY
from mmiod.trace import Filter, Record, decode
from mmiod.values import Direction, Space

SCANNED_PER_POLL: Final = 1024
SHOWN_PER_POLL: Final = 64
"""Records looked at and accesses given in one go: each of them some 0.5 ms of the core's time."""

_SPACES: Final = {int(space): space.name.lower() for space in Space}
_DIRECTIONS: Final = {int(direction): direction.name.lower() for direction in Direction}


@define(eq=False)
class Watch:
    """One client's way through the ring, from `serial` on; call it for what is due."""

    daemon: Daemon
    filter: Filter
    serial: int
    _withheld: list[tuple[Machine, str]] = field(factory=list)
    _introduced: bool = False

    def __call__(self) -> list[Watched]:
        """At most one reply: accesses, or a count of lost ones; first of all what is covered."""
        if not self._introduced:
            self._introduced = True
            withdrawn = sorted(self._withhold())
            return [Watched([], 0, self.filter.covers, self._matching_devices(), withdrawn)]
        records, end, dropped = self.daemon.recorder.since(self.serial, SCANNED_PER_POLL)
        numbered = enumerate(records, end - len(records))
        found = ((serial, record) for serial, record in numbered if self.filter.matches(record))
        shown = list(itertools.islice(found, SHOWN_PER_POLL))
        self.serial = end if len(shown) < SHOWN_PER_POLL else shown[-1][0] + 1
        if not shown and not dropped:
            return []
        return [Watched([self._access(record) for _, record in shown], dropped)]

    def _withhold(self) -> Iterator[str]:
        """Have every access come here that may pass the filter; which devices that changes."""
        for vm, machine in self.daemon.machines.items():
            for device in (*machine.hosts, NOBODY):
                if self.filter.may_match(vm, device):
                    self._withheld.append((machine, device))
                    if machine.withhold(device, "watch") and device != NOBODY:
                        yield f"{vm}/{device}"

    async def ready(self) -> None:
        """Wait until hypervisors have nothing of what is watched: pages, doorbells."""
        await self.daemon.withdrawn()

    def close(self) -> None:
        """Nobody watches any more."""
        for machine, device in self._withheld:
            machine.release(device)
        self._withheld.clear()

    @property
    def behind(self) -> bool:
        """Whether there is more to look at already."""
        return self.serial < self.daemon.recorder.serial

    def _matching_devices(self) -> list[str]:
        return [
            f"{vm}/{device}"
            for vm, machine in self.daemon.machines.items()
            for device in machine.hosts
            if self.filter.may_match(vm, device)
        ]

    def _access(self, record: Record) -> Access:
        (
            time_ns, vm, vcpu, sequence, space, direction, address, size, value,
            device, generation, register, status, latency_ns, pc, count,
        ) = record  # fmt: skip
        region, offset = self._place(vm, device, space, address)
        return Access(
            time_ns,
            vm,
            vcpu,
            sequence,
            _SPACES[space],
            _DIRECTIONS[direction],
            address,
            size,
            value,
            device or None,
            generation,
            region,
            offset,
            register or None,
            self._fields(vm, device, register, region, offset, size, value),
            status,
            latency_ns,
            pc if pc >= 0 else None,
            count,
        )

    def _place(self, vm: str, device: str, space: int, address: int) -> tuple[str | None, int | None]:
        """Region and offset of an address, if it still is the device's."""
        machine = self.daemon.machines.get(vm)
        claim = machine.find(Space(space), address).claim if machine is not None else None
        if claim is None or claim.host.name != device:
            return None, None
        return claim.region, claim.offset(address)

    def _fields(
        self,
        vm: str,
        device: str,
        register: str,
        region: str | None,
        offset: int | None,
        size: int,
        value: int,
    ) -> dict[str, int]:
        """The fields by the device's present declaration."""
        if region is None or offset is None or not register:
            return {}
        model = self.daemon.machines[vm].hosts[device].device
        declared = model.declared.get(register)
        offset %= model.regions[region].stride or model.regions[region].length
        return decode(declared, offset, size, value) if declared is not None else {}
