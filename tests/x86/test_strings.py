"""String instructions: iterations, bounds, and what is left when one of them stops."""

from __future__ import annotations

import pytest

from mmiod.values import Delta, Intent, NeedTranslation
from mmiod.x86 import REP_BOUND, GuestFault, Mode, Probe, Suspend, mode_of
from tests.x86.oracle import Driver, Effect, Memory
from tests.x86.states import DF, RF, ZF, execute, flat, plan_of, real

MASK64 = (1 << 64) - 1


def bytes_at(address: int, data: bytes) -> Driver:
    """A driver whose memory holds these bytes."""
    memory = Memory()
    memory.write(address, len(data), int.from_bytes(data, "little"))
    return Driver(memory)


def stopping(at: int, stop: Exception) -> Driver:
    """A driver that throws at the `at`-th probe (from 0)."""
    driver = Driver()
    driver.interfere = lambda _: stop if len(driver.probes) == at else None
    return driver


@pytest.mark.parametrize("count", [0, 1, 512, REP_BOUND, REP_BOUND + 1, 1 << 63])
def test_one_run_is_bounded(count: int) -> None:
    """REP STOSB does at most REP_BOUND iterations; with some left, RIP stays and RCX says how many."""
    driver = Driver()
    delta = execute("f3 aa", flat(Mode.CODE64, rdi=0x100, rcx=count, rip=0x1000), driver)
    done = min(count, REP_BOUND)
    assert done == len(driver.trace)
    assert (0x1002 if done == count else 0x1000) == delta.rip
    if count:
        assert {7: 0x100 + done, 1: count - done} == delta.registers


def test_bound_is_the_callers() -> None:
    """`rep_bound` iterations, and the next run goes on where that one stopped."""
    vcpu, driver = flat(Mode.CODE64, rdi=0x100, rsi=0x200, rcx=5), Driver()
    plan = plan_of("f3 a5")
    for rest in (3, 1):
        delta = driver.drive(plan.run(vcpu, rep_bound=2))
        assert (0, rest) == (delta.rip, delta.registers[1])
        for number, value in delta.registers.items():
            vcpu.gpr[number] = value
    delta = driver.drive(plan.run(vcpu, rep_bound=2))
    assert Delta(2, 2, {7: 0x114, 6: 0x214, 1: 0}) == delta
    assert 10 == len(driver.trace)


@pytest.mark.parametrize("code", ["f3 6c", "f3 6e", "f3 a4", "f3 aa", "f3 ac", "f3 a6", "f2 ae"])
def test_no_iterations(code: str) -> None:
    """With RCX 0 nothing is accessed and no flag changes; RIP advances (SDM vol. 2, REP)."""
    driver = Driver()
    delta = execute(code, flat(Mode.CODE64, rflags=0x8D7), driver)
    assert Delta(2, 0x8D7, {}) == delta
    assert [] == driver.trace + driver.probes


def test_counter_has_the_address_size() -> None:
    """With 67, ECX counts: RCX of 2**32 is no iteration (COCONUT-SVSM did one), and RCX is zero-extended."""
    driver = Driver()
    execute("67 f3 6c", flat(Mode.CODE64, rcx=1 << 32), driver)
    assert [] == driver.trace
    delta = execute("67 f3 aa", flat(Mode.CODE64, rcx=(7 << 32) + 2, rdi=(9 << 32) + 0x100))
    assert {1: 0, 7: 0x102} == delta.registers


def test_counter_and_pointers_of_16_bits_keep_the_rest() -> None:
    """16-bit addresses update CX, SI and DI and leave the upper halves alone."""
    delta = execute("67 f3 a4", flat(Mode.CODE32, rcx=0xAAAA_0002, rsi=0xBBBB_FFFF, rdi=0xCCCC_0100))
    assert {1: 0xAAAA_0000, 6: 0xBBBB_0001, 7: 0xCCCC_0102} == delta.registers


@pytest.mark.parametrize(
    ("code", "rdi", "after"),
    [("6d", 0, MASK64 - 3), ("67 6d", 0, 0xFFFF_FFFC), ("67 6d", 9 << 32, 0xFFFF_FFFC)],
)
def test_pointer_wraps_below_zero(code: str, rdi: int, after: int) -> None:
    """DF=1 at address 0 wraps (COCONUT-SVSM failed after the port had been read)."""
    delta = execute(code, flat(Mode.CODE64, rdi=rdi, rflags=2 | DF))
    assert {7: after} == delta.registers


@pytest.mark.parametrize("code", ["f2 a4", "f3 a4", "66 f2 a4"])
def test_repne_repeats_moves(code: str) -> None:
    """F2 on a string instruction that compares nothing is REP."""
    driver = Driver()
    execute(code, flat(Mode.CODE64, rsi=0x100, rdi=0x200, rcx=3), driver)
    assert 6 == len(driver.trace)


def test_overlapping_move_propagates() -> None:
    """MOVSB one byte upwards fills: elements move one by one."""
    driver = bytes_at(0x100, b"\x07\x01\x02\x03")
    execute("f3 a4", flat(Mode.CODE64, rsi=0x100, rdi=0x101, rcx=3), driver)
    assert 0x07070707 == driver.memory.read(0x100, 4)


