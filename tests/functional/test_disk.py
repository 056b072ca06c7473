"""Stock SeaBIOS boots from an image, through the ATA disk, the block backend and the real daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from tests.functional.boots import PATIENCE_S, Boot, Booting, booting, pc

SOURCE = Path(__file__).with_name("disk.S")
TEXT = b"sector 1 speaks; "


def image(directory: Path) -> Path:
    """A disk of 1 MiB: the boot sector, a text for it, nothing else."""
    code, binary, path = directory / "disk.o", directory / "disk.bin", directory / "disk.img"
    subprocess.run(["as", "--32", "-o", str(code), str(SOURCE)], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(code), str(binary)], check=True)
    path.write_bytes(binary.read_bytes() + TEXT.ljust(512, b"\0"))
    with path.open("r+b") as file:
        file.truncate(1 << 20)
    return path


def machine(path: Path, *options: str, read_only: bool = False) -> Boot:
    """The bundled PC with this disk, and options of its hypervisor."""
    tables = pc("pc-disk.toml")
    spec = f"block:{path}"
    tables["devices"]["disk"]["streams"] = {
        "disk": {"kind": "block", "path": str(path), "read_only": True} if read_only else spec
    }
    return Boot(tables, options=options)


async def serial(under_way: Booting, end: str) -> str:
    """What the guest wrote to the serial port, once it ends so."""
    text = ""
    with trio.fail_after(PATIENCE_S):
        while not text.endswith(end):
            await trio.sleep(0.05)
            writes = [record for record in under_way.trace() if record[9] == "uart0" and record[11] == "thr"]
            text = "".join(chr(record[8]) for record in writes)
    return text


@pytest.mark.parametrize(
    "accelerator",
    [
        pytest.param("unicorn", marks=pytest.mark.needs("unicorn")),
        pytest.param("kvm", marks=pytest.mark.needs("kvm")),
    ],
)
@pytest.mark.needs("gcc", "seabios")
async def test_firmware_boots_from_the_image(tmp_path: Path, accelerator: str) -> None:
    """SeaBIOS finds the disk by IDENTIFY DEVICE, loads its first sector and runs it.

    What that reads and writes by INT 13h is what is in the image.
    """
    path = image(tmp_path)
    async with booting(tmp_path, machine(path, "--accel", accelerator)) as under_way:
        shown = await serial(under_way, "written")
        log = under_way.log()
    assert "ata0-0: mmiod disk ATA-6 Hard-Disk (1 MiBytes)" in log
    assert "Booting from Hard Disk..." in log
    assert "boot sector runs; sector 1 speaks; written" == shown
    assert TEXT.ljust(512, b"\0") == path.read_bytes()[1024:1536]


@pytest.mark.needs("gcc", "seabios", "unicorn")
async def test_image_that_is_not_to_be_written_stays_as_it_is(tmp_path: Path) -> None:
    """The guest's write fails by the BIOS's own error."""
    path = image(tmp_path)
    before = path.read_bytes()
    async with booting(tmp_path, machine(path, read_only=True)) as under_way:
        shown = await serial(under_way, "failed")
    assert "boot sector runs; sector 1 speaks; failed" == shown
    assert before == path.read_bytes()
