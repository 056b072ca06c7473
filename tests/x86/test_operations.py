"""Results and flags of operations on memory, as an AMD Zen 4 computed them, and #DE."""

from __future__ import annotations

import pytest

from mmiod.x86 import GuestFault, Mode
from mmiod.x86.faults import DE
from tests.x86.oracle import Driver, Effect
from tests.x86.states import CF, RF, ZF, execute, fault_of, flat
from tests.x86.test_semantics import memory_of

F, f, MAX64, MAX32, MIN64, MIN32 = (
    (1 << 64) - 1,
    (1 << 32) - 1,
    (1 << 63) - 1,
    (1 << 31) - 1,
    1 << 63,
    1 << 31,
)


def changed(code: str, old: int, size: int, **registers: int) -> tuple[int, int]:
    """What memory of `size` bytes at rsi becomes, and the arithmetic flags."""
    driver = memory_of(old, size)
    delta = execute(code, flat(Mode.CODE64, rsi=0x100, **registers), driver)
    return driver.memory.read(0x100, size), delta.rflags & 0x8D5


@pytest.mark.parametrize(
    ("code", "size", "rows"),
    [
        ("f7 1e", 4, "0:0/44 1:ffffffff/95 64:ffffff9c/95 80000000:80000000/885 ffffffff:1/11"),
        ("48 ff 06", 8, "0:1/0 1:2/0 2:3/4 f:10/10 10:11/4 ffffffffffffffff:0/54"),
        (
            "48 ff 0e",
            8,
            "0:ffffffffffffffff/94 1:0/44 2:1/0 f:e/0 10:f/14 ffffffffffffffff:fffffffffffffffe/80",
        ),
        ("f7 16", 4, "0:ffffffff/0 ffffffff:0/0"),
    ],
)
def test_unary(code: str, size: int, rows: str) -> None:
    """NEG, INC, DEC and NOT of memory."""
    for row in rows.split():
        old, _, expected = row.partition(":")
        new, flags = changed(code, int(old, 16), size)
        assert expected == f"{new:x}/{flags:x}", old


@pytest.mark.parametrize("code", ["ff 06", "ff 0e"])
@pytest.mark.parametrize("carry", [0, 1])
def test_increment_keeps_the_carry(code: str, carry: int) -> None:
    """INC and DEC leave CF as it was."""
    assert carry == changed(code, 5, 4, rflags=2 | carry)[1] & CF


@pytest.mark.parametrize(
    ("code", "size", "old", "count", "expected"),
    [
        ("d2 26", 1, 0x64, 0x64, "40/0"),
        ("d2 26", 1, 0x64, 1, "c8/880"),
        ("d2 26", 1, 0xFF, 1, "fe/81"),
        ("d2 26", 1, 0xFF, 0xF, "0/44"),
        ("48 d3 26", 8, 0x64, 0x64, "64000000000/4"),
        ("48 d3 26", 8, F, 0xF, "ffffffffffff8000/85"),
        ("d2 2e", 1, 0xFF, 1, "7f/801"),
        ("48 d3 2e", 8, F, 1, "7fffffffffffffff/805"),
        ("48 d3 2e", 8, F, 0xF, "1ffffffffffff/5"),
        ("48 d3 2e", 8, MIN64, 0xFF, "1/0"),
        ("d2 3e", 1, 0xFF, 9, "ff/85"),
        ("48 d3 3e", 8, MIN64, 0x7F, "ffffffffffffffff/84"),
        ("48 d3 3e", 8, MAX64, 0xFF, "0/45"),
        ("d2 06", 1, 0x78, 3, "c3/1"),
        ("d2 06", 1, 0x81, 8, "81/1"),
        ("d2 16", 1, 0x64, 0x64, "43/0"),
        ("d2 16", 1, 0x7F, 1, "fe/800"),
        ("d2 16", 1, 0xFF, 0xF, "df/1"),
        ("d2 16", 1, 0xAA, 3, "52/1"),
    ],
)
def test_shifts(code: str, size: int, old: int, count: int, expected: str) -> None:
    """SHL, SHR, SAR, ROL and RCL by CL, CF clear before: of OF only what a count of 1 defines."""
    new, flags = changed(code, old, size, rcx=count)
    mask = 0x8C5 if count == 1 else 0xC5
    assert expected == f"{new:x}/{flags & mask:x}"


def test_through_carry() -> None:
    """RCL and RCR take CF in (rows with CF set)."""
    for code, old, count, expected in (("d2 16", 0x64, 0x64, (0x4B, 0)), ("d2 1e", 0x64, 1, (0xB2, 0x800))):
        assert expected == changed(code, old, 1, rcx=count, rflags=3)


