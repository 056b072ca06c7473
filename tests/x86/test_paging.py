"""The page walk against Unicorn's, and what only a read-only walk has to decide."""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Final

import pytest
from attrs import define

from mmiod.values import Intent, NeedTranslation, VcpuState
from mmiod.x86 import GuestFault, walk
from tests.x86.paging_oracle import FORMATS, PAGE, PHYSICAL_BITS, Format, PagingOracle, Walked

CASES: Final = 20 * int(os.environ.get("MMIOD_ORACLE_CASES", "20"))
P, W, U, A, D, PS, NX = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7, 1 << 63
PG, PE, WP, PAE, SMEP, SMAP, PKE, PKS = 1 << 31, 1, 1 << 16, 1 << 5, 1 << 20, 1 << 21, 1 << 22, 1 << 24
LMA, NXE, AC = 0x500, 1 << 11, 1 << 18


@define
class Tables:
    """Draws an address, a vCPU, and the entries on the way."""

    oracle: PagingOracle
    random: Random

    def address(self, intent: Intent) -> int:
        """A canonical address beyond the oracle's own code; at a page's start for a fetch."""
        low = self.random.randrange(0x40_0000, 0x100_0000) | 8  # behind what marks the page
        if self.oracle.format.long:
            top = self.oracle.format.shifts[0] + 8  # the bit that canonical addresses repeat
            upper = 1 << top - 1 | self.random.getrandbits(top - 30) << 30
            upper |= self._maybe((1 << 64) - (1 << top), 0.5)
        else:
            upper = self.random.choice((1, 2, 3)) << 30
        return upper | low & (-PAGE if intent is Intent.EXECUTE else -1)

    def vcpu(self) -> VcpuState:
        """Both privileges, and the control bits that matter."""
        vcpu, maybe = self.oracle.state(self.random.choice((0, 3))), self._maybe
        vcpu.cr0 |= maybe(WP, 0.5)
        vcpu.cr4 |= maybe(SMEP, 0.5) | maybe(SMAP, 0.5)
        vcpu.rflags |= maybe(AC, 0.5)
        vcpu.efer |= maybe(NXE, 0.8) if self.oracle.format.entry == 8 else 0
        return vcpu

    def draw(self, address: int) -> None:
        """Write the entries for an address, from the root to a page."""
        form = self.oracle.format
        for level, shift in enumerate(form.shifts):
            table, index = self.oracle.entry_address(level, address)
            large = self._can_be_large(shift) and self._maybe(PS, 0.3)
            if large or shift == 12:
                entry = self._frame(shift) | large | self._reserved_in_frame(shift)
            else:
                entry = table + PAGE
            self.oracle.write(table, index, entry | self._rights(shift))
            if large:
                return

    def _maybe(self, bits: int, chance: float) -> int:
        return bits if self.random.random() < chance else 0

    def _rights(self, shift: int) -> int:
        form, maybe = self.oracle.format, self._maybe
        rights = maybe(P, 0.96)
        if form.name != "PAE" or shift != 30:
            rights |= maybe(W, 0.8) | maybe(U, 0.8) | maybe(A, 0.95) | maybe(D, 0.8)
        if form.long and shift >= 39:
            rights |= maybe(PS, 0.03)
        if form.entry == 8:
            rights |= maybe(NX, 0.08) | maybe(1 << self.random.randrange(40, 63), 0.04)
        return rights

    def _can_be_large(self, shift: int) -> bool:
        form = self.oracle.format
        return shift == {"2-level, PSE": 22, "PAE": 21}.get(form.name) or (form.long and shift in (21, 30))

    def _frame(self, shift: int) -> int:
        """A physical page of the size that 1 << `shift` is; a small one is neither table nor code."""
        size = 1 << shift
        return self.random.randrange(0x40_0000, 0x100_0000) & -size

    def _reserved_in_frame(self, shift: int) -> int:
        bits = {21: range(13, 21), 22: range(21, 22), 30: range(13, 22)}.get(shift)
        return self._maybe(1 << self.random.choice(bits), 0.05) if bits else 0


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_walk_equals_unicorn(form: Format) -> None:
    """Address, or #PF with error code and CR2; and "ask" exactly where Unicorn set A or D."""
    tables = Tables(PagingOracle(form), Random(form.name))
    oracle, seen = tables.oracle, Counter[str]()
    for _ in range(CASES):
        oracle.clear()
        intent = tables.random.choice(list(Intent))
        address, vcpu = tables.address(intent), tables.vcpu()
        tables.draw(address)
        before = oracle.tables()
        actual = walk(vcpu, address, intent, oracle.read, physical_bits=PHYSICAL_BITS)
        expected = oracle.access(vcpu, address, intent)
        if isinstance(actual, NeedTranslation):
            assert expected.fault is None
            assert before != oracle.tables()
        elif isinstance(actual, GuestFault):
            assert Walked(fault=(actual.error_code or 0, actual.cr2 or 0)) == expected
        else:
            assert Walked(gpa=actual) == expected
            assert before == oracle.tables()
        seen[type(actual).__name__] += 1
    assert 3 == len(seen), seen
    assert min(seen.values()) > CASES // 20, seen


# --- by hand -----------------------------------------------------------------------------


