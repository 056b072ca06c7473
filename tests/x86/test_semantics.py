"""Results and flags that real processors gave, and how modified memory is written."""

from __future__ import annotations

import pytest

from mmiod.values import Intent, Retry
from mmiod.x86 import Mode, Probe, Suspend
from tests.x86.oracle import Driver, Effect, Memory
from tests.x86.states import CF, RF, execute, flat, plan_of

F, f = 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF
MAX64, MAX32, MIN64, MIN32 = 0x7FFF_FFFF_FFFF_FFFF, 0x7FFF_FFFF, 1 << 63, 1 << 31
PAIRS = [
    (0, 0),
    (0x64, 0x64),
    (0, 1),
    (1, 0),
    (F, 0),
    (F, f),
    (f, F),
    (f, f),
    (MAX64, 0),
    (MAX32, 0),
    (0, MAX32),
    (MIN32, MAX32),
    (MAX32, MIN32),
    (MIN64, MAX32),
    (MAX32, MIN64),
    (MAX64, MAX64),
    (MIN64, MAX64),
    (MIN64, MIN64),
]
"""(register, memory); the rows below are what an AMD Zen 4 computed for them."""

ADD = (
    "0/44 c8/0 1/0 1/0 ffffffff/84 fffffffe/91 fffffffe/91 fffffffe/91 ffffffff/84 7fffffff/4 "
    "7fffffff/4 ffffffff/84 ffffffff/84 7fffffff/4 7fffffff/4 fffffffe/91 ffffffff/84 0/44"
)
ADC1 = (
    "1/0 c9/4 2/0 2/0 0/55 ffffffff/95 ffffffff/95 ffffffff/95 0/55 80000000/894 80000000/894 "
    "0/55 0/55 80000000/894 80000000/894 ffffffff/95 0/55 1/0"
)
SUB = (
    "0/44 0/44 ffffffff/95 1/0 ffffffff/84 0/44 0/44 0/44 ffffffff/84 7fffffff/4 80000001/91 "
    "1/810 ffffffff/885 80000001/91 7fffffff/4 0/44 1/11 0/44"
)
SBB1 = (
    "ffffffff/95 ffffffff/95 fffffffe/91 0/44 fffffffe/80 ffffffff/95 ffffffff/95 ffffffff/95 "
    "fffffffe/80 7ffffffe/0 80000000/95 0/854 fffffffe/881 80000000/95 7ffffffe/0 ffffffff/95 "
    "0/55 ffffffff/95"
)
AND = (
    "0/44 64/0 0/44 0/44 0/44 ffffffff/84 ffffffff/84 ffffffff/84 0/44 0/44 0/44 0/44 0/44 0/44 "
    "0/44 ffffffff/84 0/44 0/44"
)
OR = (
    "0/44 64/0 1/0 1/0 ffffffff/84 ffffffff/84 ffffffff/84 ffffffff/84 ffffffff/84 7fffffff/4 "
    "7fffffff/4 ffffffff/84 ffffffff/84 7fffffff/4 7fffffff/4 ffffffff/84 ffffffff/84 0/44"
)
XOR = (
    "0/44 0/44 1/0 1/0 ffffffff/84 0/44 0/44 0/44 ffffffff/84 7fffffff/4 7fffffff/4 ffffffff/84 "
    "ffffffff/84 7fffffff/4 7fffffff/4 0/44 ffffffff/84 0/44"
)


def memory_of(value: int, size: int = 8, address: int = 0x100) -> Driver:
    """A driver whose memory holds a number."""
    memory = Memory()
    memory.write(address, size, value)
    return Driver(memory)


@pytest.mark.parametrize(
    ("code", "carry", "rows"),
    [
        ("03 00", 0, ADD),
        ("13 00", 0, ADD),
        ("13 00", 1, ADC1),
        ("2b 00", 0, SUB),
        ("1b 00", 0, SUB),
        ("1b 00", 1, SBB1),
        ("23 00", 0, AND),
        ("0b 00", 0, OR),
        ("33 00", 0, XOR),
    ],
)
@pytest.mark.parametrize("others", [0, 0x8D4])
def test_arithmetic_equals_hardware(code: str, carry: int, rows: str, others: int) -> None:
    """Operation on eax and memory: result and all flags, whatever the flags were before."""
    for (left, right), row in zip(PAIRS, rows.split(), strict=True):
        vcpu = flat(Mode.CODE64, rbx=left & f, rax=0x100, rflags=2 | others | carry)
        delta = execute(code.replace(" 00", " 18"), vcpu, memory_of(right))
        assert row == f"{delta.registers[3]:x}/{delta.rflags & 0x8D5:x}", (left, right)


@pytest.mark.parametrize(
    ("code", "rows"),
    [
        ("3b 18", "44 44 95 0 84 44 44 44 84 4 91 810 885 91 4 44 11 44"),
        ("48 3b 18", "44 44 95 0 84 84 5 44 4 4 91 10 85 810 885 44 810 44"),
    ],
)
def test_comparison_equals_hardware(code: str, rows: str) -> None:
    """CMP ebx and rbx with memory set the flags of a subtraction and write nothing."""
    for (left, right), row in zip(PAIRS, rows.split(), strict=True):
        driver = memory_of(right)
        delta = execute(code, flat(Mode.CODE64, rax=0x100, rbx=left), driver)
        assert row == f"{delta.rflags & 0x8D5:x}", (left, right)
        assert {} == delta.registers
        assert ["read"] == [effect.kind for effect in driver.trace]


