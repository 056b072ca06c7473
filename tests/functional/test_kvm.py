"""Stock SeaBIOS on KVM: the hypervisor changes nothing of what devices and firmware say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmiod.machine.machine import Machine
from mmiod.values import Space
from mmiod.vmm.slot import OFFERED
from tests.functional.boots import LAST_LINE, Boot, Booting, booting, pc, serving, until_end
from tests.functional.test_acpi import found

pytestmark = pytest.mark.needs("seabios", "kvm")

KVM = ("--accel", "kvm")
CONFIGURED = ("PCI:", "Found ", "RamSize", "qemu/e820", "e820 map", "  ", "PIIX3", "Using pmtimer")
"""How the lines of the firmware's log begin that are about memory and functions."""


def configured(log: str) -> list[str]:
    """The lines about memory and functions."""
    return [line for line in log.splitlines() if line.startswith(CONFIGURED)]


def placed(machine: Machine) -> list[tuple[str, int, int, str]]:
    """Everything that is claimed: space, first and last address, device."""
    return [
        (space.name, claimed.start, claimed.end, claimed.claim.host.name)
        for space in Space
        for claimed in machine.table(space).ranges
        if claimed.claim is not None
    ]


@pytest.mark.needs("unicorn")
async def test_firmware_configures_the_same_machine_on_kvm_and_on_unicorn(tmp_path: Path) -> None:
    """Functions, their BARs as placed, the RAM lines of the log, ACPI tables in RAM."""
    kvm = Boot(pc("pc-ecam.toml"), memory_mib=96, name="kvm", options=KVM)
    unicorn = Boot(pc("pc-ecam.toml"), memory_mib=96, name="unicorn")
    async with booting(tmp_path, kvm, unicorn) as under_way:
        logs = [configured(await under_way.reaches_its_end(vm)) for vm in ("kvm", "unicorn")]
        machines = [under_way.daemon.machines[vm] for vm in ("kvm", "unicorn")]
        maps = [placed(machine) for machine in machines]
        acpi = [found(machine.memory) for machine in machines]
    assert logs[0] == logs[1]
    assert any("000000000" in line and "1 RAM" in line for line in logs[0])
    assert any("init bdf=00:03.0 id=1234:6d6d" in line for line in logs[0])
    assert maps[0] == maps[1]
    assert acpi[0] == acpi[1]
    assert ("MMIO", "testdev") in {(space, device) for space, _, _, device in maps[0]}


@pytest.mark.skipif(not OFFERED, reason="x86-64 only")
@pytest.mark.parametrize("accelerator", ["kvm", pytest.param("unicorn", marks=pytest.mark.needs("unicorn"))])
async def test_firmware_says_the_same_without_messages(tmp_path: Path, accelerator: str) -> None:
    """By message and through shared memory: the log, byte by byte; fewer accesses come to the daemon."""
    boots = [
        Boot(name=transport, options=("--accel", accelerator, "--transport", transport))
        for transport in ("socket", "slots")
    ]
    async with booting(tmp_path, *boots) as under_way:
        logs = [await under_way.reaches_its_end(boot.name) for boot in boots]
        by_message, in_memory = (len(until_end(under_way.trace(boot.name))) for boot in boots)
    assert logs[0] == logs[1]
    assert in_memory < by_message


async def test_firmware_boots_with_the_kernels_interrupt_controllers(tmp_path: Path) -> None:
    """Its timer ticks through KVM's 8259, the UART's and PCI's lines lead there, HLT is KVM's."""
    boot = Boot(pc("pc-irqchip.toml"), options=(*KVM, "--irqchip", "kernel"))
    async with booting(tmp_path, boot) as under_way:
        log = await under_way.reaches_its_end()
        machine = under_way.daemon.machines["vm"]
        flights = under_way.daemon.flights("vm")
    assert "Found 4 PCI devices" in log
    assert "Found 1 cpu(s) max supported 1 cpu(s)" in log
    assert {f"hypervisor.{line}" for line in (0, 1, 4, 8, 9, 10, 11, 12)} <= set(machine.wires.sinks)
    assert not machine.interrupts
    assert flights is not None
    assert {"DecodedExit", "TickExit"} >= set(flights.totals.exits)  # a tick makes room for posted writes


@pytest.mark.parametrize("irqchip", ["mmiod", "kernel"])
async def test_a_boot_on_kvm_goes_on_in_another_daemon(tmp_path: Path, irqchip: str) -> None:
    """In real time, too, devices are saved in the middle and restored elsewhere, their lines with them."""
    machine = pc("pc-irqchip.toml" if irqchip == "kernel" else "pc.toml")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    move = ("--irqchip", irqchip, "--hand-over", f"40:{there}/second.exit:second")
    boot = Boot(machine, options=(*KVM, *move))
    async with serving(there, Boot(machine, name="second")) as second, booting(here, boot) as first:
        log = await Booting(second, first.hypervisors).reaches_its_end("second")
        begin = first.log()
    assert "SeaBIOS (version" in begin
    assert LAST_LINE not in begin
    assert "Found 4 PCI devices" in begin + log
