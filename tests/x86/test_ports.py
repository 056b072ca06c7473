"""Who may use a port: CPL, IOPL and the TSS's bitmap (SDM vol. 1, 19.5)."""

from __future__ import annotations

import pytest

from mmiod.values import Segment, VcpuState
from mmiod.x86 import GuestFault, Mode, ReadSystem
from tests.x86.oracle import Driver, Memory
from tests.x86.states import VM, execute, flat, plan_of, real

TSS, LIMIT, MAP = 0x8000, 0x200, 0x80


def user(iopl: int = 0, *, attributes: int = 0x8B, limit: int = LIMIT) -> VcpuState:
    """CPL 3 with a TSS at 0x8000."""
    vcpu = flat(Mode.CODE32, cpl=3, rflags=2 | iopl << 12)
    vcpu.tr = Segment(TSS, limit, 0x28, attributes)
    return vcpu


def with_map(*denied: int, base: int = MAP) -> Driver:
    """Memory with a TSS whose bitmap denies these ports and allows the others."""
    memory = Memory()
    memory.write(TSS + 0x66, 2, base)
    memory.write(TSS + base, LIMIT - base + 2, sum(1 << port for port in denied))
    return Driver(memory)


def port_effects(driver: Driver) -> list[str]:
    """What happened on ports."""
    return [effect.kind for effect in driver.trace if effect.kind in ("in", "out")]


@pytest.mark.parametrize("code", ["e4 70", "e6 70", "ec", "ee", "6c", "6e"])
@pytest.mark.parametrize(("denied", "allowed"), [((), True), ((0x70,), False), ((0x6F, 0x71), True)])
def test_bitmap_decides_above_iopl(code: str, denied: tuple[int, ...], allowed: bool) -> None:
    """A set bit is #GP(0) and no access; string instructions ask as well."""
    vcpu, driver = user(), with_map(*denied)
    vcpu.gpr[2] = 0x70
    if allowed:
        execute(code, vcpu, driver)
        assert 1 == len(port_effects(driver))
    else:
        with pytest.raises(GuestFault) as fault:
            execute(code, vcpu, driver)
        assert (13, 0) == (fault.value.vector, fault.value.error_code)
        assert [] == port_effects(driver)


@pytest.mark.parametrize("denied", [0x77, 0x78, 0x79, 0x7A])
def test_every_byte_of_the_access_is_asked(denied: int) -> None:
    """A dword at 0x77 needs the bits of four ports, over a byte of the bitmap."""
    with pytest.raises(GuestFault):
        execute("e5 77", user(), with_map(denied))


def test_iopl_needs_no_bitmap() -> None:
    """CPL <= IOPL, and real mode, read no TSS."""
    for vcpu in (user(iopl=3), real(), flat(Mode.CODE64)):
        driver = Driver()
        execute("e4 70", vcpu, driver)
        assert ["in"] == [effect.kind for effect in driver.trace]


def test_virtual_8086_mode_asks_the_bitmap_whatever_iopl_is() -> None:
    """In v86 mode IOPL does not matter to IN and OUT (SDM vol. 3, 20.2.8.1)."""
    vcpu = real(cpl=3, cr0=1, rflags=2 | VM | 3 << 12)
    vcpu.tr = user().tr
    with pytest.raises(GuestFault):
        execute("e4 70", vcpu, with_map(0x70))


@pytest.mark.parametrize(
    "vcpu",
    [
        user(attributes=0x83),
        user(attributes=0),
        user(limit=0x66),
        user(limit=MAP + 0xE),
        user(attributes=0x82),
    ],
)
def test_without_a_bitmap_nothing_is_allowed(vcpu: VcpuState) -> None:
    """A 16-bit TSS has none; a limit may end before it, or in it (two bytes are always read)."""
    with pytest.raises(GuestFault) as fault:
        execute("e4 70", vcpu, with_map())
    assert (13, 0) == (fault.value.vector, fault.value.error_code)


def test_tss_is_read_as_the_processor() -> None:
    """The bitmap is supervisor memory: the steps say so."""
    run = plan_of("e4 70", Mode.CODE32).run(user())
    assert ReadSystem(TSS + 0x66, 2) == next(run)
    assert ReadSystem(TSS + MAP + 0xE, 2) == run.send(MAP)


def test_repeated_port_strings_ask_once() -> None:
    """TSS and port stay the same during the batch."""
    vcpu, driver = user(), with_map()
    vcpu.gpr[1], vcpu.gpr[2], vcpu.gpr[7] = 4, 0x70, 0x100
    execute("f3 6c", vcpu, driver)
    assert ["read", "read", *["in", "write"] * 4] == [effect.kind for effect in driver.trace]