@pytest.mark.parametrize(
    ("register", "memory", "flags"),
    [
        (0, 0, 0x44),
        (0x64, 0x64, 0x44),
        (0, 1, 0x95),
        (1, 0, 0),
        (0xFF, 0, 0x84),
        (0, 0xFF, 0x11),
        (0x7F, 0, 0),
        (0, 0x7F, 0x95),
        (0x80, 0, 0x80),
        (0, 0x80, 0x881),
        (0x7F, 0x80, 0x885),
        (0x80, 0x7F, 0x810),
    ],
)
def test_byte_comparison_equals_hardware(register: int, memory: int, flags: int) -> None:
    """CMP bl, [m]."""
    delta = execute("3a 18", flat(Mode.CODE64, rax=0x100, rbx=register), memory_of(memory, 1))
    assert flags == delta.rflags & 0x8D5


@pytest.mark.parametrize(
    ("code", "flags"),
    [("81 38 ff ff ff ff", 0x11), ("83 38 ff", 0x11), ("83 38 7f", 0x95)],
)
def test_comparison_with_immediate_sign_extends(code: str, flags: int) -> None:
    """CMP dword [m], imm of 0 with a negative and a positive immediate."""
    delta = execute(code, flat(Mode.CODE64, rax=0x100), memory_of(0))
    assert flags == delta.rflags & 0x8D5


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("0f b7 00", 0x9999),
        ("48 0f b6 00", 0x99),
        ("66 0f b6 00", 0xFFFF_FFFF_FFFF_0099),
        ("48 0f bf 00", 0xFFFF_FFFF_FFFF_9999),
        ("0f bf 00", 0xFFFF_9999),
        ("0f be 00", 0xFFFF_FF99),
        ("66 0f be 00", 0xFFFF_FFFF_FFFF_FF99),
        ("48 63 00", 0xFFFF_FFFF_9999_9999),
        ("63 00", 0x9999_9999),
        ("66 63 00", 0xFFFF_FFFF_FFFF_9999),
    ],
)
def test_extension_into_rax(code: str, value: int) -> None:
    """MOVZX, MOVSX, MOVSXD of 99.. into an rax of all ones: 32-bit clears the top, 16-bit keeps it."""
    vcpu = flat(Mode.CODE64, rax=F, rbx=0x100)
    delta = execute(code[:-2] + "03", vcpu, memory_of(0x9999_9999))
    assert value == delta.registers[0]


def test_exchange_keeps_the_bytes_beyond() -> None:
    """XCHG [100], ebx: memory's upper half stays, the register's is cleared."""
    driver = memory_of(0xFFFF_FFFF_1234_5678)
    delta = execute("87 18", flat(Mode.CODE64, rax=0x100, rbx=0xAAAA_AAAA_5555_5555), driver)
    assert {3: 0x1234_5678} == delta.registers
    assert 0xFFFF_FFFF_5555_5555 == driver.memory.read(0x100, 8)


def test_exchange_with_its_own_base_computes_the_address_once() -> None:
    """XCHG [rax], eax writes eax to where rax pointed before."""
    driver = memory_of(0x1234)
    delta = execute("87 00", flat(Mode.CODE64, rax=0x100), driver)
    assert [Effect("read", 0x100, 4, 0x1234), Effect("write", 0x100, 4, 0x100)] == driver.trace
    assert {0: 0x1234} == delta.registers


@pytest.mark.parametrize("code", ["f0 01 18", "87 18", "f0 87 18"])
def test_a_lost_swap_changes_nothing(code: str) -> None:
    """If memory changes between read and swap the guest tries again, with no delta and no write."""
    run = plan_of(code).run(flat(Mode.CODE64, rax=0x100, rbx=1))
    assert Probe(0x100, 4, Intent.WRITE) == next(run)
    next(run)
    swap = run.send(5)
    assert 5 == swap.old  # type: ignore[union-attr]
    with pytest.raises(Suspend) as stop:
        run.send(6)
    assert Retry() == stop.value.completion


@pytest.mark.parametrize("code", ["01 18", "f0 01 18", "87 18"])
def test_modified_memory_is_probed_for_writing_first(code: str) -> None:
    """A read-modify-write operand is checked once, as a write, before it is read."""
    driver = Driver()
    execute(code, flat(Mode.CODE64, rax=0x100), driver)
    assert [Probe(0x100, 4, Intent.WRITE)] == driver.probes


@pytest.mark.parametrize(
    ("mode", "rip", "after"),
    [(Mode.CODE16, 0xFFFE, 0), (Mode.CODE32, 0xFFFF_FFFE, 0), (Mode.CODE64, 0xFFFF_FFFF_FFFF_FFFE, 0)],
)
def test_rip_wraps_at_the_code_size(mode: Mode, rip: int, after: int) -> None:
    """RIP behind the last instruction of the code's address space is 0."""
    assert after == execute("ec", flat(mode, rip=rip + 1)).rip


def test_completion_clears_resume_flag_only() -> None:
    """RF ends with the instruction; a load leaves the other flags alone (SDM vol. 3, 17.3.1.1)."""
    delta = execute("8b 00", flat(Mode.CODE64, rax=0x100, rflags=2 | RF | CF | 0x8D4))
    assert 2 | CF | 0x8D4 == delta.rflags


def test_selector_store_is_two_bytes() -> None:
    """MOV [m], DS writes 16 bits whatever the operand size (SDM vol. 2, MOV)."""
    driver = Driver()
    execute("48 8c 18", flat(Mode.CODE64, rax=0x100), driver)
    assert [Effect("write", 0x100, 2, 8)] == driver.trace


def test_running_leaves_the_vcpu_alone() -> None:
    """A plan reads the state and changes none of it."""
    vcpu, before = flat(Mode.CODE64, rax=0x100, rcx=3), flat(Mode.CODE64, rax=0x100, rcx=3)
    for code in ("f3 a4", "f0 01 00", "8b 00", "ec"):
        execute(code, vcpu)
    assert before == vcpu
