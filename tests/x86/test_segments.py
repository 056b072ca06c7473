"""Logical to linear: what each mode checks, and the fault it raises before any effect."""

from __future__ import annotations

import pytest

from mmiod.values import CS, DS, ES, FS, SS, Segment, VcpuState
from mmiod.x86 import GuestFault, Mode, code_address
from tests.x86.oracle import Driver
from tests.x86.states import AC, AM, VM, execute, fault_of, flat, real

GP, STACK, ALIGNMENT = (13, 0), (12, 0), (17, 0)
LOAD, STORE = "8b 1a", "89 1a"  # ebx, [edx]

DATA, READ_ONLY, EXPAND_DOWN, EXPAND_DOWN16 = 0xC093, 0xC091, 0xC097, 0x8097
CODE, EXECUTE_ONLY, CONFORMING = 0xC09B, 0xC099, 0xC09F
NOT_PRESENT, SYSTEM = 0xC013, 0xC083


def with_data_segment(attributes: int, limit: int = 0x104, **registers: int) -> VcpuState:
    """32-bit protected mode with DS at 0x200."""
    vcpu = flat(Mode.CODE32, **registers)
    vcpu.segments[DS] = Segment(0x200, limit, 0x1000, attributes)
    return vcpu


@pytest.mark.parametrize(
    ("code", "attributes", "limit", "fault"),
    [
        (STORE, DATA, 0x104, None),
        (STORE, DATA, 0x103, None),
        (STORE, DATA, 0x102, GP),
        (STORE, DATA, 0x101, GP),
        (LOAD, DATA, 0x102, GP),
        (STORE, NOT_PRESENT, 0x104, GP),
        (LOAD, 0, 0, GP),  # a null selector
        (STORE, SYSTEM, 0x104, GP),
        (STORE, READ_ONLY, 0x104, GP),
        (LOAD, READ_ONLY, 0x104, None),
        (STORE, EXPAND_DOWN, 0x1000, GP),
        (STORE, EXPAND_DOWN, 0x100, GP),
        (STORE, EXPAND_DOWN, 0xFF, None),
        (STORE, EXPAND_DOWN16, 0xFF, None),
        (LOAD, CODE, 0x104, None),
        (LOAD, CONFORMING, 0x104, None),
        (STORE, CODE, 0x104, GP),
        (LOAD, EXECUTE_ONLY, 0x104, GP),
    ],
)
def test_protected_mode(code: str, attributes: int, limit: int, fault: tuple[int, int] | None) -> None:
    """ds:[0x100] against type and limit (SDM vol. 3, 5.3 and 5.5)."""
    assert fault == fault_of(code, with_data_segment(attributes, limit, rdx=0x100))


@pytest.mark.parametrize(
    ("offset", "attributes", "fault"),
    [(0xFFFC, EXPAND_DOWN16, None), (0xFFFD, EXPAND_DOWN16, GP), (0xFFFD, EXPAND_DOWN, None)],
)
def test_expand_down_ends_where_its_size_bit_says(
    offset: int, attributes: int, fault: tuple[int, int] | None
) -> None:
    """B=0 ends an expand-down segment at 64 KiB, B=1 at 4 GiB."""
    assert fault == fault_of(STORE, with_data_segment(attributes, 0xFF, rdx=offset))


def test_base_is_added_and_wraps() -> None:
    """Linear addresses of 32-bit code are taken modulo 2**32."""
    driver = Driver()
    vcpu = with_data_segment(DATA, 0xFFFF_FFFF, rdx=0xFFFF_FF00)
    execute(STORE, vcpu, driver)
    assert 0x100 == driver.trace[0].address


@pytest.mark.parametrize("code", ["8b 45 00", "8b 04 24", "36 8b 02"])
def test_stack_segment_raises_its_own_fault(code: str) -> None:
    """EBP, ESP and the SS prefix address the stack: #SS(0), not #GP(0)."""
    vcpu = flat(Mode.CODE32, rbp=0x1000, rsp=0x1000, rdx=0x1000)
    vcpu.segments[SS].limit = 0xFFF
    assert STACK == fault_of(code, vcpu)


def test_override_takes_the_check_along() -> None:
    """With a CS prefix a store is refused for the code segment's type."""
    assert GP == fault_of("2e 89 1a", flat(Mode.CODE32))
    assert None is fault_of("2e 8b 1a", flat(Mode.CODE32))


@pytest.mark.parametrize(("offset", "fault"), [(0xFFFC, None), (0xFFFD, GP), (0xFFFF, GP)])
def test_real_mode_limit(offset: int, fault: tuple[int, int] | None) -> None:
    """A dword may not cross the end of the segment (SDM vol. 3, 20.1.1)."""
    assert fault == fault_of("66 8b 1f", real(rbx=offset))


def test_real_mode_uses_what_is_cached() -> None:
    """A 4 GiB limit left behind by protected mode holds; types and the selector mean nothing."""
    vcpu = real(rdx=0x12_3456)
    vcpu.segments[DS] = Segment(0x40, 0xFFFF_FFFF, 0, READ_ONLY)
    driver = Driver()
    execute("67 89 1a", vcpu, driver)
    assert [0x12_3496] == [effect.address for effect in driver.trace]


def test_virtual_8086_mode_has_no_types() -> None:
    """v86 segments are the real mode's, though CR0.PE is set."""
    vcpu = real(rbx=0x10, cr0=1, rflags=2 | VM, cpl=3)
    vcpu.segments[DS].attributes = 0xF1
    assert None is fault_of("89 1f", vcpu)


