"""Loading segment registers by hand: checks in their order, null selectors, the LDT."""

from __future__ import annotations

import pytest

from mmiod.values import DS, ES, FS, SS, Segment, VcpuState
from mmiod.x86 import GuestFault, Mode, ReadSystem
from mmiod.x86.faults import GP, NP, SS as STACK
from tests.x86.oracle import Driver, Memory
from tests.x86.states import VM, execute, flat, plan_of, real
from tests.x86.test_transfers import GDT, descriptor

LDT = 0x9000
ENTRIES = (
    0,
    descriptor(0x12345678, 0xF_FFFF, 0x93, 0xC),  # 08 data
    descriptor(0, 0xFFF, 0x91, 0x4),  # 10 read-only
    descriptor(0, 0xF_FFFF, 0xF3, 0xC),  # 18 data, DPL 3
    descriptor(0, 0xF_FFFF, 0x9B, 0xC),  # 20 code, readable
    descriptor(0, 0xF_FFFF, 0x99, 0xC),  # 28 code, execute only
    descriptor(0, 0xF_FFFF, 0x9F, 0xC),  # 30 code, readable, conforming
    descriptor(0, 0xF_FFFF, 0x13, 0xC),  # 38 data, not present
    descriptor(0, 0x67, 0x89, 0),  # 40 TSS
    descriptor(0, 0xF_FFFF, 0xB3, 0xC),  # 48 data, DPL 1
)
MOV = {ES: "8e 00", SS: "8e 10", DS: "8e 18", FS: "8e 20"}


def machine(selector: int) -> Driver:
    """A driver with both tables, and a selector at 0x100."""
    memory = Memory()
    for number, entry in enumerate(ENTRIES):
        memory.write(GDT + 8 * number, 8, entry)
    memory.write(LDT + 8, 8, descriptor(0x5000, 0x10, 0x93, 0))
    memory.write(0x100, 2, selector)
    return Driver(memory)


def protected(mode: Mode = Mode.CODE32, **registers: object) -> VcpuState:
    """Flat segments and both tables; rax points to the selector."""
    gdtr, ldtr = Segment(GDT, 8 * len(ENTRIES) - 1), Segment(LDT, 15, 0x50, 0x82)
    return flat(mode, gdtr=gdtr, ldtr=ldtr, rax=0x100, **registers)


@pytest.mark.parametrize(
    ("number", "selector", "segment"),
    [
        (DS, 0x08, Segment(0x12345678, 0xFFFF_FFFF, 0x08, 0xC093)),
        (ES, 0x10, Segment(0, 0xFFF, 0x10, 0x4091)),
        (FS, 0x1B, Segment(0, 0xFFFF_FFFF, 0x1B, 0xC0F3)),
        (DS, 0x20, Segment(0, 0xFFFF_FFFF, 0x20, 0xC09B)),
        (DS, 0x33, Segment(0, 0xFFFF_FFFF, 0x33, 0xC09F)),
        (DS, 0x0C, Segment(0x5000, 0x10, 0x0C, 0x93)),
        (SS, 0x08, Segment(0x12345678, 0xFFFF_FFFF, 0x08, 0xC093)),
        (DS, 0x00, Segment(selector=0)),
        (ES, 0x03, Segment(selector=3)),
    ],
)
def test_what_is_loaded(number: int, selector: int, segment: Segment) -> None:
    """Base, limit in bytes, selector and attributes; SS brings an interrupt shadow (SDM vol. 2, MOV)."""
    delta = execute(MOV[number], protected(), machine(selector))
    assert ({number: segment}, number == SS) == (delta.segments, delta.shadow)


@pytest.mark.parametrize(
    ("number", "selector", "cpl", "fault"),
    [
        (DS, 0x28, 0, (GP, 0x28)),  # not readable
        (DS, 0x40, 0, (GP, 0x40)),
        (DS, 0x09, 0, (GP, 0x08)),  # RPL 1, DPL 0
        (DS, 0x08, 3, (GP, 0x08)),
        (DS, 0x38, 0, (NP, 0x38)),
        (DS, 0x50, 0, (GP, 0x50)),  # beyond the GDT
        (DS, 0x14, 0, (GP, 0x14)),  # beyond the LDT
        (SS, 0x00, 0, (GP, 0)),
        (SS, 0x10, 0, (GP, 0x10)),  # not writable
        (SS, 0x20, 0, (GP, 0x20)),  # code
        (SS, 0x48, 0, (GP, 0x48)),  # DPL 1
        (SS, 0x4B, 1, (GP, 0x48)),  # RPL 3
        (SS, 0x38, 0, (STACK, 0x38)),
    ],
)
def test_what_is_refused(number: int, selector: int, cpl: int, fault: tuple[int, int]) -> None:
    """Type and privilege before presence; error code is the selector without RPL (SDM vol. 2, MOV)."""
    with pytest.raises(GuestFault) as stop:
        execute(MOV[number], protected(cpl=cpl), machine(selector))
    assert fault == (stop.value.vector, stop.value.error_code)


@pytest.mark.parametrize(
    ("selector", "cpl", "loads"), [(0, 0, True), (1, 1, True), (1, 0, False), (3, 3, False)]
)
def test_null_stack_of_64_bit_code(selector: int, cpl: int, loads: bool) -> None:
    """SS may be null at CPL 0-2 if RPL is CPL (SDM vol. 3, 5.4.1.1)."""
    vcpu, driver = protected(Mode.CODE64, cpl=cpl), machine(selector)
    if loads:
        assert {SS: Segment(selector=selector)} == execute("8e 10", vcpu, driver).segments
    else:
        with pytest.raises(GuestFault):
            execute("8e 10", vcpu, driver)


@pytest.mark.parametrize(
    ("vcpu", "segment"),
    [
        (real(rbx=0x100), Segment(0x8_0000, 0xFFFF, 0x8000, 0x93)),
        (real(rbx=0x100, cr0=1, rflags=2 | VM, cpl=3), Segment(0x8_0000, 0xFFFF, 0x8000, 0xF3)),
    ],
)
def test_without_descriptors(vcpu: VcpuState, segment: Segment) -> None:
    """In real mode limit and attributes stay, which unreal mode relies on; virtual-8086 has its own."""
    driver = Driver()
    driver.memory.write(0x10100, 2, 0x8000)
    assert {DS: segment} == execute("8e 1f", vcpu, driver).segments


def test_pop_of_a_segment_moves_the_stack() -> None:
    """POP DS takes 4 bytes off a 32-bit stack and loads 2 of them."""
    driver = machine(0x08)
    delta = execute("1f", protected(rsp=0x100), driver)
    assert ({4: 0x104}, [DS]) == (delta.registers, list(delta.segments))


def test_a_failed_load_leaves_the_stack() -> None:
    """POP SS that faults changes nothing."""
    with pytest.raises(GuestFault) as stop:
        execute("17", protected(rsp=0x100), machine(0x38))
    assert None is stop.value.delta


def test_tables_are_read_to_the_end_of_their_first_page() -> None:
    """What lies in another page is read only if the selector is there."""
    vcpu = flat(Mode.CODE32, rax=0x100, gdtr=Segment(0x8FF0, 0xFFFF))
    run = plan_of("8e 18", Mode.CODE32).run(vcpu)
    next(run)
    assert ReadSystem(0x8FF0, 16) == run.send(0)
    run.send(0)
    assert ReadSystem(0x9000, 8) == run.send(0x10)
    with pytest.raises(GuestFault):
        run.send(0)