@pytest.mark.parametrize(
    ("code", "old", "filler", "expected"),
    [
        ("48 0f a4 1e 01", MAX64, 0, "fffffffffffffffe/880"),
        ("48 0f a4 1e 05", F, f, "ffffffffffffffe0/81"),
        ("48 0f a4 1e 06", f, F, "3fffffffff/4"),
        ("48 0f a4 1e 10", MIN64, MAX64, "7fff/4"),
        ("48 0f ac 1e 01", F, 0, "7fffffffffffffff/805"),
        ("48 0f ac 1e 06", F, f, "ffffffffffffffff/85"),
        ("48 0f ac 1e 06", f, F, "fc00000003ffffff/85"),
        ("48 0f ac 1e 0a", 0, MAX32, "ffc0000000000000/84"),
    ],
)
def test_double_shifts(code: str, old: int, filler: int, expected: str) -> None:
    """SHLD and SHRD; of OF only what a count of 1 defines."""
    new, flags = changed(code, old, 8, rbx=filler)
    mask = 0x8C5 if code.endswith("01") else 0xC5
    assert expected == f"{new:x}/{flags & mask:x}"


@pytest.mark.parametrize("code", ["d3 26", "d3 16", "c1 26 20", "0f a5 1e", "0f a4 1e 20"])
def test_shift_by_nothing_still_writes(code: str) -> None:
    """A masked count of 0 changes no flag, and memory is written as it was read."""
    driver = memory_of(0x77, 4)
    delta = execute(code, flat(Mode.CODE64, rsi=0x100, rcx=0x20, rflags=0x8D7 | RF), driver)
    assert [Effect("read", 0x100, 4, 0x77), Effect("write", 0x100, 4, 0x77)] == driver.trace
    assert 0x8D7 == delta.rflags


@pytest.mark.parametrize(
    ("register", "memory", "flags"),
    [
        *((0, 0, 0x44), (0, 1, 0x95), (1, 0, 0x00), (F, 0, 0x84), (F, f, 0x80 | 4), (f, F, 5)),
        *(
            (MAX64, 0, 4),
            (0, MAX64, 0x91),
            (MIN64, MAX64, 0x810),
            (MAX64, MIN64, 0x885),
            (MIN64, MIN64, 0x44),
        ),
    ],
)
def test_compare_and_exchange(register: int, memory: int, flags: int) -> None:
    """CMPXCHG [m], rbx: written either way, rax takes what was found, flags of rax - [m]."""
    driver = memory_of(memory)
    delta = execute("48 0f b1 1e", flat(Mode.CODE64, rsi=0x100, rax=register, rbx=0x1234), driver)
    equal = register == memory
    assert [memory, 0x1234 if equal else memory] == [effect.value for effect in driver.trace]
    assert ({} if equal else {0: memory}) == delta.registers
    assert flags == delta.rflags & 0x8D5


@pytest.mark.parametrize(("eax", "registers"), [(5, {}), (6, {0: 5})])
def test_upper_half_of_the_accumulator(eax: int, registers: dict[int, int]) -> None:
    """32-bit CMPXCHG zero-extends rax where it writes eax, and leaves it alone where it does not."""
    vcpu = flat(Mode.CODE64, rsi=0x100, rax=0xAAAA_0000_0000 | eax, rbx=7)
    assert registers == execute("0f b1 1e", vcpu, memory_of(5, 4)).registers


@pytest.mark.parametrize("lock", ["", "f0"])
@pytest.mark.parametrize(("rex", "size"), [("", 8), ("48", 16)])
def test_pair_is_exchanged(lock: str, rex: str, size: int) -> None:
    """CMPXCHG8B and 16B: one access of the whole pair, and only ZF."""
    half = size // 2
    old = int.from_bytes(bytes(range(1, size + 1)), "little")
    low, high = old & (1 << 8 * half) - 1, old >> 8 * half
    for rax, equal in ((low, True), (low ^ 1, False)):
        driver = memory_of(old, size)
        vcpu = flat(Mode.CODE64, rsi=0x100, rax=rax, rdx=high, rbx=0x22, rcx=0x33, rflags=0x895)
        delta = execute(f"{lock}{rex}0fc70e", vcpu, driver)
        new = 0x33 << 8 * half | 0x22 if equal else old
        assert [Effect("read", 0x100, size, old), Effect("write", 0x100, size, new)] == driver.trace
        assert ({} if equal else {0: low, 2: high}) == delta.registers
        assert 0x897 | (ZF if equal else 0) == delta.rflags | 2


def test_pair_of_16_bytes_is_aligned() -> None:
    """CMPXCHG16B at an odd place is #GP(0); CMPXCHG8B is not checked (SDM vol. 2)."""
    vcpu = flat(Mode.CODE64, rsi=0x108)
    assert (13, 0) == fault_of("48 0f c7 0e", vcpu)
    execute("0f c7 0e", flat(Mode.CODE64, rsi=0x101))


def test_exchange_and_add() -> None:
    """XADD [rax], eax: the register gets the old number, and the address is computed once."""
    driver = memory_of(0x10, 4)
    delta = execute("0f c1 00", flat(Mode.CODE64, rax=0x100), driver)
    assert ([0x10, 0x110], {0: 0x10}) == ([effect.value for effect in driver.trace], delta.registers)