@pytest.mark.parametrize(
    ("address", "la57", "fault"),
    [
        (0x7FFF_FFFF_FFFC, False, None),
        (0x7FFF_FFFF_FFFD, False, GP),
        (0x8000_0000_0000, False, GP),
        (0xFFFF_7FFF_FFFF_FFFD, False, GP),
        (0xFFFF_8000_0000_0000, False, None),
        (0xFFFF_FFFF_FFFF_FFFC, False, None),
        (0xFFFF_FFFF_FFFF_FFFD, False, GP),
        (0x8000_0000_0000_0000, False, GP),
        (0x8000_0000_0000, True, None),
        (0xFF_FFFF_FFFF_FFFD, True, GP),
        (0xFF00_0000_0000_0000, True, None),
        (0x0100_0000_0000_0000, True, GP),
    ],
)
def test_canonical_addresses(address: int, la57: bool, fault: tuple[int, int] | None) -> None:
    """First and last byte lie in one canonical half (SDM vol. 1, 3.3.7.1)."""
    assert fault == fault_of("8b 1a", flat(Mode.CODE64, rdx=address, cr4=la57 << 12))


def test_canonical_violation_of_the_stack() -> None:
    """Through RBP or RSP it is #SS(0); a DS prefix is ignored and changes nothing."""
    vcpu = flat(Mode.CODE64, rbp=1 << 63, r13=1 << 63)
    assert STACK == fault_of("8b 45 00", vcpu)
    assert STACK == fault_of("3e 8b 45 00", vcpu)
    assert GP == fault_of("64 8b 45 00", vcpu)
    assert GP == fault_of("41 8b 45 00", vcpu)  # r13 is no stack pointer


def test_long_mode_ignores_all_but_fs_and_gs() -> None:
    """Bases, limits and types of ES, CS, SS, DS mean nothing in 64-bit code."""
    vcpu, driver = flat(Mode.CODE64, rdx=0x100), Driver()
    vcpu.segments[DS] = Segment(0x5000, 0, 0, 0)
    vcpu.segments[FS] = Segment(0xFFFF_FFFF_FFFF_FFF0, 0, 0, 0)
    for code in (LOAD, "2e 8b 1a", "64 8b 1a"):
        execute(code, vcpu, driver)
    assert [0x100, 0x100, 0xF0] == [effect.address for effect in driver.trace]


def test_base_is_added_behind_the_address_size() -> None:
    """With 67 the offset wraps at 2**32, then FS's 64-bit base is added."""
    vcpu, driver = flat(Mode.CODE64, rdx=0xF_FFFF_FFFF), Driver()
    vcpu.segments[FS].base = 0x7000_0000_0000
    execute("67 64 8b 5a 02", vcpu, driver)
    assert [0x7000_0000_0001] == [effect.address for effect in driver.trace]


@pytest.mark.parametrize(
    ("address", "cpl", "am", "ac", "fault"),
    [
        (0x100, 3, AM, AC, None),
        (0x101, 3, AM, AC, ALIGNMENT),
        (0x104, 3, AM, AC, ALIGNMENT),
        (0x101, 0, AM, AC, None),
        (0x101, 3, 0, AC, None),
        (0x101, 3, AM, 0, None),
    ],
)
def test_alignment_check(address: int, cpl: int, am: int, ac: int, fault: tuple[int, int] | None) -> None:
    """#AC(0) needs CPL 3, CR0.AM and RFLAGS.AC (SDM vol. 3, 6.15)."""
    vcpu = flat(Mode.CODE64, rax=address, cpl=cpl, cr0=1 | am, rflags=2 | ac)
    assert fault == fault_of("48 89 30", vcpu)


@pytest.mark.parametrize(
    ("code", "rax", "fault"),
    [
        ("ff 28", 0x104, GP),  # jmp m16:32: as its offset; the selector is 0
        ("ff 28", 0x102, ALIGNMENT),
        ("66 0f 38 f8 18", 0x101, None),  # movdir64b
    ],
)
def test_alignment_check_of_large_operands(code: str, rax: int, fault: tuple[int, int] | None) -> None:
    """A far pointer has its offset's alignment; above 8 bytes #AC does not apply (SDM vol. 3, 6.15)."""
    vcpu = flat(Mode.CODE32, rax=rax, rbx=0x2000, cpl=3, cr0=1 | AM, rflags=2 | AC)
    driver, seen = Driver(), None
    driver.memory.write(rax, 6, 0)
    try:
        execute(code, vcpu, driver)
    except GuestFault as raised:
        seen = raised.vector, raised.error_code
    assert fault == seen


def test_destination_string_cannot_be_overridden() -> None:
    """STOS checks ES, whatever the prefix says."""
    vcpu = flat(Mode.CODE32, rdi=0x100)
    vcpu.segments[ES].attributes = READ_ONLY
    assert GP == fault_of("3e aa", vcpu)


@pytest.mark.parametrize(
    ("mode", "address"), [(Mode.CODE64, 0x1_0000_0001), (Mode.CODE32, 0x1001), (Mode.CODE16, 0x1001)]
)
def test_code_address(mode: Mode, address: int) -> None:
    """CS's base counts outside 64-bit code, where addresses wrap at 2**32."""
    vcpu = flat(mode, rip=0xFFFF_FFFF)
    vcpu.segments[CS].base = 0x1000
    assert address == code_address(vcpu, mode, 2)
