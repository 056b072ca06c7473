"""Direct stores and remote atomics, by vectors computed from the manual, and hints.

No oracle executes MOVDIRI, MOVDIR64B and RAO-INT: the rows are computed by hand from SDM
vol. 2 (MOVDIRI, MOVDIR64B) and from the Instruction Set Extensions Programming Reference
(AADD, AAND, AOR, AXOR).
"""

from __future__ import annotations

import pytest

from mmiod.values import Intent, Retry
from mmiod.x86 import GuestFault, Mode, Probe, Suspend
from mmiod.x86.faults import GP, SS
from tests.x86.oracle import Driver, Effect
from tests.x86.states import execute, fault_of, flat, plan_of

LINE = int.from_bytes(bytes(range(64)), "little")


@pytest.mark.parametrize(
    ("code", "mode", "size", "value"),
    [
        ("0f 38 f9 18", Mode.CODE64, 4, 0x89AB_CDEF),
        ("48 0f 38 f9 18", Mode.CODE64, 8, 0x0123_4567_89AB_CDEF),
        ("0f 38 f9 18", Mode.CODE32, 4, 0x89AB_CDEF),
        ("67 0f 38 f9 18", Mode.CODE16, 4, 0x89AB_CDEF),  # never 2
    ],
)
@pytest.mark.parametrize("address", [0x200, 0x203])
def test_movdiri_is_one_store(code: str, mode: Mode, size: int, value: int, address: int) -> None:
    """4 or 8 bytes of a register as one write; the address need not be aligned."""
    driver = Driver()
    delta = execute(code, flat(mode, rax=address, rbx=0x0123_4567_89AB_CDEF), driver)
    assert [Effect("write", address, size, value)] == driver.trace
    assert ({}, 2) == (delta.registers, delta.rflags)


@pytest.mark.parametrize(
    ("code", "mode", "target"),
    [
        ("66 44 0f 38 f8 00", Mode.CODE64, 0x1_0000_1240),  # r8, [rax]
        ("67 66 44 0f 38 f8 00", Mode.CODE64, 0x1240),  # r8d, [eax]
        ("66 0f 38 f8 18", Mode.CODE32, 0x3240),  # ebx, [eax]; ES is based at 0x2000
        ("67 66 0f 38 f8 1f", Mode.CODE32, 0x3240),  # bx, [bx]
        ("66 0f 38 f8 1f", Mode.CODE16, 0x3240),  # bx, [bx]
    ],
)
def test_movdir64b_moves_a_line(code: str, mode: Mode, target: int) -> None:
    """64 bytes from memory to ES:register, whose width is the address size, as one write."""
    vcpu = flat(mode, rax=0x205, rbx=0x1240, r8=0x1_0000_1240)
    vcpu.segments[0].base = 0x2000
    source = 0x205 if "1f" not in code else 0x1240
    driver = Driver()
    driver.memory.write(source, 64, LINE)
    execute(code, vcpu, driver)
    assert [Effect("read", source, 64, LINE), Effect("write", target, 64, LINE)] == driver.trace
    assert [Probe(source, 64, Intent.READ), Probe(target, 64, Intent.WRITE)] == driver.probes


def test_source_of_movdir64b_may_be_in_another_segment() -> None:
    """An override moves the source; the destination stays in ES."""
    vcpu, driver = flat(Mode.CODE32, rax=0x100, rbx=0x1240), Driver()
    vcpu.segments[4].base = 0x7000
    execute("64 66 0f 38 f8 18", vcpu, driver)
    assert [0x7100, 0x1240] == [effect.address for effect in driver.trace]


@pytest.mark.parametrize(
    ("code", "registers", "fault"),
    [
        ("66 0f 38 f8 18", {"rax": 0x200, "rbx": 0x1241}, (GP, 0)),
        ("66 0f 38 f8 18", {"rax": 0x201, "rbx": 0x1240}, None),
        ("66 0f 38 f8 18", {"rax": 0x200, "rbx": 1 << 47}, (GP, 0)),
        ("66 0f 38 f8 1c 24", {"rsp": 1 << 47, "rbx": 0x1240}, (SS, 0)),
        ("0f 38 fc 18", {"rax": 0x202}, (GP, 0)),
        ("48 0f 38 fc 18", {"rax": 0x204}, (GP, 0)),
        ("0f 38 fc 18", {"rax": 0x204}, None),
    ],
)
def test_alignment(code: str, registers: dict[str, int], fault: tuple[int, int] | None) -> None:
    """#GP(0) unless MOVDIR64B's destination, or the operand of RAO-INT, is aligned to its size."""
    vcpu = flat(Mode.CODE64, **registers)
    if fault is None:
        execute(code, vcpu)
    else:
        assert fault == fault_of(code, vcpu)


@pytest.mark.parametrize(
    ("prefix", "new32", "new64"),
    [
        ("", 0xF000_0EEF, 0x2121_2122_F000_0EEF),  # AADD
        ("66", 0xF000_0F00, 0x1010_1010_F000_0F00),  # AAND
        ("f2", 0xFFFF_FFEF, 0x1111_1111_FFFF_FFEF),  # AOR
        ("f3", 0x0FFF_F0EF, 0x0101_0101_0FFF_F0EF),  # AXOR
    ],
)
def test_remote_atomics(prefix: str, new32: int, new64: int) -> None:
    """[m] = [m] op register, of 4 or 8 bytes, atomically; no flags, no register."""
    old, register = 0x1111_1111_FFFF_0F00, 0x1010_1010_F000_FFEF
    for rex, size, expected in (("", 4, new32), ("48", 8, new64)):
        driver = Driver()
        driver.memory.write(0x100, 8, old)
        vcpu = flat(Mode.CODE64, rax=0x100, rbx=register, rflags=0x8D7)
        delta = execute(prefix + rex + "0f38fc18", vcpu, driver)
        assert expected == driver.trace[-1].value
        assert ({}, 0x8D7, size) == (delta.registers, delta.rflags, driver.trace[-1].size)


def test_remote_atomic_that_loses_is_tried_again() -> None:
    """It is a compare-and-swap without a LOCK prefix."""
    run = plan_of("0f 38 fc 18").run(flat(Mode.CODE64, rax=0x100, rbx=1))
    next(run)
    next(run)
    run.send(5)
    with pytest.raises(Suspend) as stop:
        run.send(6)
    assert Retry() == stop.value.completion


@pytest.mark.parametrize(
    "code", ["0f 18 08", "0f 0d 08", "0f 1f 00", "0f 1f 44 00 00", "66 0f 1f 00", "0f 1c 00"]
)
def test_hints_touch_nothing(code: str) -> None:
    """PREFETCH and NOP complete even at an address that is not canonical (SDM vol. 2, PREFETCHh)."""
    driver = Driver()
    delta = execute(code, flat(Mode.CODE64, rax=1 << 63), driver)
    assert (len(bytes.fromhex(code)), [], []) == (delta.rip, driver.trace, driver.probes)


@pytest.mark.parametrize("code", ["0f ae 38", "66 0f ae 38", "66 0f ae 30"])
def test_flush_is_a_check_and_no_access(code: str) -> None:
    """CLFLUSH, CLFLUSHOPT and CLWB of a device go on; the byte is checked as for a read."""
    driver = Driver()
    delta = execute(code, flat(Mode.CODE64, rax=0x123), driver)
    assert [Probe(0x123, 1, Intent.READ)] == driver.probes
    assert ([], {}) == (driver.trace, delta.registers)
    with pytest.raises(GuestFault):
        execute(code, flat(Mode.CODE64, rax=1 << 63))
