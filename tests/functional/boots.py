"""Boots of stock SeaBIOS: the real daemon in this process, the real mmiod-vmm beside it."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import trio
from attrs import define, field

from mmiod import config, daemon
from mmiod.daemon import Daemon
from mmiod.machine.clock import NEVER
from mmiod.service.limiter import RateLimiter
from mmiod.service.notify import Notifier
from mmiod.trace.record import VM, Record
from mmiod.values import HaltExit

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = Path("/usr/share/seabios/bios-256k.bin")
MACHINES = ROOT / "config" / "machines"
LAST_LINE = "No bootable device."
PATIENCE_S = 250
"""Of a boot on a host that has little time for it; two of them are less than a test may take."""

Tables = dict[str, Any]


def pc(file: str = "pc.toml", /, **devices: Mapping[str, Any] | None) -> Tables:
    """A bundled PC with devices added, changed, or (None) taken out together with their wires."""
    tables: Tables = copy.deepcopy(dict(config.read_machine(MACHINES / file)))
    for name, device in devices.items():
        if device is None:
            del tables["devices"][name]
        else:
            tables["devices"][name] = dict(device)
    there = {*tables["devices"], "vcpu0", "hypervisor"}
    wires = {source: [sink] if isinstance(sink, str) else sink for source, sink in tables["wires"].items()}
    tables["wires"] = {
        source: [sink for sink in sinks if sink.partition(".")[0] in there]
        for source, sinks in wires.items()
        if source.partition(".")[0] in tables["devices"]
    }
    for device in tables["devices"].values():
        device.pop("streams", None)
    return tables


def toml(tables: Tables, prefix: str = "") -> str:
    """TOML of nested tables, as far as machine files need it."""
    plain, nested = [], []
    for key, value in tables.items():
        name = f'"{key}"'
        if isinstance(value, dict):
            nested.append(f"[{prefix}{name}]\n{toml(value, f'{prefix}{name}.')}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            nested += [f"[[{prefix}{name}]]\n{toml(item, f'{prefix}{name}.')}" for item in value]
        else:
            plain.append(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    return "\n".join([*plain, *nested]) + "\n"


@define
class Boot:
    """One VM: its machine and how its hypervisor runs."""

    machine: Tables = field(factory=pc)
    memory_mib: int = 128
    icount: int | None = None
    name: str = "vm"
    firmware: Path = FIRMWARE
    options: tuple[str, ...] = ()
    """Further options of the hypervisor."""
    plugins: Path | None = None
    """A directory of plugins that hide bundled ones."""

    def command(self, directory: Path) -> list[str]:
        """The hypervisor's."""
        options = ["--memory", str(self.memory_mib), "--firmware", str(self.firmware)]
        if self.icount is not None:
            options += ["--icount", f"shift={self.icount}"]
        socket = ["--socket", str(directory / f"{self.name}.exit"), "--vm", self.name]
        return [sys.executable, "-m", "mmiod.vmm", *socket, *options, *self.options]


async def dial(path: Path) -> trio.SocketStream:
    """Connect as soon as somebody listens: a backend opens beside what is served already."""
    with trio.fail_after(PATIENCE_S):
        while True:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return await trio.open_unix_socket(str(path))
            await trio.sleep(0.01)


@define(eq=False)
class Booting:
    """VMs under way in one daemon."""

    daemon: Daemon
    hypervisors: list[trio.Process]

    def trace(self, vm: str = "vm") -> list[Record]:
        """All accesses of a VM so far, without what differs by nature: how long they took."""
        records, _, dropped = self.daemon.recorder.since(0, 1 << 30)
        assert not dropped
        return [_without_latency(record) for record in records if record[VM] == vm]

    def log(self, vm: str = "vm") -> str:
        """What the firmware wrote to the debug console so far."""
        return console(self.trace(vm))

    async def reaches_its_end(self, vm: str = "vm") -> str:
        """Wait for the firmware's last line; its log."""
        return await self.says(re.escape(LAST_LINE), vm)

    async def says(self, pattern: str, vm: str = "vm") -> str:
        """Wait for something in the firmware's log; the log."""
        with trio.fail_after(PATIENCE_S):
            while not re.search(pattern, self.log(vm)):
                await self._look_again()
        return self.log(vm)

    async def stops(self, vm: str = "vm") -> str:
        """Wait until the vCPU halts and nothing can interrupt it any more; its log."""
        with trio.fail_after(PATIENCE_S):
            while not self._stands(vm):
                await self._look_again()
        return self.log(vm)

    async def _look_again(self) -> None:
        assert all(process.returncode is None for process in self.hypervisors), "a hypervisor has ended"
        await trio.sleep(0.05)

    def _stands(self, vm: str) -> bool:
        flights = self.daemon.flights(vm)
        flight = flights.current.get(0) if flights else None
        halted = flight is not None and isinstance(flight.exit, HaltExit)
        machine = self.daemon.machines[vm]
        return halted and (not machine.interrupts or machine.clock.deadline_ns == NEVER)


def _without_latency(record: Record) -> Record:
    *rest, _, pc, count = record
    return cast("Record", (*rest, 0, pc, count))


def console(trace: list[Record]) -> str:
    """The text in the writes to the debug console."""
    return "".join(
        chr(value) for value, device, direction in map(_told, trace) if device == "debugcon" and direction
    )


def _told(record: Record) -> tuple[int, str, int]:
    """Value, device and direction (1: a write)."""
    return record[8], record[9], record[5]


def until_end(trace: list[Record]) -> list[Record]:
    """A trace up to the firmware's last line: how long it idles afterwards is ours, not its."""
    text = ""
    for index, record in enumerate(trace):
        value, device, direction = _told(record)
        if device == "debugcon" and direction:
            text += chr(value)
            if text.endswith(LAST_LINE):
                return trace[: index + 1]
    raise AssertionError("the firmware did not reach its end")


@asynccontextmanager
async def serving(directory: Path, *boots: Boot) -> AsyncIterator[Daemon]:
    """A daemon that waits for the hypervisors of these VMs, with a socket NAME.exit for each."""
    tables: Tables = {
        "daemon": {"control": str(directory / "control"), "recorder_capacity": 1 << 20, "log_level": "error"},
        "vm": [],
    }
    plugins = [str(boot.plugins) for boot in boots if boot.plugins is not None]
    if plugins:
        tables["daemon"]["plugins"] = plugins
    for boot in boots:
        path = directory / f"{boot.name}.toml"
        path.write_text(toml(boot.machine))
        tables["vm"].append(
            {"name": boot.name, "machine": str(path), "socket": str(directory / f"{boot.name}.exit")}
        )
    (directory / "mmiod.toml").write_text(toml(tables))
    built = daemon.build(config.load(directory / "mmiod.toml"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.serve, built, Notifier(), RateLimiter(), {})
        await built.started.wait()
        try:
            yield built
        finally:
            built.stopping.set()


@asynccontextmanager
async def booting(directory: Path, *boots: Boot) -> AsyncIterator[Booting]:
    """A daemon that serves these VMs, and their hypervisors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with serving(directory, *boots) as built:
        processes = [
            await trio.lowlevel.open_process(boot.command(directory), env=environment) for boot in boots
        ]
        try:
            yield Booting(built, processes)
        finally:
            with trio.CancelScope(shield=True):
                for process in processes:
                    process.kill()
                    await process.wait()
