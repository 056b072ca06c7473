"""Segment registers loaded from a device: the table is RAM, and the device is read once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mmiod.values import CS, DS, Done, Fault, Intent, NeedMemory, NeedTranslation, Segment
from mmiod.x86 import Mode
from tests.core.guests import DEVICE, REMOTE, Guest
from tests.x86.states import PE, PG, WP, flat
from tests.x86.test_transfers import descriptor

SELECTOR = 0xFF
"""Entry 0xf8 of the LDT, RPL 3."""
LDT_LENGTH = 0x100
DATA = descriptor(0x1234_5000, 0xF_FFFF, 0xF2, 0xC)
CODE = descriptor(0, 0xF_FFFF, 0xFA, 0xC)


@pytest.fixture(name="guest")
def _guest() -> Iterator[Guest]:
    guest = Guest()
    guest.log.accesses[:] = [("before", 0, 0, 0)] * 82  # the next read of 2 bytes is SELECTOR
    yield guest
    guest.close()


def at(guest: Guest, code: str, table: int, entry: int) -> Guest:
    """The guest is about to execute this at CPL 3, with an LDT at `table`."""
    guest.poke(table + (SELECTOR & ~7), entry.to_bytes(8, "little"))
    ldtr = Segment(table, LDT_LENGTH - 1, 0x50, 0x82)
    guest.state = flat(Mode.CODE32, rip=0x7000, cpl=3, rbx=DEVICE, rsp=0x3000, ldtr=ldtr)
    guest.code = bytes.fromhex(code).ljust(15, b"\x90")
    return guest


def test_table_in_mapped_ram(guest: Guest) -> None:
    """MOV DS from a device: the accessed bit is set in RAM, and the delta has the segment."""
    completion = at(guest, "8e1b", 0x5000, DATA).once()
    assert isinstance(completion, Done)
    assert {DS: Segment(0x1234_5000, 0xFFFF_FFFF, SELECTOR, 0xC0F3)} == completion.delta.segments
    assert b"\xf3" == guest.peek(0x50FD, 1)
    assert [("mmio read", 0, 2, SELECTOR)] == guest.log.accesses[82:]


def test_table_that_only_messages_reach_is_asked_for_first(guest: Guest) -> None:
    """Nothing is missing once the device was read: it is read once."""
    at(guest, "8e1b", REMOTE, DATA)
    assert NeedMemory(REMOTE, LDT_LENGTH) == guest.once()
    assert 82 == len(guest.log.accesses)
    table = guest.peek(REMOTE, LDT_LENGTH)
    completion = guest.once(guest.exit(memory=[(REMOTE, table)]))
    assert isinstance(completion, Done)
    assert [(REMOTE + 0xFD, b"\xf3")] == completion.delta.memory
    assert [("mmio read", 0, 2, SELECTOR)] == guest.log.accesses[82:]


def test_page_of_the_table_that_is_not_dirty_is_asked_for_first(guest: Guest) -> None:
    """Setting the accessed bit would set a dirty bit: the question comes before the device is read."""
    guest.poke(0x2000, (0x3027).to_bytes(4, "little"))
    for page in (5, 7, DEVICE >> 12):  # accessed
        guest.poke(0x3000 + 4 * page, (page << 12 | 0x27).to_bytes(4, "little"))
    at(guest, "8e1b", 0x5000, DATA)
    guest.state.cr0, guest.state.cr3 = PE | PG, 0x2000
    assert NeedTranslation(0x5000, Intent.WRITE, 0) == guest.once()
    assert 82 == len(guest.log.accesses)
    completion = guest.once(guest.exit(translations={(0x5000, Intent.WRITE): 0x5000}))
    assert isinstance(completion, Done)
    assert b"\xf3" == guest.peek(0x50FD, 1)


def test_table_that_cannot_be_written_faults_when_it_would_be(guest: Guest) -> None:
    """A read-only page with WP: #PF behind the read, as on a processor; none for an accessed descriptor."""
    guest.poke(0x2000, (0x3027).to_bytes(4, "little"))
    for page, flags in ((5, 0x25), (7, 0x27), (DEVICE >> 12, 0x27)):
        guest.poke(0x3000 + 4 * page, (page << 12 | flags).to_bytes(4, "little"))
    at(guest, "8e1b", 0x5000, DATA)
    guest.state.cr0, guest.state.cr3 = PE | PG | WP, 0x2000
    assert Fault(14, 3, 0x50FD) == guest.once()
    guest.poke(0x50FD, b"\xf3")
    del guest.log.accesses[82:]
    assert isinstance(guest.once(), Done)


def test_fault_of_the_descriptor(guest: Guest) -> None:
    """A code segment that is not readable is #GP(selector), and no delta."""
    completion = at(guest, "8e1b", 0x5000, descriptor(0, 0, 0xF8, 0)).once()
    assert Fault(13, SELECTOR & ~3) == completion


def test_far_call_through_a_device(guest: Guest) -> None:
    """Offset and selector are two reads; the return address is in RAM, CS in the delta."""
    del guest.log.accesses[0]  # the offset comes first, and is the answer before
    completion = at(guest, "ff1b", 0x5000, CODE).once()
    assert isinstance(completion, Done)
    assert [("mmio read", 0, 4), ("mmio read", 4, 2)] == [access[:3] for access in guest.log.accesses[81:]]
    assert Segment(0, 0xFFFF_FFFF, SELECTOR, 0xC0FB) == completion.delta.segments[CS]
    assert (0x7002).to_bytes(4, "little") + (8).to_bytes(4, "little") == guest.peek(0x2FF8, 8)
