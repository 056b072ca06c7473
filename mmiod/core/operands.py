"""An instruction's operands in memory: cut into fragments, checked, read and written.

A fragment is what one page, one slot of RAM or one range of the map answers.  A device's
claim wins over RAM, RAM over what nobody claims.  RAM is mapped here, or only messages
reach it: then the hypervisor supplies what is read, and the delta holds what is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from mmiod.core import bus
from mmiod.core.translation import PAGE, Translation
from mmiod.values import READ, WRITE, Forward, Intent, NeedMemory, Space, ones
from mmiod.x86 import Mode, Suspend, mode_of

if TYPE_CHECKING:
    from mmiod.core.bus import Waiting
    from mmiod.machine.address_map import Range
    from mmiod.machine.machine import Machine
    from mmiod.machine.slot import Slot


@define
class Fragment:
    """A part of an operand that one slot or one range answers; `shift` is its place, in bits."""

    shift: int
    gpa: int
    size: int
    range: Range
    ram: Slot | None
    """None where a device claims the address, or nobody has it."""


@define(eq=False)
class Operands:
    """Guest memory as one instruction reaches it."""

    machine: Machine
    translation: Translation
    writes: list[tuple[int, bytes]] = field(factory=list)
    """To RAM that only the hypervisor reaches."""
    probed: tuple[int, int, Intent, list[Fragment]] | None = None
    """What the step before found; later it may be stale, as a device may wait or move."""
    checked: bool = False
    """Something was probed, so everything is; if not, the access at hand is the only one."""

    def fragments(self, address: int, size: int, intent: Intent) -> list[Fragment]:
        """The parts of an operand that was probed before."""
        probed, self.probed = self.probed, None
        if probed is not None and probed[0] == address and probed[1] == size and probed[2] >= intent:
            return probed[3]
        return self.located(address, size, intent)

    def located(self, address: int, size: int, intent: Intent, *, system: bool = False) -> list[Fragment]:
        """An operand's parts, low to high: cut at pages, and where another range begins."""
        taken = min(size, PAGE - address % PAGE)
        translate = self.translation.translate
        fragments = self._within_page(0, translate(address, intent, system=system), taken)
        if taken < size:
            gpa = translate(self._after(address, taken), intent, system=system)
            fragments += self._within_page(8 * taken, gpa, size - taken)
        return fragments

    def _after(self, address: int, count: int) -> int:
        """The linear address `count` bytes behind: outside of 64-bit code it wraps at 4 GiB."""
        mode = mode_of(self.translation.exit.state)
        return (address + count) % (1 << (64 if mode == Mode.CODE64 else 32))

    def _within_page(self, shift: int, gpa: int, size: int) -> list[Fragment]:
        find = self.machine.memory.find
        return [
            Fragment(shift + 8 * (at - gpa), at, taken, found, find(at) if found.claim is None else None)
            for found, at, taken in self.machine.pieces(Space.MMIO, gpa, size)
        ]

    # --- checks -----------------------------------------------------------------------------

    def probe(self, address: int, size: int, intent: Intent) -> None:
        """Make sure that an operand can be accessed: nothing may stop the instruction later."""
        fragments = self.located(address, size, intent)
        self.checked, self.probed = True, (address, size, intent, fragments)
        if any(fragment.ram is None and fragment.range.forwards for fragment in fragments):
            raise Suspend(Forward())
        if intent == Intent.READ:
            self.check_supplied(fragments)

    def check_supplied(self, fragments: list[Fragment]) -> None:
        """Ask for RAM that only messages reach before any part of the operand is read."""
        for fragment in fragments:
            if fragment.ram is not None and fragment.ram.storage is None:
                self._supplied(fragment.gpa, fragment.size)

    def _supplied(self, gpa: int, size: int) -> bytes:
        """RAM as the hypervisor has it: without what this run is going to write there."""
        if any(start < gpa + size and gpa < start + len(data) for start, data in self.writes):
            raise Suspend(NeedMemory(gpa, size))
        for start, data in self.translation.exit.memory:
            if start <= gpa and gpa + size <= start + len(data):
                return data[gpa - start : gpa - start + size]
        raise Suspend(NeedMemory(gpa, size))

    # --- effects ----------------------------------------------------------------------------

    def load(self, fragments: list[Fragment]) -> Waiting:
        """Read an operand, low to high."""
        total = 0
        for part in fragments:
            gpa, size, ram = part.gpa, part.size, part.ram
            if ram is None:
                value = yield from bus.access(self.machine, part.range, gpa, size, READ, 0)
            elif ram.storage is None:
                value = int.from_bytes(self._supplied(gpa, size), "little")
            else:
                value = int.from_bytes(ram.storage.read(gpa - ram.gpa, size), "little")
            total |= value << part.shift
        return total

    def store(self, fragments: list[Fragment], value: int) -> Waiting:
        """Write an operand, low to high."""
        for part in fragments:
            gpa, size, ram = part.gpa, part.size, part.ram
            taken = value >> part.shift & ones(size)
            if ram is None:
                yield from bus.access(self.machine, part.range, gpa, size, WRITE, taken)
            elif ram.storage is None:
                self.writes.append((gpa, taken.to_bytes(size, "little")))
            elif not ram.read_only:
                ram.storage.write(gpa - ram.gpa, taken.to_bytes(size, "little"))
        return 0
