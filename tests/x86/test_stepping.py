"""What a completion says of debugging and of interrupts: single steps, RF, the shadow of MOV SS."""

from __future__ import annotations

import pytest

from mmiod.values import SS, Segment
from mmiod.x86 import GuestFault, Mode
from tests.x86.oracle import Driver
from tests.x86.states import RF, TF, execute, flat, plan_of, real

BS = 1 << 14


@pytest.mark.parametrize("code", ["8b 1a", "89 1a", "f0 01 1a", "ed", "a4", "f3 a4", "0f 32", "ff 32"])
@pytest.mark.parametrize("tf", [0, TF])
def test_single_step(code: str, tf: int) -> None:
    """With TF a #DB is due behind the instruction; TF stays (SDM vol. 3, 17.3.1.4)."""
    delta = execute(code, flat(Mode.CODE64, rdx=0x100, rsp=0x800, rsi=0x100, rdi=0x200, rcx=1, rflags=2 | tf))
    assert (BS if tf else 0, 2 | tf) == (delta.debug, delta.rflags)


def test_every_iteration_is_a_step() -> None:
    """REP stops behind each iteration: RIP at the instruction until the last."""
    vcpu, driver, seen = flat(Mode.CODE64, rdi=0x100, rcx=3, rflags=2 | TF), Driver(), []
    for _ in range(3):
        delta = driver.drive(plan_of("f3 aa").run(vcpu))
        seen.append((delta.rip, delta.registers[1], delta.debug))
        for number, value in delta.registers.items():
            vcpu.gpr[number] = value
    assert [(0, 2, BS), (0, 1, BS), (2, 0, BS)] == seen
    assert 3 == len(driver.trace)


def test_bound_alone_is_no_step() -> None:
    """A REP that is cut raises nothing."""
    assert 0 == Driver().drive(plan_of("f3 aa").run(flat(Mode.CODE64, rdi=0x100, rcx=9), 2)).debug


def test_fault_of_an_iteration_is_no_step() -> None:
    """The fault comes alone; the iterations before it had their own."""
    with pytest.raises(GuestFault) as stop:
        execute("f3 aa", flat(Mode.CODE64, rdi=1 << 63, rcx=3, rflags=2 | TF))
    assert None is stop.value.delta


def test_trap_flag_that_is_popped_counts_from_the_next_instruction() -> None:
    """POPF that sets TF is no step, one that clears it still is (SDM vol. 3, 17.3.1.4)."""
    for before, after in ((0, TF), (TF, 0)):
        driver = Driver()
        driver.memory.write(0x800, 8, 2 | after)
        delta = execute("9d", flat(Mode.CODE64, rsp=0x800, rflags=2 | before), driver)
        assert (BS if before else 0, after) == (delta.debug, delta.rflags & TF)


@pytest.mark.parametrize("code", ["8b 1a", "f0 01 1a", "a4", "ed", "ff 32"])
def test_resume_flag_ends_with_the_instruction(code: str) -> None:
    """RF is clear behind it (SDM vol. 3, 17.3.1.1)."""
    vcpu = flat(Mode.CODE64, rdx=0x100, rsp=0x800, rsi=0x100, rdi=0x200, rflags=2 | RF)
    assert 2 == execute(code, vcpu).rflags & ~0x8D5


@pytest.mark.parametrize(
    ("code", "shadow"), [("8e 17", True), ("17", True), ("8e 1f", False), ("1f", False), ("8b 17", False)]
)
def test_shadow_of_a_stack_segment(code: str, shadow: bool) -> None:
    """MOV SS and POP SS hold interrupts and #DB for one instruction; a step is lost (SDM vol. 3, 6.8.3)."""
    vcpu = real(rbx=0x100, rsp=0x800, rflags=2 | TF)
    delta = execute(code, vcpu)
    assert (shadow, 0 if shadow else BS) == (delta.shadow, delta.debug)


def test_shadow_is_no_property_of_other_segments() -> None:
    """In protected mode too: a null DS."""
    vcpu, driver = flat(Mode.CODE32, rbx=0x100), Driver()
    driver.memory.write(0x100, 2, 0)
    vcpu.segments[SS] = Segment(0, 0xFFFF_FFFF, 8, 0xC093)
    assert False is execute("8e 1b", vcpu, driver).shadow
