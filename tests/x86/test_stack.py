"""Instructions on the stack: against Unicorn, and by hand where faults and order matter."""

from __future__ import annotations

import pytest

from mmiod.values import Intent
from mmiod.x86 import GuestFault, Mode, Probe
from mmiod.x86.faults import GP, SS
from tests.x86.oracle import Driver, Effect, Memory
from tests.x86.situations import situation
from tests.x86.states import AC, CF, DF, RF, VM, ZF, execute, fault_of, flat, real
from tests.x86.trial import difference

CASES = 10
EVERYWHERE = "50 55 54 5f 5c 58 9c 9d 6a80 c8080000 0fa0 0fa8 0fa1 0fa9"
NOT_IN_64 = "61 06 0e 16 1e 07 17 1f c3 c20800"
"""Undefined there, or RET: Unicorn does not ask whether the address is canonical."""
PREFIXED = "6650 6655 665f 665c 669c 669d 666a80 660fa0 66c3"
IF, IOPL3 = 1 << 9, 3 << 12


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("code", f"{EVERYWHERE} {NOT_IN_64} {PREFIXED}".split())
def test_equals_unicorn(code: str, mode: Mode) -> None:
    """PUSH, POP, PUSHF, POPF, POPA, ENTER and RET of any size: accesses, registers, flags, segments."""
    if mode is Mode.CODE64 and code in NOT_IN_64.split():
        return
    for seed in range(CASES):
        case = situation(bytes.fromhex(code), mode, seed)
        assert None is difference(case), case


def stack_of(*values: int, size: int = 8, top: int = 0x1000) -> Driver:
    """A driver whose stack holds these numbers."""
    memory = Memory()
    for number, value in enumerate(values):
        memory.write(top + size * number, size, value)
    return Driver(memory)


def test_push_all_order() -> None:
    """PUSHA writes eax first and esp as it was, downwards; all slots are probed before (SDM vol. 2)."""
    names = dict(zip(("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"), range(1, 9), strict=True))
    names["rsp"] = 0x1000
    driver = Driver()
    delta = execute("60", flat(Mode.CODE32, **names), driver)
    assert [1, 2, 3, 4, 0x1000, 6, 7, 8] == [effect.value for effect in driver.trace]
    assert list(range(0xFFC, 0xFDC, -4)) == [effect.address for effect in driver.trace]
    assert [Probe(effect.address, 4, Intent.WRITE) for effect in driver.trace] == driver.probes
    assert {4: 0xFE0} == delta.registers


@pytest.mark.parametrize(
    ("level", "written", "rsp"),
    [(0, [0x2000], 0xFF8), (1, [0x2000, 0xFF8], 0xFF0), (3, [0x2000, 11, 12, 0xFF8], 0xFE0)],
)
def test_enter_copies_the_frames_above(level: int, written: list[int], rsp: int) -> None:
    """ENTER pushes rbp, level - 1 frame pointers below it, and its own frame (SDM vol. 2, ENTER)."""
    driver = stack_of(12, 11, top=0x1FF0)
    delta = execute(f"c8 1000 {level:02x}", flat(Mode.CODE64, rsp=0x1000, rbp=0x2000), driver)
    assert written == [effect.value for effect in driver.trace if effect.kind == "write"]
    assert {4: rsp - 0x10, 5: 0xFF8} == delta.registers


def test_enter_of_16_bits_in_64_bit_code() -> None:
    """With 66 it writes bp only; rbp keeps the rest (so does a Zen 4, unlike QEMU)."""
    delta = execute("66 c8 08 00 00", flat(Mode.CODE64, rsp=0x1_1000, rbp=0x1122_3344_5566_7788))
    assert {4: 0x1_0FF6, 5: 0x1122_3344_5566_0FFE} == delta.registers


def test_leave() -> None:
    """LEAVE takes rbp for rsp and pops rbp."""
    delta = execute("c9", flat(Mode.CODE64, rsp=0x10, rbp=0x1000), stack_of(0x77))
    assert {4: 0x1008, 5: 0x77} == delta.registers


