"""Near and far transfers by hand: what faults, and what is done before it does."""

from __future__ import annotations

import pytest

from mmiod.values import CS, Intent, Segment, Unsupported, VcpuState
from mmiod.x86 import GuestFault, Mode, Suspend
from mmiod.x86.faults import GP, NP, SS
from tests.x86.oracle import Driver, Effect, Memory
from tests.x86.states import VM, execute, flat, real

GDT = 0x8000
TARGET = 0x400


def descriptor(base: int, limit: int, access: int, flags: int) -> int:
    """An entry of a descriptor table (SDM vol. 3, figure 3-8)."""
    low = limit & 0xFFFF | (base & 0xFF_FFFF) << 16 | access << 40
    return low | (limit >> 16) << 48 | flags << 52 | (base >> 24) << 56


ENTRIES = (
    0,
    descriptor(0, 0xF_FFFF, 0x9B, 0xC),  # 08 code, 32 bits
    descriptor(0x10000, 0x7FFF, 0x9B, 0x4),  # 10 code of 32 KiB
    descriptor(0, 0xF_FFFF, 0x9B, 0xA),  # 18 code, 64 bits
    descriptor(0, 0xF_FFFF, 0xFB, 0xC),  # 20 code of CPL 3
    descriptor(0, 0xF_FFFF, 0x9F, 0xC),  # 28 conforming
    descriptor(0, 0xF_FFFF, 0x1B, 0xC),  # 30 not present
    descriptor(0, 0xF_FFFF, 0x93, 0xC),  # 38 data
    descriptor(0, 0, 0x8C, 0),  # 40 call gate
    descriptor(0, 0, 0x85, 0),  # 48 task gate
    descriptor(0, 0x67, 0x89, 0),  # 50 TSS
    descriptor(0, 0, 0x8E, 0),  # 58 interrupt gate
    descriptor(0, 0xF_FFFF, 0x9A, 0xC),  # 60 code, never accessed
    descriptor(0, 0xF_FFFF, 0x9B, 0xE),  # 68 code, L and D
)


def machine(selector: int, offset: int = TARGET, size: int = 4) -> Driver:
    """A driver with the descriptor table, and a far pointer at 0x100."""
    memory = Memory()
    for number, entry in enumerate(ENTRIES):
        memory.write(GDT + 8 * number, 8, entry)
    memory.write(0x100, size + 2, offset | selector << 8 * size)
    return Driver(memory)


def protected(mode: Mode = Mode.CODE32, **registers: object) -> VcpuState:
    """Flat segments and the descriptor table; rax points to the pointer."""
    gdtr = Segment(GDT, 8 * len(ENTRIES) - 1)
    return flat(mode, gdtr=gdtr, rax=0x100, rsp=0x1000, **registers)


@pytest.mark.parametrize(
    ("selector", "segment"),
    [
        (0x08, Segment(0, 0xFFFF_FFFF, 0x08, 0xC09B)),
        (0x10, Segment(0x10000, 0x7FFF, 0x10, 0x409B)),
        (0x28, Segment(0, 0xFFFF_FFFF, 0x28, 0xC09F)),
        (0x2B, Segment(0, 0xFFFF_FFFF, 0x28, 0xC09F)),  # conforming: RPL does not matter
    ],
)
@pytest.mark.parametrize("code", ["ff 28", "ff 18"])
def test_far_transfer_loads_cs(code: str, selector: int, segment: Segment) -> None:
    """JMP and CALL m16:32 load base, limit and attributes of a code segment; its RPL becomes CPL."""
    delta = execute(code, protected(), machine(selector))
    assert (TARGET, {CS: segment}) == (delta.rip, delta.segments)


def test_far_call_pushes_selector_and_return_address() -> None:
    """CS first, then EIP, each as wide as the operand (SDM vol. 2, CALL)."""
    driver = machine(0x10)
    delta = execute("ff 18", protected(rip=0x77), driver)
    pushed = [effect for effect in driver.trace if effect.kind == "write"]
    assert [Effect("write", 0xFFC, 4, 8), Effect("write", 0xFF8, 4, 0x79)] == pushed
    assert {4: 0xFF8} == delta.registers


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0x00, (GP, 0)),
        (0x03, (GP, 0)),
        (0x23, (GP, 0x20)),  # DPL 3 at CPL 0
        (0x09, (GP, 0x08)),  # RPL 1 at CPL 0
        (0x30, (NP, 0x30)),
        (0x38, (GP, 0x38)),
        (0x58, (GP, 0x58)),
        (0x70, (GP, 0x70)),  # beyond the table
        (0x0C, (GP, 0x0C)),  # no LDT
    ],
)
@pytest.mark.parametrize("code", ["ff 28", "ff 18"])
def test_far_transfer_is_checked(code: str, selector: int, fault: tuple[int, int]) -> None:
    """Type, privilege, presence and the table's limit; nothing is pushed (SDM vol. 3, 5.8.1)."""
    driver = machine(selector)
    with pytest.raises(GuestFault) as stop:
        execute(code, protected(), driver)
    assert fault == (stop.value.vector, stop.value.error_code)
    assert {"read"} == {effect.kind for effect in driver.trace}


@pytest.mark.parametrize("selector", [0x40, 0x48, 0x50])
def test_gates_are_not_supported(selector: int) -> None:
    """Call gates, task gates and TSS descriptors are the hypervisor's."""
    with pytest.raises(Suspend) as stop:
        execute("ff 28", protected(), machine(selector))
    assert Unsupported(b"\xff\x28") == stop.value.completion


