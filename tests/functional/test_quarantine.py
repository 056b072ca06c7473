"""One VM's devices fail while another one boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmiod.trace.record import DEVICE, REGISTER, STATUS, Record
from tests.functional.boots import Boot, booting, console, pc, until_end

pytestmark = pytest.mark.needs("seabios", "unicorn")

FICKLE = """\
from mmiod.device import Device, IrqOutput


class Fickle(Device):
    \"\"\"A serial port that fails at every other access, in turn by an exception and by a loop.\"\"\"

    length = 8
    irq = IrqOutput()
    count = 0

    def read(self, _offset: int, _size: int) -> int:
        type(self).count += 1
        while type(self).count % 2:
            pass
        raise RuntimeError("broken")

    def write(self, _offset: int, _size: int, _value: int) -> None:
        raise RuntimeError("broken")
"""
ISOLATED = ("pit", "pic", "rtc", "fw_cfg", "uart0", "pci")


async def test_other_vm_boots_as_if_nothing_were(tmp_path: Path) -> None:
    """Its trace is equal, access by access, to that of a boot alone, while devices beside it fail."""
    (tmp_path / "fickle.py").write_text(FICKLE)
    broken = pc(uart0={"plugin": "fickle", "at": {"main": "pio:0x3f8"}})
    traces = []
    for number, others in enumerate(([], [Boot(broken, name="other", plugins=tmp_path)])):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with booting(directory, Boot(icount=3), *others) as under_way:
            for other in others:
                await under_way.reaches_its_end(other.name)
                statuses = {
                    record[STATUS] for record in under_way.trace("other") if record[DEVICE] == "uart0"
                }
                assert "quarantined" in statuses
            await under_way.reaches_its_end()
            traces.append(until_end(under_way.trace()))
    assert "No bootable device." in console(traces[0])
    assert traces[0] == traces[1]


async def test_boot_on_devices_in_processes_is_equal_access_by_access(tmp_path: Path) -> None:
    """Interrupts, timers, DMA and the PCI bridge, each in a process of its own: the same trace."""
    machine = pc()
    for device in ISOLATED:
        machine["devices"][device]["isolation"] = "process"
    traces = []
    for name, boot in (("inline", Boot(icount=3)), ("process", Boot(machine, icount=3))):
        directory = tmp_path / name
        directory.mkdir()
        async with booting(directory, boot) as under_way:
            await under_way.reaches_its_end()
            traces.append([_without_register(record) for record in until_end(under_way.trace())])
    assert len(traces[0]) > 3_000
    assert traces[0] == traces[1]


def _without_register(record: Record) -> tuple[object, ...]:
    """Which bank an access meets only the device knows."""
    return (*record[:REGISTER], *record[REGISTER + 1 :])
