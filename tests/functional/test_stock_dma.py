"""Stock QEMU, with memory that it shares and with memory that only messages reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.functional.stock import PATIENCE_S, Qemu, running, serving
from tests.functional.test_stock_qemu import QTEST, config_read, config_write

EDU = {"plugin": "pci/edu", "slot": "00:10.0"}
BAR = 0xE000_0000
BUFFER = 0x40000
TO_RAM = 3
LENGTH = 4096

pytestmark = pytest.mark.needs("stock")


async def dma(qemu: Qemu, source: int, destination: int, command: int) -> None:
    """Let the function move 4 KiB, and wait until it says that it has."""
    for offset, value in ((0x80, source), (0x88, destination), (0x90, LENGTH), (0x98, command)):
        await qemu.qtest(f"writeq {BAR + offset:#x} {value:#x}")
    with trio.fail_after(PATIENCE_S):
        while int(await qemu.qtest(f"readq {BAR + 0x98:#x}"), 16) & 1:
            pass


@pytest.mark.parametrize("isolation", ["inline", "process"])
@pytest.mark.parametrize("posted", [True, False], ids=["posted", "waited for"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "by message"])
async def test_edu_moves_data(tmp_path: Path, shared: bool, posted: bool, isolation: str) -> None:
    """Into its buffer and out again, with the same bytes, while its registers answer.

    Where writes are waited for, a server that asked for memory within one would never be answered.
    """
    async with serving(tmp_path, {"edu": {**EDU, "isolation": isolation}}) as server:
        *memory, option, device = await server.arguments()
        if not posted:
            device = device.removesuffix("}") + ', "x-no-posted-writes": true}'
        given = memory if shared else ["-m", "256M"]
        async with running(tmp_path, *QTEST, *given, option, device) as qemu:
            assert 0x11E8_1234 == await config_read(qemu, 0x10, 0)
            await config_write(qemu, 0x10, 0x10, BAR)
            await config_write(qemu, 0x10, 0x04, 6)
            content = os.urandom(LENGTH)
            await qemu.qtest(f"write 0x100000 {LENGTH:#x} 0x{content.hex()}")
            await dma(qemu, 0x100000, BUFFER, 1)
            await dma(qemu, BUFFER, 0x200000, TO_RAM)
            found = await qemu.qtest(f"read 0x200000 {LENGTH:#x}")
            assert f"0x{content.hex()}" == found.strip()
            sharing = server.functions["edu"].maps.memory
            assert shared == sharing.holds(0x100000, LENGTH)
            assert shared != sharing.by_message(0x100000, LENGTH)
        assert not server.of("message_refused")
        assert not server.of("access_expired")
