"""From linear to guest-physical addresses, for one exit.

In this order: what the hypervisor supplied, what the hardware reported with the exit,
our own read-only walk.  The hypervisor translates by preference: where the walk would
have to set a bit, or cannot read a table, the exit is over with a question to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from mmiod.values import Intent, NeedTranslation
from mmiod.x86 import GuestFault, Suspend, walk

if TYPE_CHECKING:
    from mmiod.machine.memory import GuestMemory
    from mmiod.values import RawExit

PAGE: Final = 4096
_READ: Final = Intent.READ
_WRITE: Final = Intent.WRITE


@frozen
class Platform:
    """What a hypervisor told of its processors at HELLO."""

    physical_bits: int = 52
    shared_mask: int = 0
    """Bits of a guest-physical address that are attributes (the C bit, the shared bit)."""
    vectors: bool = False
    """Vector registers can be asked for and changed."""


@define(eq=False)
class Translation:
    """The translations of one exit; `pages` caches them by (linear page, intent, system)."""

    memory: GuestMemory
    exit: RawExit
    platform: Platform
    confirmed: bool
    """The instruction touches the page that the exit names, or the exit names none."""
    pages: dict[tuple[int, Intent, bool], int] = field(factory=dict)

    def translate(self, address: int, intent: Intent, *, system: bool = False) -> int:
        """The guest-physical address of a linear one.

        Raises:
            GuestFault: the walk ended in a page fault.
            Suspend: only the hypervisor can tell.
        """
        linear = address & -PAGE
        page = self.pages.get((linear, intent, system))
        if page is None and intent is _READ:
            # A read-modify-write was probed as a write.
            page = self.pages.get((linear, _WRITE, system))
        if page is None:
            page = self.pages[linear, intent, system] = self._page(address, intent, system=system)
        return page | address % PAGE

    def _page(self, address: int, intent: Intent, *, system: bool) -> int:
        exit_, mask = self.exit, -PAGE & ~self.platform.shared_mask
        page = exit_.translations.get((address & -PAGE, intent))
        if page is None:
            page = self._named_by_exit(address, intent)
        if page is None:
            page = self._walked(address, intent, system=system)
        page &= mask
        if exit_.gpa is not None and page == exit_.gpa & mask:
            self.confirmed = True
        return page

    def _named_by_exit(self, address: int, intent: Intent) -> int | None:
        """The page that the hardware reported together with its address, if it is this one."""
        exit_ = self.exit
        if exit_.gva is None or exit_.gpa is None or address // PAGE != exit_.gva // PAGE:
            return None
        # A page that could be written can be read; the reverse has to be walked.
        fits = exit_.intent in {None, intent, _WRITE} and intent != Intent.EXECUTE
        return exit_.gpa if fits else None

    def _walked(self, address: int, intent: Intent, *, system: bool) -> int:
        found = walk(
            self.exit.state,
            address,
            intent,
            self._read_table,
            system=system,
            physical_bits=self.platform.physical_bits,
            encryption_mask=self.platform.shared_mask,
        )
        if isinstance(found, GuestFault):
            raise found
        if isinstance(found, NeedTranslation):
            raise Suspend(found)
        return found

    def _read_table(self, gpa: int, size: int) -> int | None:
        slot = self.memory.find(gpa)
        if slot is None or slot.storage is None or gpa + size > slot.end:
            return None
        return int.from_bytes(slot.storage.read(gpa - slot.gpa, size), "little")
