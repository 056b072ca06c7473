"""vCPU states to start from, and running a plan to its end."""

from __future__ import annotations

from mmiod.values import CS, Delta, Segment, VcpuState
from mmiod.x86 import GuestFault, Mode, Plan, decode, mode_of
from tests.x86.oracle import Driver

DATA = 0xC093
CODE = {Mode.CODE16: 0x009B, Mode.CODE32: 0xC09B, Mode.CODE64: 0xA09B}
PE, AM, WP, PG = 1, 1 << 18, 1 << 16, 1 << 31
VM, AC, RF, DF, TF, ZF, CF = 1 << 17, 1 << 18, 1 << 16, 1 << 10, 1 << 8, 1 << 6, 1
LMA = 0x500


def flat(mode: Mode, **registers: object) -> VcpuState:
    """Protected (or long) mode with flat segments; `registers` by name."""
    segments = [Segment(0, 0xFFFF_FFFF, 8, DATA) for _ in range(6)]
    segments[CS].attributes = CODE[mode]
    state = VcpuState(segments=segments, cr0=PE, efer=LMA if mode is Mode.CODE64 else 0)
    return with_registers(state, **registers)


def real(**registers: object) -> VcpuState:
    """Real mode: every segment at 0x10000 with a limit of 64 KiB."""
    segments = [Segment(0x10000, 0xFFFF, 0x1000, 0x93) for _ in range(6)]
    return with_registers(VcpuState(segments=segments), **registers)


def with_registers(state: VcpuState, **registers: object) -> VcpuState:
    """Set registers by their 64-bit names, or a field of the state."""
    names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
    for name, value in registers.items():
        if name in names:
            assert isinstance(value, int)
            state.gpr[names.index(name)] = value
        else:
            setattr(state, name, value)
    return state


def plan_of(code: str, mode: Mode = Mode.CODE64) -> Plan:
    """The plan of bytes in hex."""
    plan = decode(bytes.fromhex(code), mode)
    assert isinstance(plan, Plan), plan
    return plan


def execute(code: str, vcpu: VcpuState, driver: Driver | None = None) -> Delta:
    """Decode in the mode of `vcpu`, and run."""
    return (driver or Driver()).drive(plan_of(code, mode_of(vcpu)).run(vcpu))


def fault_of(code: str, vcpu: VcpuState) -> tuple[int, int | None] | None:
    """(vector, error code) of the fault that an instruction raises before any effect, if one."""
    driver = Driver()
    try:
        execute(code, vcpu, driver)
    except GuestFault as fault:
        assert [] == driver.trace
        return fault.vector, fault.error_code
    return None