def test_both_l_and_d_is_no_code_segment_in_long_mode() -> None:
    """L and D are #GP(selector) with EFER.LMA (SDM vol. 3, 5.2.1)."""
    with pytest.raises(GuestFault) as stop:
        execute("ff 28", protected(Mode.CODE64), machine(0x68))
    assert (GP, 0x68) == (stop.value.vector, stop.value.error_code)


@pytest.mark.parametrize(
    ("mode", "code", "selector", "offset"),
    [
        (Mode.CODE32, "ff 28", 0x10, 0x8000),
        (Mode.CODE32, "ff 18", 0x10, 0x8000),
        (Mode.CODE64, "48 ff 28", 0x18, 1 << 47),
        (Mode.CODE64, "48 ff 28", 0x08, 1 << 32),
    ],
)
def test_far_target_is_checked(mode: Mode, code: str, selector: int, offset: int) -> None:
    """Beyond the new segment's limit, or not canonical in a 64-bit one: #GP(0), nothing pushed."""
    driver = machine(selector, offset, 8 if mode is Mode.CODE64 else 4)
    with pytest.raises(GuestFault) as stop:
        execute(code, protected(mode), driver)
    assert (GP, 0) == (stop.value.vector, stop.value.error_code)
    assert {"read"} == {effect.kind for effect in driver.trace}


def test_accessed_bit_is_set_once() -> None:
    """A descriptor whose accessed bit is clear is written, one byte; others are not (SDM vol. 3, 3.4.5.1)."""
    driver = machine(0x60)
    delta = execute("ff 28", protected(), driver)
    assert [Effect("write", GDT + 0x65, 1, 0x9B)] == [e for e in driver.trace if e.kind == "write"]
    assert 0xC09B == delta.segments[CS].attributes


def test_descriptors_are_read_before_the_pointer() -> None:
    """A question to the hypervisor about the table must not come after the device was read."""
    driver = machine(0x08)
    execute("ff 28", protected(), driver)
    places = [effect.address for effect in driver.trace]
    assert [GDT, 0x100, 0x104] == places


@pytest.mark.parametrize(
    ("vcpu", "limit", "attributes"),
    [
        (real(rbx=0x100, rsp=0x100), 0xFFFF, 0x93),
        (real(rbx=0x100, rsp=0x100, cr0=1, cpl=3, rflags=2 | VM), 0xFFFF, 0xF3),
    ],
)
def test_real_and_virtual_8086_code(vcpu: VcpuState, limit: int, attributes: int) -> None:
    """A selector is a base of 16 times it; real mode keeps limit and attributes (SDM vol. 3, 20.1.1)."""
    driver = Driver()
    driver.memory.write(0x10100, 4, 0x2345_0678)
    delta = execute("ff 2f", vcpu, driver)
    assert (0x678, {CS: Segment(0x23450, limit, 0x2345, attributes)}) == (delta.rip, delta.segments)


# --- near ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ff 20", "ff 10", "c3"])
def test_near_target_is_checked(code: str) -> None:
    """A target that is not canonical is #GP(0) and pushes nothing."""
    driver = Driver()
    driver.memory.write(0x100, 8, 1 << 63)
    vcpu = flat(Mode.CODE64, rax=0x100, rsp=0x100 if code == "c3" else 0x1000)
    with pytest.raises(GuestFault) as stop:
        execute(code, vcpu, driver)
    assert (GP, 0) == (stop.value.vector, stop.value.error_code)
    assert ["read"] == [effect.kind for effect in driver.trace]


def test_near_target_within_the_limit() -> None:
    """EIP has to lie within CS outside of 64-bit code (SDM vol. 2, JMP)."""
    driver = Driver()
    driver.memory.write(0x100, 4, 0x1000)
    vcpu = flat(Mode.CODE32, rax=0x100)
    vcpu.segments[CS].limit = 0xFFF
    with pytest.raises(GuestFault):
        execute("ff 20", vcpu, driver)
    vcpu.segments[CS].limit = 0x1000
    assert 0x1000 == execute("ff 20", vcpu, driver).rip


def test_call_relative_to_the_next_instruction() -> None:
    """CALL -16 pushes the return address, and a stack in a device is an access to it."""
    driver = Driver()
    delta = execute("e8 f0 ff ff ff", flat(Mode.CODE64, rip=0x1000, rsp=0x100), driver)
    assert ([Effect("write", 0xF8, 8, 0x1005)], 0xFF5) == (driver.trace, delta.rip)


def test_return_releases_parameters() -> None:
    """RET 16 pops the address and 16 bytes."""
    driver = Driver()
    driver.memory.write(0x100, 8, 0x77)
    delta = execute("c2 10 00", flat(Mode.CODE64, rsp=0x100), driver)
    assert (0x77, {4: 0x118}) == (delta.rip, delta.registers)


def test_call_on_a_bad_stack() -> None:
    """#SS(0) comes before the pointer is read."""
    driver = Driver()
    with pytest.raises(GuestFault) as stop:
        execute("ff 10", flat(Mode.CODE64, rax=0x100, rsp=1 << 63 | 8), driver)
    assert (SS, 0, []) == (stop.value.vector, stop.value.error_code, driver.trace)
    assert [Intent.READ] == [probe.intent for probe in driver.probes]
