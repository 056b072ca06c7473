"""Stock SeaBIOS boots from our virtio disk on the exit protocol's PCI bus: one function, two homes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.boots import Boot, booting, pc
from tests.functional.test_disk import TEXT, image, serial


@pytest.mark.needs("gcc", "seabios", "unicorn")
async def test_firmware_boots_from_the_image(tmp_path: Path) -> None:
    """Its modern virtio driver finds the disk; what is read and written by INT 13h is in the image."""
    path = image(tmp_path)
    tables = pc()
    tables["devices"]["blk"] = {
        "plugin": "virtio/blk",
        "slot": "00:05.0",
        "streams": {"image": f"block:{path}"},
    }
    async with booting(tmp_path, Boot(tables)) as under_way:
        shown = await serial(under_way, "written")
        log = under_way.log()
    assert "found virtio-blk" in log
    assert "boot sector runs; sector 1 speaks; written" == shown
    assert TEXT.ljust(512, b"\0") == path.read_bytes()[1024:1536]
