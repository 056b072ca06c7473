"""The waist: the only door to a device, for every attachment.

`InlineHost.access` holds, once, what is true for each access whoever sends it: size
rules, order, the deadline mark, quarantine, statistics and the record.

Order: while a device owes the answer to an access (`PENDING`) it gets no other access;
later ones are answered `BUSY` and wait outside, in order.  Both sentinels are values,
so that waiting is the caller's business: see `core/run.py`.

    serving     hooks, quarantine, the journal
    inlets      wires, timers, backends, reset
    batches     many accesses in one hook
    host        one access: what is here
"""

from __future__ import annotations

from time import perf_counter_ns

from attrs import define

from mmiod.device import Pending, Region
from mmiod.machine.batches import Batches
from mmiod.machine.sizes import split
from mmiod.machine.waist import BUSY, Busy, Owed, Status
from mmiod.values import READ, Direction, ones


@define(eq=False)
class InlineHost(Batches):
    """A device that runs in the core task."""

    def access(
        self, region: str, offset: int, size: int, direction: Direction, value: int
    ) -> int | Pending | Busy:
        """One access; the value of a read, 0 for a write.

        Args:
            region: the region's name.
            offset: bytes from its start; offset + size stays inside it.
            size: 1 to 64 bytes; what is no power of two is the part of an access that another region cut.
            direction: READ or WRITE.
            value: what is written.
        """
        if self.owes is not None:
            return BUSY
        if direction == READ:
            self.statistics.reads += 1
        else:
            self.statistics.writes += 1
        register = self.register_at(region, offset, size, direction)
        if self.storages and region in self.storages and self.storages[region].holds(offset, size):
            return self._stored(region, offset, size, direction, value, register)
        if self.failure is not None:
            if direction != READ:
                self.miss_doorbell(region, offset, size, value)
            return self._refuse(direction, size, register, "quarantined", value)
        declared = self.device.regions[region]
        pieces = split(declared, offset, size)
        if pieces is None:
            self.statistics.refused += 1
            return self._refuse(direction, size, register, "size", value)
        started = perf_counter_ns()
        if len(pieces) == 1:
            answer = self._one(declared, offset, size, direction, value)
        else:
            answer = self._many(declared, pieces, direction, value, offset)
        ns = perf_counter_ns() - started
        self.statistics.took(ns)
        status = self._status()
        if status != "ok":
            answer = ones(size) if direction == READ else 0
        if isinstance(answer, Pending):
            self.owes = Owed(direction, size, value, register, started)
            if self.origin.page is not None:
                self.origin.page.withdraw(self.name)  # posted writes wait behind it
            return answer
        seen = answer if direction == READ else value
        self.origin.record(self, direction, size, seen, register, status, ns)
        return answer

    def _stored(
        self, region: str, offset: int, size: int, direction: Direction, value: int, register: str
    ) -> int:
        """Storage behaves as RAM: it needs no device."""
        backing = self.storages[region]
        if direction == READ:
            value = answer = int.from_bytes(backing.read(offset, size), "little")
        else:
            backing.write(offset, value.to_bytes(size, "little"))
            answer = 0
        self.origin.record(self, direction, size, value, register, "ok", 0)
        return answer

    def settle(self, value: int) -> int | None:
        """The device completed the access it owed; the value as the vCPU gets it, None if it has one."""
        owed, self.owes = self.owes, None
        if owed is None:
            raise TypeError(f"{self.name} completed an access that it does not owe")
        if owed.answered:
            return None
        if owed.direction == READ:
            if not self._fits(value, owed.size):
                value = ones(owed.size)
            owed.value = value
        ns = perf_counter_ns() - owed.since_ns
        self.origin.record(self, owed.direction, owed.size, owed.value, owed.register, self._status(), ns)
        return value if owed.direction == READ else 0

    # --- size rules: QEMU's memory core (docs/devel/memory.rst, "MMIO Operations") -----

    def _one(self, region: Region, offset: int, size: int, direction: Direction, value: int) -> int | Pending:
        """An access that reaches the device as one, perhaps widened."""
        width = max(size, region.implemented[0])
        if direction == READ:
            answer = self.feed(ones(width), "read", region.name, offset, width)
            if isinstance(answer, Pending):
                return answer
            return answer & ones(size) if self._fits(answer, width) else ones(size)
        pending: object = self.feed(None, "write", region.name, offset, width, value)
        if isinstance(pending, Pending):
            return pending
        if pending is not None:
            self.quarantine(TypeError(f"a write of {width} bytes was answered by {pending!r}"))
        return 0

    def _many(
        self,
        region: Region,
        pieces: list[tuple[int, int]],
        direction: Direction,
        value: int,
        start: int,
    ) -> int:
        """An access that reaches the device in parts, low to high: each must be answered at once.

        The first part that fails is the last: what it returns then is not used.
        """
        total = 0
        for offset, size in pieces:
            shift = 8 * (offset - start)
            part = self._one(region, offset, size, direction, value >> shift & ones(size))
            if isinstance(part, Pending):
                self.quarantine(
                    TypeError(f"PENDING to a part of an access, at {offset:#x} with {size} bytes")
                )
                break
            if self._status() != "ok":
                break
            total |= part << shift
        return total if direction == READ else 0

    def _fits(self, value: object, size: int) -> bool:
        if isinstance(value, int) and 0 <= value <= ones(size):
            return True
        self.quarantine(TypeError(f"a read of {size} bytes was answered by {value!r}"))
        return False

    def _refuse(self, direction: Direction, size: int, register: str, status: Status, value: int) -> int:
        """Ones for a read; a write vanishes."""
        answer = ones(size) if direction == READ else 0
        seen = answer if direction == READ else value
        self.origin.record(self, direction, size, seen, register, status, 0)
        return answer
