"""Stock QEMU, by qtest and with a stock Linux, on PCI functions that are Python files here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.functional.boots import dial
from tests.functional.stock import (
    PATIENCE_S,
    Qemu,
    controlling,
    interrupts,
    kernel,
    running,
    serving,
    stock,
)

UART = {"plugin": "pci/uart", "slot": "00:10.0"}
EXPRESS = {"plugin": "pci/testdev_express", "slot": "00:11.0"}
PVPANIC = {"plugin": "pci/pvpanic", "slot": "00:12.0"}
SERIAL = {**UART, "streams": {"serial": "unix:serial"}}
QTEST = ("-machine", "q35", "-accel", "qtest", "-qtest", "stdio", "-qtest-log", "none")

pytestmark = pytest.mark.needs("stock")


async def config_write(qemu: Qemu, device: int, offset: int, value: int) -> None:
    """A doubleword of configuration space, by mechanism #1."""
    await qemu.qtest(f"outl 0xcf8 {1 << 31 | device << 11 | offset:#x}")
    await qemu.qtest(f"outl 0xcfc {value:#x}")


async def config_read(qemu: Qemu, device: int, offset: int) -> int:
    """A doubleword of configuration space."""
    await qemu.qtest(f"outl 0xcf8 {1 << 31 | device << 11 | offset:#x}")
    return int(await qemu.qtest("inl 0xcfc"), 16)


@pytest.mark.parametrize("isolation", ["inline", "process"])
async def test_qtest_drives_a_uart(tmp_path: Path, isolation: str) -> None:
    """Its ports answer where the BAR was put, its level reaches the IOAPIC and leaves it again."""
    async with (
        serving(tmp_path, {"uart": {**UART, "isolation": isolation}}) as server,
        running(tmp_path, *QTEST, *await server.arguments()) as qemu,
    ):
        assert 0x0002_1B36 == await config_read(qemu, 0x10, 0)
        await config_write(qemu, 0x10, 0x10, 0xC000)
        await config_write(qemu, 0x10, 0x04, 1)
        await qemu.qtest("outb 0xc007 0x5a")
        assert 0x5A == int(await qemu.qtest("inb 0xc007"), 16)
        assert 0x60 == int(await qemu.qtest("inb 0xc005"), 16)
        await qemu.qtest("irq_intercept_in ioapic")
        await qemu.qtest("outb 0xc001 0x02")  # THR empty
        raised = await interrupt(qemu, "IRQ raise")
        assert 0xC2 & 0x0F == int(await qemu.qtest("inb 0xc002"), 16) & 0x0F
        assert raised.replace("raise", "lower") == await interrupt(qemu, "IRQ lower")


async def interrupt(qemu: Qemu, what: str) -> str:
    """Wait for a level of an interrupt line: QEMU looks at eventfds between two commands."""
    with trio.fail_after(PATIENCE_S):
        while not (found := [line for line in qemu.lines if line.startswith(what)]):
            await qemu.qtest("inb 0xc005")
    return found[0]


async def test_qtest_drives_memory_bars_and_a_large_configuration_space(tmp_path: Path) -> None:
    """Posted writes and reads of a PCI Express function arrive in order; its status reads back."""
    async with (
        serving(tmp_path, {"express": EXPRESS}) as server,
        running(tmp_path, *QTEST, *await server.arguments()) as qemu,
    ):
        assert 0x6D6E_1234 == await config_read(qemu, 0x11, 0)
        await config_write(qemu, 0x11, 0x10, 0xE000_0000)
        await config_write(qemu, 0x11, 0x04, 6)
        for vector in (1, 3):
            await qemu.qtest(f"writel 0xe0000000 {vector}")
        assert 0b1010 == int(await qemu.qtest("readl 0xe0000004"), 16)
        await qemu.qtest("writel 0xe0000004 2")
        assert 0b1000 == int(await qemu.qtest("readl 0xe0000004"), 16)
        assert 0 == server.functions["express"].host.statistics.refused


@pytest.mark.parametrize("isolation", ["inline", "process"])
async def test_a_reset_of_the_guest(tmp_path: Path, isolation: str) -> None:
    """QEMU resets the function, which keeps its interrupt and decodes nothing until it is placed anew."""
    uart = {**UART, "isolation": isolation}
    qmp = ("-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off", "-action", "reboot=reset")
    async with (
        serving(tmp_path, {"uart": uart}) as server,
        running(tmp_path, *QTEST, *qmp, *await server.arguments()) as qemu,
    ):
        for _ in range(2):
            await config_write(qemu, 0x10, 0x10, 0xC000)
            await config_write(qemu, 0x10, 0x04, 1)
            assert 0 == int(await qemu.qtest("inb 0xc007"), 16)
            await qemu.qtest("outb 0xc007 0x5a")
            await qemu.qtest("outb 0xc001 0x02")
            assert 0x5A == int(await qemu.qtest("inb 0xc007"), 16)  # behind the writes, which are posted
            assert server.functions["uart"].interrupts.level
            async with controlling(tmp_path / "qmp") as control:
                await control.ask("system_reset")
                await control.sees("RESET")
            assert 0xFF == int(await qemu.qtest("inb 0xc007"), 16)
            assert not server.functions["uart"].interrupts.level
        assert {(0, 0), (3, 0)} == set(server.functions["uart"].interrupts.eventfds)


