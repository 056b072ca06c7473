"""examples/kvm-vmm.c: it builds everywhere, and boots stock firmware where there is KVM."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import trio
from attrs import define

from tests.functional.boots import FIRMWARE, LAST_LINE, PATIENCE_S, ROOT, Boot, booting, pc
from tests.functional.guests import image

SOURCE = ROOT / "examples" / "kvm-vmm.c"
STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(ROOT / "include"))


@define
class KvmBoot(Boot):
    """A boot by the example."""

    def command(self, directory: Path) -> list[str]:
        """The hypervisor's."""
        socket = str(directory / f"{self.name}.exit")
        return [str(directory / "kvm-vmm"), socket, self.name, str(FIRMWARE), str(self.memory_mib)]


def build(directory: Path) -> Path:
    """Compile with every warning an error; the program."""
    program = directory / "kvm-vmm"
    subprocess.run(["gcc", *STRICT, str(SOURCE), "-o", str(program)], check=True)
    return program


def rom(directory: Path, text: str) -> Path:
    """A guest of ours as firmware for it, of which the last 64 KiB are entered."""
    path = directory / "guest.rom"
    path.write_bytes(bytes(64 << 10) + image(text))
    return path


@pytest.mark.needs("gcc")
def test_example_builds_and_stays_small(tmp_path: Path) -> None:
    """380 lines are a hypervisor; without arguments it says what it wants."""
    refused = subprocess.run([build(tmp_path)], capture_output=True, text=True, check=False)

    assert (2, "kvm-vmm: usage: kvm-vmm EXIT_SOCKET VM FIRMWARE [MIB]\n") == (
        refused.returncode,
        refused.stderr,
    )
    assert len(SOURCE.read_text().splitlines()) <= 380


def test_guide_quotes_the_example() -> None:
    """Each piece of C in docs/attach.md is in the example as it stands."""
    pieces = re.findall(
        r"^```c\n(.*?)^```", (ROOT / "docs" / "attach.md").read_text(), re.DOTALL | re.MULTILINE
    )
    source = SOURCE.read_text()

    assert len(pieces) >= 5
    assert [] == [piece for piece in pieces if piece not in source]


@pytest.mark.needs("gcc", "kvm", "seabios")
async def test_firmware_boots_to_its_end(tmp_path: Path) -> None:
    """SeaBIOS on KVM finds the memory and functions of the bundled PC, all of them in mmiod."""
    build(tmp_path)
    async with booting(tmp_path, KvmBoot(memory_mib=96)) as under_way:
        log = await under_way.reaches_its_end()
    assert "len 0x0000000006000000 [RAM]" in log
    assert "Found 4 PCI devices" in log


@pytest.mark.needs("gcc", "kvm", "seabios")
async def test_reset_that_a_device_asks_for_starts_the_guest_again(tmp_path: Path) -> None:
    """Firmware that has nothing to boot resets the machine by the i8042: it begins anew."""
    build(tmp_path)
    machine = pc()
    machine["devices"]["fw_cfg"]["config"]["files"]["etc/boot-fail-wait"] = {"integer": 1}
    async with booting(tmp_path, KvmBoot(machine)) as under_way:
        log = ""
        with trio.fail_after(PATIENCE_S):
            while log.count(LAST_LINE) < 2:
                log = await under_way.reaches_its_end()
                await trio.sleep(0.05)
    assert log.count("SeaBIOS (version") >= 2
