"""What a device does of many accesses in one hook, and what only some instructions do."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from attrs import define

from mmiod.device import Device
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.machine.inlets import Inlets
from mmiod.machine.sizes import split
from mmiod.machine.waist import BUSY, Busy
from mmiod.values import READ, WRITE, Direction

if TYPE_CHECKING:
    from mmiod.device.dispatch import Claimant

RECORDED: Final = 64
"""Bytes of a batch that its record holds: as many as the largest access has."""


@define(eq=False)
class Batches(Inlets):
    """A device, and its doors but the one for a plain access."""

    def read_batch(self, region: str, offset: int, size: int, count: int, stride: int) -> bytes:
        """The first of `count` reads of `size` bytes, as many as the device answers at once.

        They go to `offset` (stride 0), or from there upwards (1) or downwards (-1), and
        stay inside the region.  None is answered where the device declares no batch, or
        owes an answer, may have to stop, or the bus would have to split: then accesses go one by one.
        """
        register = self._batch_register(region, offset, size, READ)
        if register is None:
            return b""
        started = perf_counter_ns()
        data: object = self.feed(b"", "read_batch", region, offset, size, count, stride)
        if not isinstance(data, bytes) or len(data) % size or len(data) > count * size:
            self.quarantine(TypeError(f"{count} reads of {size} bytes were answered by {data!r:.80}"))
            return b""
        self.statistics.reads += len(data) // size
        self._batched(READ, size, data, register, started)
        return data

    def write_batch(self, region: str, offset: int, size: int, data: bytes, stride: int) -> int:
        """How many of the first writes of `size` bytes the device takes at once."""
        register = self._batch_register(region, offset, size, WRITE)
        if register is None:
            return 0
        started = perf_counter_ns()
        taken: object = self.feed(0, "write_batch", region, offset, size, data, stride)
        if not isinstance(taken, int) or not 0 <= taken <= len(data) // size:
            self.quarantine(TypeError(f"{len(data) // size} writes were answered by {taken!r:.80}"))
            return 0
        self.statistics.writes += taken
        self._batched(WRITE, size, data[: taken * size], register, started)
        return taken

    def _batch_register(self, region: str, offset: int, size: int, direction: Direction) -> str | None:
        """The register's name for the record; None if a batch there is not for the device."""
        declared = self.device.regions[region]
        whole = split(declared, offset, size) == [(offset, size)] and size >= declared.implemented[0]
        if self.owes is not None or self.failure is not None or self.broken or not whole:
            return None
        return self.register_at(region, offset, size, direction)

    def _batched(self, direction: Direction, size: int, data: bytes, register: str, started: int) -> None:
        """Count and record what a batch did: nothing, if it was refused."""
        if data:
            ns = perf_counter_ns() - started
            self.statistics.took(ns)
            seen = int.from_bytes(data[:RECORDED], "little")
            self.origin.record(self, direction, size, seen, register, self._status(), ns, len(data) // size)

    # --- what only some instructions do ----------------------------------------------------

    def enqueue(self, region: str, offset: int, command: bytes) -> bool | Busy:
        """Whether the device takes a command of 64 bytes; one that declares no queue takes none."""
        hook = self.device.regions[region].queue
        if hook is None or self.failure is not None:
            return False
        if self.owes is not None:
            return BUSY  # in order, as an access
        register = self.register_at(region, offset, len(command), WRITE)
        started = perf_counter_ns()
        taken: object = self.feed(False, "enqueue", region, offset, command)
        if not isinstance(taken, bool):
            self.quarantine(TypeError(f"a command was answered by {taken!r:.80}"))
        ns = perf_counter_ns() - started
        self.statistics.writes += 1
        self.statistics.took(ns)
        value = int.from_bytes(command, "little")
        self.origin.record(self, WRITE, len(command), value, register, self._status(), ns)
        return taken is True

    def answers(self, region: str, offset: int, size: int, direction: Direction, value: int) -> bool:
        """Whether a register is there that allows this access as a whole: else an MSR is not there."""
        if self.failure is not None:
            return True
        answers: Callable[..., bool] = self.inputs["answers"]
        found = self.guarded(answers, True, self.device, region, offset, size, direction, value)
        self.statistics.refused += not found
        return found

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:
        """The name of the register that an access meets, "" if there is none."""
        if self.failure is not None:
            return ""
        answerer = self.device.answerers[region]
        if isinstance(answerer, RegisterAnswerer):
            candidates = answerer.candidates(offset, direction)
            if len(candidates) == 1 and candidates[0].when is None and not candidates[0].whole:
                return candidates[0].name  # nothing of the plugin's decides
        at: Callable[[Device, int, Direction, int], Claimant | None] = answerer.at
        found = self.guarded(at, None, self.device, offset, direction, size)
        return found.name if found is not None else ""