async def test_a_second_qemu_is_refused_at_once(tmp_path: Path) -> None:
    """It ends with words; the first one and its device do not notice."""
    async with serving(tmp_path, {"uart": UART}) as server:
        arguments = await server.arguments()
        (tmp_path / "second").mkdir()
        async with running(tmp_path, *QTEST, *arguments) as first:
            assert 0x0002_1B36 == await config_read(first, 0x10, 0)
            async with running(tmp_path / "second", *QTEST, *arguments) as second:
                assert 1 == await second.ends()
                assert "resource busy" in second.errors.read_text().lower()
            assert 0x0002_1B36 == await config_read(first, 0x10, 0)


SCRIPT = """\
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo "hello from the guest" >&3
while read -r line <&3; do
    [ "$line" = end ] && break
    echo "guest heard: $line" >&3
done
dmesg | grep 00:10.0
cat /sys/bus/pci/devices/0000:00:10.0/driver/uevent /sys/bus/pci/devices/0000:00:10.0/class
ls -l /sys/bus/pci/devices/0000:00:10.0/driver
echo 1 > /sys/bus/pci/devices/0000:00:12.0/enable
read -r start rest < /sys/bus/pci/devices/0000:00:12.0/resource
devmem $start 8 1
grep ttyS1 /proc/interrupts
"""


async def test_a_stock_linux_has_our_uart(tmp_path: Path) -> None:
    """Its own serial driver binds; text goes both ways by interrupts.

    Meanwhile the plugin is reloaded three times.  The same guest reports a panic through pvpanic.
    """
    devices = {"uart": SERIAL, "pvpanic": PVPANIC}
    console = tmp_path / "console"
    booted = (
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", f"file:{console}"),
        *kernel(tmp_path, SCRIPT),
    )
    async with serving(tmp_path, devices) as server:
        uart = server.functions["uart"]
        async with running(tmp_path, *booted, *await server.arguments()) as qemu:
            terminal = await dial(tmp_path / "serial")
            assert "hello from the guest\n" == await line(terminal, console, qemu)
            for text in ("one", "x" * 200, "three"):
                await server.daemon.reloader.reload("uart")
                await terminal.send_all(f"{text}\n".encode())
                assert f"guest heard: {text}\n" == await line(terminal, console, qemu)
            await terminal.send_all(b"end\n")
            assert 0 == await qemu.ends()
            await terminal.aclose()
        await server.wait_for("function_detached", 2)  # behind the guest's last writes, which are posted
        seen = console.read_text()
        assert "is a 16550A" in seen
        assert "DRIVER=serial" in seen or "drivers/serial" in seen
        assert "0x070002" in seen
        # QEMU takes each access to a BAR for an acknowledgement: a level that stays is told again.
        assert 0 < interrupts(seen, "ttyS1") <= uart.interrupts.told
        assert [{"device": "pvpanic", "events": 1}] == server.of("guest_panicked")
        assert not server.of("message_refused")
        assert 4 == uart.host.generation
        assert not uart.maps.memory.slots


PLUGGED = """\
echo "waiting for it"
bound=/sys/bus/pci/drivers/serial/0000:00:10.0
for turn in 1 2 3; do
    # Bound, the driver takes /dev/ttyS1 away and makes it anew: what is written meanwhile goes to a file.
    until readlink /sys/class/tty/ttyS1 | grep -q 00:10.0 && [ -c /dev/ttyS1 ]; do sleep 0.1; done
    echo "turn $turn" > /dev/ttyS1
    while [ -e $bound ]; do sleep 0.1; done
    echo "gone $turn"
done
"""


async def test_a_stock_linux_is_given_our_uart_and_loses_it_again(tmp_path: Path) -> None:
    """Hot-plug and unplug by QMP, twice on the same daemon: the driver binds and text comes out."""
    console = ("-machine", "pc", "-accel", "tcg", "-cpu", "max", "-serial", "stdio")
    booted = (*console, "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off", *kernel(tmp_path, PLUGGED))
    async with serving(tmp_path, {"uart": SERIAL}) as server:
        *memory, _, device = await server.arguments()
        properties = json.loads(device)
        async with running(tmp_path, *booted, *memory) as qemu:
            while "waiting for it" not in await qemu.line():
                pass
            terminal = await dial(tmp_path / "serial")
            async with controlling(tmp_path / "qmp") as control:
                for turn in (1, 2):
                    await control.ask("device_add", bus="pci.0", **properties)
                    assert f"turn {turn}\r\n" == await line(terminal, tmp_path / "console", qemu)
                    await control.ask("device_del", id="uart")
                    await control.sees("DEVICE_DELETED")
                    await server.wait_for("function_detached", turn)
                    while f"gone {turn}" not in await qemu.line():
                        pass
            await terminal.aclose()
        assert not server.of("message_refused")


async def line(terminal: trio.SocketStream, console: Path, qemu: Qemu) -> str:
    """The next line that the guest sends."""
    data = b""
    with trio.fail_after(PATIENCE_S):
        while not data.endswith(b"\n"):
            more = await terminal.receive_some(1)
            assert more, f"see {console} and {qemu.errors}"
            data += more
    return data.decode()


def test_demo_of_a_stock_linux_reaches_its_end() -> None:
    """`mmiod demo-linux`: the guest goes on with what the edited generation gives it."""
    command = [sys.executable, "-m", "mmiod", "demo-linux", str(stock())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "generation 2 serves linux/rng" in done.stdout
    assert "m   m   i   o   d   !" in done.stdout