@pytest.mark.parametrize(
    ("code", "size", "rax", "memory", "expected"),
    [
        ("f6 26", 1, F, 0xFF, "fffffffffffffe01:0/801"),
        ("66 f7 26", 2, 0xFFFF, 0xFFFF, "1:fffe/801"),
        ("f7 26", 4, f, f, "1:fffffffe/801"),
        ("48 f7 26", 8, F, f, "ffffffff00000001:fffffffe/801"),
        ("f6 2e", 1, 0x64, 0x64, "2710:0/801"),
        ("f6 2e", 1, 0xFF, 0xFF, "1:0/0"),
        ("48 f7 2e", 8, MIN64, MAX32, "8000000000000000:ffffffffc0000000/801"),
        ("48 f7 2e", 8, MIN64, MAX64, "8000000000000000:c000000000000000/801"),
    ],
)
def test_multiplication(code: str, size: int, rax: int, memory: int, expected: str) -> None:
    """MUL and IMUL of the accumulator: both halves, CF and OF."""
    delta = execute(code, flat(Mode.CODE64, rsi=0x100, rax=rax), memory_of(memory, size))
    low, high = delta.registers[0], delta.registers.get(2, 0)
    assert expected == f"{low:x}:{high:x}/{delta.rflags & 0x801:x}"


@pytest.mark.parametrize(
    ("code", "size", "rdx", "rax", "memory", "expected"),
    [
        ("f6 36", 1, 0, 1, 2, (0x100, None)),
        ("66 f7 36", 2, 0x8000, 0, 0xFFFF, (0x8000, 0x8000)),
        ("f7 36", 4, MIN32, 0, f, (MIN32, MIN32)),
        ("48 f7 36", 8, MIN64, 0, F, (MIN64, MIN64)),
        ("48 f7 36", 8, 0, MIN64, MAX32, (0x1_0000_0002, 2)),
        ("48 f7 3e", 8, F, F - 6, 2, (F - 2, F)),  # -7 / 2 = -3, rest -1
        ("48 f7 3e", 8, 0, 7, F - 1, (F - 2, 1)),  # 7 / -2 = -3, rest 1
    ],
)
def test_division(
    code: str, size: int, rdx: int, rax: int, memory: int, expected: tuple[int, int | None]
) -> None:
    """DIV and IDIV: quotient and remainder, rounded towards 0."""
    delta = execute(code, flat(Mode.CODE64, rsi=0x100, rax=rax, rdx=rdx), memory_of(memory, size))
    assert expected == (delta.registers[0], delta.registers.get(2))


@pytest.mark.parametrize(
    ("code", "rdx", "rax", "memory"),
    [
        ("f6 36", 0, 1, 0),
        ("f6 36", 0, 0xFFFF, 0xFF),
        ("f6 3e", 0, 0xFF80, 0xFF),
        ("48 f7 3e", F, MIN64, F),
        ("48 f7 3e", 0, 5, 0),
    ],
)
def test_division_error(code: str, rdx: int, rax: int, memory: int) -> None:
    """#DE by 0 and where the quotient does not fit, with no register changed (SDM vol. 2, DIV)."""
    vcpu = flat(Mode.CODE64, rsi=0x100, rax=rax, rdx=rdx)
    with pytest.raises(GuestFault) as stop:
        execute(code, vcpu, memory_of(memory))
    assert (DE, None, None) == (stop.value.vector, stop.value.error_code, stop.value.delta)


@pytest.mark.parametrize(
    ("code", "bit", "away"),
    [
        ("0f a3 1e", 31, 0),
        ("0f a3 1e", 32, 4),
        ("0f a3 1e", f, -4),
        ("0f a3 1e", F ^ f | 33, 4),  # only ebx counts
        ("48 0f a3 1e", F - 64, -16),
        ("66 0f a3 1e", 0x8000, -0x1000),
        ("0f ba 26 3f", 0, 0),  # an immediate counts modulo the size
    ],
)
def test_bit_strings(code: str, bit: int, away: int) -> None:
    """The element that holds the bit is accessed, before or behind the operand (SDM vol. 2, BT)."""
    driver = Driver()
    execute(code, flat(Mode.CODE64, rsi=0x2000, rbx=bit), driver)
    assert [0x2000 + away] == [effect.address for effect in driver.trace]


@pytest.mark.parametrize("code", ["0f bc 1e", "0f bd 1e"])
def test_scan_of_nothing_leaves_the_register(code: str) -> None:
    """BSF and BSR of 0: ZF, and all 64 bits of the register stay (APM vol. 3; Zen 4)."""
    delta = execute(code, flat(Mode.CODE64, rsi=0x100, rbx=F), memory_of(0, 4))
    assert ({}, ZF) == (delta.registers, delta.rflags & ZF)


def test_false_condition_reads_and_zero_extends() -> None:
    """CMOVcc reads whatever the condition; 32 bits clear the upper half (SDM vol. 2, CMOVcc)."""
    driver = Driver()
    delta = execute("0f 44 1e", flat(Mode.CODE64, rsi=0x100, rbx=F), driver)
    assert ({3: f}, 1) == (delta.registers, len(driver.trace))
