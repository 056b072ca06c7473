"""Stock QEMU with a stock Linux, whose devices' daemon executes itself anew meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.functional.stock import MEMORY, PATIENCE_S, Qemu, kernel, running
from tests.functional.upgrades import serving

pytestmark = pytest.mark.needs("stock")

UPGRADES = 2
SERIAL = {"plugin": "pci/uart", "slot": "00:10.0", "streams": {"serial": "unix:serial"}}
SCRIPT = """\
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo "hello from the guest" >&3
while read -r line <&3; do
    [ "$line" = end ] && break
    echo "guest heard: $line" >&3
done
seq 1 20000 >&3
dmesg -l err,warn,crit,alert,emerg | grep -i "tty\\|serial\\|00:10.0\\|vfio" && echo "kernel complains"
grep ttyS1 /proc/interrupts
"""


async def test_a_stock_linux_keeps_its_uart(tmp_path: Path) -> None:
    """Text goes both ways before, between and after; what the guest sends meanwhile is complete."""
    console = tmp_path / "console"
    booted = (
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", f"file:{console}"),
        *kernel(tmp_path, SCRIPT),
    )
    async with serving(tmp_path, {"uart": SERIAL}, log_level="debug") as served:
        arguments = await served.qemu_arguments(MEMORY)
        async with (
            running(tmp_path, *booted, *arguments) as qemu,
            await trio.open_unix_socket(str(tmp_path / "serial")) as terminal,
        ):
            lines = Lines(terminal, qemu)
            assert "hello from the guest" == await lines.next()
            for text in ("one", "x" * 200, *(f"turn {turn}" for turn in range(UPGRADES - 2))):
                await terminal.send_all(f"{text}\n".encode())
                assert f"guest heard: {text}" == await lines.next()
            await terminal.send_all(b"end\n")
            for number in range(1, 20001):
                if number == 1000:
                    await served.upgrade()
                got = await lines.next()
                if got != str(number):
                    print("AT", number, got, await lines.next(), await lines.next(), await served.ctl("devices"))
                    break
            assert 0 == await qemu.ends()
            assert "" == qemu.errors.read_text()
        assert UPGRADES + 1 == len(served.events("daemon_upgraded"))
        assert 1 == len(served.events("function_attached"))
        assert not served.events("message_refused")
        assert "kernel complains" not in console.read_text()


class Lines:
    """What the guest sends, line by line."""

    def __init__(self, terminal: trio.SocketStream, qemu: Qemu) -> None:
        self.terminal, self.qemu, self.rest = terminal, qemu, b""

    async def next(self) -> str:
        """The next one."""
        with trio.fail_after(PATIENCE_S):
            while b"\n" not in self.rest:
                more = await self.terminal.receive_some()
                assert more, self.qemu.errors.read_text()
                self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()