def long_mode(cpl: int = 0, cr4: int = 0, rflags: int = 2) -> VcpuState:
    """4-level paging with the root at 0x1000."""
    return VcpuState(cr0=PG | PE | WP, cr3=0x1000, cr4=PAE | cr4, efer=LMA | NXE, cpl=cpl, rflags=rflags)


def four_levels(leaf: int = 0x5000 | P | W | U | A | D, upper: int = P | W | U | A) -> dict[int, int]:
    """Entries that map linear page 0."""
    return {0x1000: 0x2000 | upper, 0x2000: 0x3000 | upper, 0x3000: 0x4000 | upper, 0x4000: leaf}


def test_paging_off_is_the_identity() -> None:
    """Without CR0.PG a linear address is physical, and nothing is read."""
    assert 0x12345 == walk(VcpuState(cr0=PE), 0x12345, Intent.WRITE, lambda *_: None)


@pytest.mark.parametrize("missing", [0x1000, 0x2000, 0x3000, 0x4000])
def test_unreadable_tables_ask(missing: int) -> None:
    """Where table memory is not ours to read, the hypervisor translates."""
    table = four_levels()
    del table[missing]
    found = walk(long_mode(cpl=3), 0x123, Intent.READ, lambda gpa, _: table.get(gpa))
    assert NeedTranslation(0x123, Intent.READ, 3) == found


@pytest.mark.parametrize(
    ("cr4", "user_page", "asks"), [(PKE, U, True), (PKE, 0, False), (PKS, 0, True), (PKS, U, False)]
)
def test_protection_keys_ask(cr4: int, user_page: int, asks: bool) -> None:
    """PKRU and IA32_PKRS are no part of the state; keys apply to data, by the page's U/S."""
    table, vcpu = four_levels(0x5000 | P | W | A | D | user_page), long_mode(cr4=cr4)
    found = walk(vcpu, 0, Intent.READ, lambda gpa, _: table[gpa])
    assert (NeedTranslation(0, Intent.READ, 0) if asks else 0x5000) == found
    assert 0x5000 == walk(vcpu, 0, Intent.EXECUTE, lambda gpa, _: table[gpa])


def test_system_accesses_are_supervisor_accesses() -> None:
    """The TSS is read at CPL 3 with supervisor rights, and SMAP is not lifted by AC (SDM vol. 3, 4.6.1)."""
    supervisor = four_levels(0x5000 | P | W | A | D)
    vcpu = long_mode(cpl=3, cr4=SMAP, rflags=2 | AC)
    assert 0x5000 == walk(vcpu, 0, Intent.READ, lambda gpa, _: supervisor[gpa], system=True)
    user = four_levels()
    fault = walk(vcpu, 0, Intent.READ, lambda gpa, _: user[gpa], system=True)
    assert isinstance(fault, GuestFault)
    assert (14, P, 0) == (fault.vector, fault.error_code, fault.cr2)


@pytest.mark.parametrize(("physical_bits", "reserved"), [(52, False), (48, False), (47, True), (40, True)])
def test_physical_width_reserves_the_bits_above(physical_bits: int, reserved: bool) -> None:
    """An address bit at or above MAXPHYADDR is #PF with RSVD."""
    table = four_levels(1 << 47 | P | W | U | A | D)
    found = walk(long_mode(), 0, Intent.READ, lambda gpa, _: table[gpa], physical_bits=physical_bits)
    assert reserved == isinstance(found, GuestFault)
    assert reserved or 1 << 47 == found


def test_encryption_bit_is_no_address() -> None:
    """The C-bit is taken out of CR3 and of entries before they are checked."""
    bit = 1 << 47
    table = {gpa: entry | bit for gpa, entry in four_levels().items()}
    vcpu = long_mode()
    vcpu.cr3 |= bit
    found = walk(vcpu, 0x123, Intent.WRITE, lambda gpa, _: table[gpa], physical_bits=46, encryption_mask=bit)
    assert 0x5123 == found


@pytest.mark.parametrize("bit", [1, 2, 5, 6, 7, 8, 63])
def test_pae_pointers_have_reserved_bits_of_their_own(bit: int) -> None:
    """A PDPTE has no rights; those bits are reserved (SDM vol. 3, 4.4.1), and QEMU does not check them."""
    table = {
        0x1000: 0x2000 | P | 1 << bit,
        0x2000: 0x3000 | P | W | U | A,
        0x3000: 0x5000 | P | W | U | A | D,
    }
    vcpu = VcpuState(cr0=PG | PE, cr3=0x1000, cr4=PAE)
    fault = walk(vcpu, 0, Intent.READ, lambda gpa, _: table[gpa])
    assert isinstance(fault, GuestFault)
    assert P | 8 == fault.error_code


def test_four_mebibyte_pages_reach_beyond_four_gibibytes() -> None:
    """PSE-36: bits 20:13 of the entry are 39:32 of the address, where MAXPHYADDR allows."""
    table = {0x1000: 0x0140_0000 | 0x25 << 13 | P | W | U | A | D | PS}
    vcpu = VcpuState(cr0=PG | PE, cr3=0x1000, cr4=1 << 4)
    assert 0x25_0140_0123 == walk(vcpu, 0x123, Intent.READ, lambda gpa, _: table[gpa])
    fault = walk(vcpu, 0x123, Intent.READ, lambda gpa, _: table[gpa], physical_bits=36)
    assert isinstance(fault, GuestFault)