@pytest.mark.parametrize(
    ("code", "data", "al", "rcx", "left", "zero"),
    [
        ("f2 ae", b"\0\0\6\0\0", 6, 5, 2, True),
        ("f3 ae", b"\3\3\3\7\3\3", 3, 6, 2, False),
        ("f2 ae", b"\0\0\0\0", 9, 4, 0, False),
        ("f3 ae", b"\5\5", 5, 2, 0, True),
    ],
)
def test_scan_stops(code: str, data: bytes, al: int, rcx: int, left: int, zero: bool) -> None:
    """REPNE SCASB stops behind the match, REPE behind the mismatch, both at the end."""
    delta = execute(code, flat(Mode.CODE64, rax=al, rdi=0x100, rcx=rcx), bytes_at(0x100, data))
    assert {1: left, 7: 0x100 + rcx - left} == delta.registers
    assert zero == bool(delta.rflags & ZF)
    assert 2 == delta.rip


@pytest.mark.parametrize("done", [1, 3])
def test_fault_in_a_later_iteration_keeps_the_earlier_ones(done: int) -> None:
    """#PF at iteration k: the fault carries a delta with RIP held and k iterations done."""
    driver = stopping(done, GuestFault(14, 2, 0x5000))
    with pytest.raises(GuestFault) as stop:
        execute("f3 ab", flat(Mode.CODE64, rdi=0x100, rcx=9, rip=0x40, rflags=2 | RF), driver)
    assert Delta(0x40, 2 | RF, {7: 0x100 + 4 * done, 1: 9 - done}) == stop.value.delta
    assert done == len(driver.trace)


@pytest.mark.parametrize(
    "stop", [GuestFault(14, 2, 0x5000), Suspend(NeedTranslation(0x5000, Intent.WRITE, 0))]
)
@pytest.mark.parametrize("code", ["f3 a5", "a5", "f3 6d", "6d"])
def test_stop_at_the_destination_precedes_all_effects(code: str, stop: GuestFault | Suspend) -> None:
    """What is wrong with the destination shows before the source, or the port, is read."""
    driver = Driver()
    driver.interfere = lambda step: stop if isinstance(step, Probe) and step.intent is Intent.WRITE else None
    with pytest.raises(type(stop)) as raised:
        execute(code, flat(Mode.CODE64, rsi=0x100, rdi=0x200, rcx=9), driver)
    assert stop is raised.value
    assert None is getattr(raised.value, "delta", None)
    assert [] == driver.trace


def test_suspension_in_a_later_iteration_is_a_partial_delta() -> None:
    """What was done is reported; the hypervisor enters the guest, which comes back for the rest."""
    driver = stopping(4, Suspend(NeedTranslation(0x5000, Intent.READ, 0)))
    delta = execute("f3 a4", flat(Mode.CODE64, rsi=0x100, rdi=0x200, rcx=9), driver)
    assert Delta(0, 2, {6: 0x102, 7: 0x202, 1: 7}) == delta


def test_repeated_comparison_that_faults_keeps_the_flags() -> None:
    """Flags are those from before the instruction (SDM vol. 2, REP)."""
    driver = stopping(2, GuestFault(14, 0, 0x5000))
    with pytest.raises(GuestFault) as stop:
        execute("f2 ae", flat(Mode.CODE64, rax=0x1FF, rdi=0x100, rcx=9, rflags=0x8D7), driver)
    assert stop.value.delta is not None
    assert 0x8D7 == stop.value.delta.rflags


def test_limit_in_a_later_iteration() -> None:
    """The segment's limit ends a REP STOSW like a page fault does: #GP(0) with the delta."""
    with pytest.raises(GuestFault) as stop:
        execute("f3 ab", real(rdi=0xFFFB, rcx=9))
    assert (13, 0) == (stop.value.vector, stop.value.error_code)
    assert Delta(0, 2, {7: 0xFFFF, 1: 7}) == stop.value.delta


def test_load_leaves_the_last_element() -> None:
    """REP LODSB keeps the last byte in AL and the rest of RAX."""
    delta = execute("f3 ac", flat(Mode.CODE64, rax=0x1200, rsi=0x100, rcx=3), bytes_at(0x100, b"\1\2\3"))
    assert {0: 0x1203, 6: 0x103, 1: 0} == delta.registers


def test_port_string_order() -> None:
    """INS probes, reads the port, writes memory; OUTS reads memory, writes the port."""
    driver = Driver()
    execute("6c", flat(Mode.CODE64, rdi=0x100, rdx=0x3F8), driver)
    assert [Probe(0x100, 1, Intent.WRITE)] == driver.probes
    assert ["in", "write"] == [effect.kind for effect in driver.trace]
    driver = bytes_at(0x100, b"A")
    execute("6e", flat(Mode.CODE64, rsi=0x100, rdx=0x3F8), driver)
    assert [Effect("read", 0x100, 1, 0x41), Effect("out", 0x3F8, 1, 0x41)] == driver.trace


def test_segments_of_the_strings() -> None:
    """An override moves the source; the destination stays in ES (SDM vol. 2, MOVS)."""
    vcpu, driver = real(rsi=0x100, rdi=0x200), Driver()
    vcpu.segments[4].base = 0x30000
    execute("64 a4", vcpu, driver)
    assert mode_of(vcpu) is Mode.CODE16
    assert [0x30100, 0x10200] == [effect.address for effect in driver.trace]
