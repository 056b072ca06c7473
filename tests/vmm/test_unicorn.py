from __future__ import annotations

import pytest

from mmiod.values import Direction, Space
from mmiod.vmm.accelerator import Halted, Paused
from mmiod.vmm.guest import GuestMemory
from tests.vmm.fake import GDT, GDTR, firmware
from tests.vmm.test_vcpu import FLAT

pytestmark = pytest.mark.needs("unicorn")


def cpu(code: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 - its module needs unicorn
    """A vCPU without a daemon, whose ports read 0."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415

    return UnicornCpu(GuestMemory.create(1, firmware(code)), zeros)


def zeros(_space: Space, direction: Direction, _address: int, size: int, count: int, _data: bytes) -> bytes:
    """Ports that read 0."""
    return bytes(size * count) if direction is Direction.READ else b""


@pytest.mark.parametrize("limit", [1, 2, 17, 99])
def test_the_meter_stops_before_the_instruction_at_the_limit(limit: int) -> None:
    """`limit` instructions run, not one more; going on counts the next ones once."""
    guest = cpu("43" * 100 + "f4")  # behind the jump: inc bx; ...; hlt
    guest.meter.limit = limit

    assert Paused() == guest.run()
    assert (limit, limit - 1) == (guest.meter.count, guest.state().gpr[3])

    guest.meter.limit = 1000

    assert Halted() == guest.run()
    assert (102, 100) == (guest.meter.count, guest.state().gpr[3])


def test_the_window_opens_where_if_is_set() -> None:
    """The meter stops at the first instruction behind STI, in whose shadow nothing is taken."""
    guest = cpu("90 90 fb 90 90 f4")
    guest.meter.window = 1

    assert Paused() == guest.run()
    assert (3, True, False) == (guest.registers.rip, guest.registers.shadow, guest.interruptible)

    guest.meter.window, guest.meter.limit = 0, guest.meter.count + 1

    assert Paused() == guest.run()
    assert (4, False, True) == (guest.registers.rip, guest.registers.shadow, guest.interruptible)


def test_a_load_of_ss_casts_a_shadow() -> None:
    """So that SS:SP change together."""
    guest = cpu("fb 90 8ed0 90 f4")
    guest.meter.limit = 4  # jmp, sti, nop, mov ss, ax

    guest.run()

    assert (4, True) == (guest.registers.rip, guest.registers.shadow)


def test_a_reset_forgets_everything_but_memory() -> None:
    """Registers, hidden segment state, tables and mode are those of a new vCPU."""
    guest = cpu("b80012 8ed8 c606000055 2e0f01160000 2e0f011e0000 0f20c0 0c01 0f22c0 f4")
    fresh = guest.state()

    assert Halted() == guest.run()
    assert fresh != guest.state()

    guest.reset()

    assert fresh == guest.state()
    assert b"\x55" == guest.memory.read(0x12000, 1)


def test_a_reset_forgets_translations() -> None:
    """The page at 0x5000 was mapped to 0x6000; after a reset it is itself again."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415

    # real mode: read [0x5000] if [0x600] is set; else the same with paging (cr3 = 0x1000)
    code = "803e000600 7404 a00050 f4" + FLAT
    flat = "66b81000 8ed8 b800100000 0f22d8 0f20c0 0d00000080 0f22c0 a000500000 f4"
    memory = GuestMemory.create(1, firmware(code, at_100=flat, at_7f0=GDTR, at_800=GDT))
    for place, entry in {0x1000: 0x2003, 0x2000 + 4 * 0x05: 0x6003, 0x2000 + 4 * 0xF0: 0xF0003}.items():
        memory.write(place, entry.to_bytes(4, "little"))
    memory.write(0x5000, b"\x55")
    memory.write(0x6000, b"\x66")
    guest = UnicornCpu(memory, zeros)

    assert Halted() == guest.run()
    assert 0x66 == guest.state().gpr[0] & 0xFF

    memory.write(0x600, b"\1")
    guest.reset()

    assert Halted() == guest.run()
    assert 0x55 == guest.state().gpr[0] & 0xFF


def test_code_that_was_overwritten_runs_as_written_after_a_reset() -> None:
    """A device's write is not seen by Unicorn; a reset makes it forget what it translated."""
    memory = GuestMemory.create(1, firmware("43 f4"))
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415

    guest = UnicornCpu(memory, zeros)
    guest.run()
    memory.write(0xF0000, b"\x4b")  # dec bx
    guest.reset()
    guest.run()

    assert 0xFFFF == guest.state().gpr[3]