@pytest.mark.parametrize(("code", "at"), [("ff 74 24 08", 0x1008), ("8f 44 24 08", 0x1010)])
def test_base_of_rsp(code: str, at: int) -> None:
    """PUSH [rsp+8] uses rsp before, POP [rsp+8] rsp after it moved (SDM vol. 2, PUSH, POP)."""
    driver = stack_of(0x55, 0x66)
    execute(code, flat(Mode.CODE64, rsp=0x1000), driver)
    assert at in [effect.address for effect in driver.trace]


@pytest.mark.parametrize("code", ["ff 30", "8f 00", "ff 10"])
def test_both_operands_are_probed_before_an_access(code: str) -> None:
    """PUSH, POP and CALL of memory: what is wrong with the second operand shows before the first is read."""
    driver = Driver()
    driver.interfere = lambda _: GuestFault(14, 2, 0x5000) if driver.probes else None
    with pytest.raises(GuestFault):
        execute(code, flat(Mode.CODE64, rax=0x100, rsp=0x1000), driver)
    assert (1, []) == (len(driver.probes), driver.trace)


@pytest.mark.parametrize(
    ("cpl", "iopl", "changeable"),
    [(0, 0, IF | IOPL3 | CF | DF), (3, IOPL3, IF | CF | DF), (3, 0, CF | DF), (1, 1 << 12, IF | CF | DF)],
)
def test_what_popf_may_change(cpl: int, iopl: int, changeable: int) -> None:
    """IF needs CPL <= IOPL, IOPL needs CPL 0; VM and RF never change (SDM vol. 2, POPF, table 4-15)."""
    vcpu = flat(Mode.CODE64, rsp=0x1000, cpl=cpl, rflags=2 | iopl)
    popped = 2 | IF | (IOPL3 ^ iopl) | CF | DF | VM | RF
    delta = execute("9d", vcpu, stack_of(popped))
    assert vcpu.rflags & ~changeable | popped & changeable == delta.rflags


def test_pushf_hides_vm_and_rf() -> None:
    """RF and VM are clear in the image (SDM vol. 2, PUSHF)."""
    driver = Driver()
    execute("9c", flat(Mode.CODE64, rsp=0x1000, rflags=2 | RF | ZF | AC), driver)
    assert [Effect("write", 0xFF8, 8, 2 | ZF | AC)] == driver.trace


@pytest.mark.parametrize("code", ["9c", "9d"])
@pytest.mark.parametrize(("iopl", "fault"), [(0, (GP, 0)), (2 << 12, (GP, 0)), (IOPL3, None)])
def test_flags_of_a_virtual_8086_task(code: str, iopl: int, fault: tuple[int, int] | None) -> None:
    """PUSHF and POPF want IOPL 3 there (SDM vol. 3, 20.2.7)."""
    vcpu = real(rsp=0x100, cr0=1, cpl=3, rflags=2 | VM | iopl)
    if fault is None:
        execute(code, vcpu)
    else:
        assert fault == fault_of(code, vcpu)


@pytest.mark.parametrize(
    ("code", "vcpu", "fault"),
    [
        ("50", real(rsp=1), (SS, 0)),  # the word would end beyond the segment
        ("50", flat(Mode.CODE64, rsp=1 << 47 | 8), (SS, 0)),
        ("c9", flat(Mode.CODE64, rbp=1 << 63), (SS, 0)),
        ("c3", flat(Mode.CODE64, rsp=1 << 63), (SS, 0)),
    ],
)
def test_faults_of_the_stack(code: str, vcpu: object, fault: tuple[int, int]) -> None:
    """What is wrong with the stack is #SS(0)."""
    assert fault == fault_of(code, vcpu)  # type: ignore[arg-type]


def test_stack_pointer_wraps_at_its_size() -> None:
    """A 16-bit stack goes on at the top; the upper half of esp stays."""
    delta = execute("50", real(rsp=0xABCD_0000))
    assert {4: 0xABCD_FFFE} == delta.registers
