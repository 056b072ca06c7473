"""RDMSR, WRMSR and exits of the space MSR, to a device as the x2APIC is one."""

from __future__ import annotations

from typing import cast

import pytest

from mmiod.core.run import Platform, run
from mmiod.device import Device, Region, Register
from mmiod.machine.address_map import Policy
from mmiod.machine.description import DeviceDescription, Placement, UnclaimedDescription
from mmiod.trace.record import ADDRESS, REGISTER, SIZE, STATUS, VALUE
from mmiod.values import (
    READ,
    WRITE,
    Completion,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Fault,
    Forward,
    RawExit,
    Space,
    Values,
    VcpuState,
)
from mmiod.x86 import Mode
from tests.core.guests import finished
from tests.machine.machines import Rig
from tests.x86.states import VM, flat, real

RAX, RCX, RDX = 0, 1, 2
RDMSR, WRMSR = "0f32", "0f30"
BASE, ID, VERSION, TPR, EOI, SPIV, ICR = 0x800, 0x802, 0x803, 0x808, 0x80B, 0x80F, 0x830
GP = Fault(13, 0)


class X2Apic(Device):
    """Some registers of the x2APIC.  Specification: SDM vol. 3, table 10-6."""

    msrs = Region(8 * 0x100)
    identity = Register(8 * 0x02, size=8, access="r", reset=5)
    version = Register(8 * 0x03, size=8, access="r", reset=0x5_0014)
    priority = Register(8 * 0x08, size=8, mask=0xFF)
    end_of_interrupt = Register(8 * 0x0B, size=8, access="w", mask=0)
    spurious = Register(8 * 0x0F, size=8, mask=0x1FF, reset=0xFF)
    command = Register(8 * 0x30, size=8)
    ended = 0

    @end_of_interrupt.on_write
    def _end(self, _value: int) -> None:
        self.ended += 1


@pytest.fixture(name="rig")
def _rig() -> Rig:
    unclaimed = (
        UnclaimedDescription(Space.MSR, 0x10, 1, Policy.ZEROS),
        UnclaimedDescription(Space.MSR, 0x11, 1, Policy.IGNORE),
        UnclaimedDescription(Space.MSR, 0x12, 1, Policy.FORWARD),
    )
    described = DeviceDescription("test/x2apic", at={"msrs": Placement(Space.MSR, BASE)})
    return Rig({"apic": (X2Apic, described)}, unclaimed=unclaimed)


def apic(rig: Rig) -> X2Apic:
    """The device."""
    return cast("X2Apic", rig.machine.hosts["apic"].device)


def execute(rig: Rig, code: str, vcpu: VcpuState) -> Completion:
    """A raw exit."""
    return finished(run(rig.machine, RawExit(0, 1, vcpu, bytes.fromhex(code)), Platform(), 16))


def access(rig: Rig, number: int, direction: Direction, value: int = 0) -> Completion:
    """A decoded exit."""
    data = value.to_bytes(8, "little") if direction == WRITE else b""
    return finished(
        run(rig.machine, DecodedExit(0, 1, Space.MSR, direction, number, 8, data=data), Platform(), 16)
    )


@pytest.mark.parametrize("mode", Mode)
def test_rdmsr(rig: Rig, mode: Mode) -> None:
    """EDX:EAX take the value; the upper halves of RAX and RDX are cleared (SDM vol. 2, RDMSR)."""
    vcpu = flat(mode, rcx=0xFFFF_FFFF_0000_0000 | VERSION, rax=-1 % (1 << 64), rdx=-1 % (1 << 64))
    assert Done(Delta(2, 2, {RAX: 0x5_0014, RDX: 0})) == execute(rig, RDMSR, vcpu)
    assert [(VERSION, 8, 0x5_0014, "version")] == [
        (record[ADDRESS], record[SIZE], record[VALUE], record[REGISTER]) for record in rig.records
    ]


def test_wrmsr(rig: Rig) -> None:
    """The low halves of EDX and EAX are the value."""
    vcpu = flat(Mode.CODE64, rcx=ICR, rax=0xAAAA_AAAA_0000_4500, rdx=0xBBBB_BBBB_0000_0007)
    assert Done(Delta(2, 2)) == execute(rig, WRMSR, vcpu)
    assert 0x7_0000_4500 == apic(rig).command
    vcpu = flat(Mode.CODE64, rcx=ICR)
    assert Done(Delta(2, 2, {RAX: 0x4500, RDX: 7})) == execute(rig, RDMSR, vcpu)


@pytest.mark.parametrize(
    ("code", "number", "value"),
    [
        (RDMSR, 0x801, 0),  # a hole
        (RDMSR, EOI, 0),  # written only
        (WRMSR, VERSION, 0),  # read only
        (WRMSR, EOI, 1),  # not zero
        (WRMSR, TPR, 0x100),  # a reserved bit
        (WRMSR, SPIV, 1 << 32),
        (RDMSR, 0x900, 0),  # nobody's
        (WRMSR, 0x7FF, 0),
    ],
)
def test_general_protection(rig: Rig, code: str, number: int, value: int) -> None:
    """What is not there, or not like that, is #GP(0) and no access (SDM vol. 3, 10.12.1.2-3)."""
    vcpu = flat(Mode.CODE64, rcx=number, rax=value & 0xFFFF_FFFF, rdx=value >> 32)
    assert GP == execute(rig, code, vcpu)
    assert GP == access(rig, number, WRITE if code == WRMSR else READ, value)
    assert 0 == apic(rig).ended
    assert {"unclaimed"} >= {str(record[STATUS]) for record in rig.records}


def test_privilege(rig: Rig) -> None:
    """CPL 0 and real mode only; virtual-8086 mode has CPL 3."""
    assert GP == execute(rig, RDMSR, flat(Mode.CODE64, rcx=ID, cpl=3))
    assert GP == execute(rig, WRMSR, flat(Mode.CODE32, rcx=EOI, cpl=1))
    assert GP == execute(rig, RDMSR, real(rcx=ID, cpl=3, cr0=1, rflags=2 | VM))
    assert [] == rig.records
    assert isinstance(execute(rig, RDMSR, real(rcx=ID)), Done)


def test_neighbours_are_apart(rig: Rig) -> None:
    """Each number is a register of 8 bytes: one is written, the next one keeps its value."""
    assert Values() == access(rig, TPR, WRITE, 0x30)
    assert Values((0x30).to_bytes(8, "little")) == access(rig, TPR, READ)
    assert Values((5).to_bytes(8, "little")) == access(rig, ID, READ)
    assert Values((0xFF).to_bytes(8, "little")) == access(rig, SPIV, READ)
    access(rig, EOI, WRITE, 0)
    assert 1 == apic(rig).ended


def test_policies_where_no_device_is(rig: Rig) -> None:
    """Zeros and ignore answer, forward hands back; without a policy there is no such MSR."""
    assert Values(bytes(8)) == access(rig, 0x10, READ)
    assert Values(b"\xff" * 8) == access(rig, 0x11, READ)
    assert Forward() == access(rig, 0x12, READ)
    assert Forward() == execute(rig, WRMSR, flat(Mode.CODE64, rcx=0x12))
    assert Values() == access(rig, 0x11, WRITE, 7)
    assert GP == access(rig, 0x13, READ)


def test_lock_is_illegal(rig: Rig) -> None:
    """#UD, no access."""
    assert Fault(6) == execute(rig, "f00f32", flat(Mode.CODE64, rcx=ID))
    assert [] == rig.records
