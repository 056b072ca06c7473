"""The two that are compared: Debian's QEMU behind qtest, and our machine in this process.

Both take the same accesses and give what each read gave.  QEMU stands still (`-S`) and so
does our virtual clock: what is compared is behaviour without time.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from io import BufferedRWPair
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol

from attrs import define, evolve, field, frozen

from mmiod import config
from mmiod.device import Device
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription
from mmiod.machine.machine import Machine, Record
from mmiod.machine.slot import Slot
from mmiod.plugins.loader import bundled_directories, load
from mmiod.values import Direction, Space

MACHINE: Final = Path(__file__).absolute().parents[2] / "config" / "machines" / "pc.toml"
JUDGED_FILE: Final = "opt/judge"
JUDGED_CONTENT: Final = "0123456789"
RAM: Final = 16 << 20
PATIENCE_S: Final = 60
WORDS: Final = {1: "b", 2: "w", 4: "l", 8: "q"}
BATCH: Final = 256
"""Commands under way to QEMU; what they and their answers take fits into socket buffers."""

QEMU: Final = (
    "qemu-system-x86_64 -M pc,vmport=off,hpet=off -accel tcg -nodefaults -display none "
    "-serial null -m 16M -device pvpanic -action panic=none "
    "-chardev null,id=console -device isa-debugcon,iobase=0x402,chardev=console "
    "-rtc base=2026-01-01T00:00:00,clock=vm -boot menu=on "
    f"-fw_cfg name={JUDGED_FILE},string={JUDGED_CONTENT}"
).split()


@frozen
class Access:
    """One access to a port, to memory (`mmio`), or a level (`value`) for input `address` of the PICs.

    In space `pin` the input is one of the I/O APIC.
    In space `until` it is a read of memory, again and again until that gives `value`.
    """

    space: str
    address: int
    size: int = 1
    value: int | None = None
    """What is written, or awaited; None for a read."""
    ignored: int = 0
    """Bits that are not compared: a row of the difference table says why."""

    def __str__(self) -> str:
        written = "" if self.value is None else f" <- {self.value:#x}"
        return f"{self.space} {self.address:#x}/{self.size}{written}"


class Side(Protocol):
    """One that takes accesses."""

    def run(self, accesses: Sequence[Access]) -> list[int]:
        """What each access gave; 0 for a write."""


# --- QEMU


@define(eq=False)
class Reference:
    """QEMU, stopped, with its qtest and QMP connections."""

    qtest: BufferedRWPair
    qmp: BufferedRWPair
    pics: list[str] = field(factory=list)

    def run(self, accesses: Sequence[Access]) -> list[int]:
        """What each access gave; 0 for a write."""
        answers: list[int] = []
        for waits, group in groupby(accesses, lambda access: access.space == "until"):
            run = list(group)
            if waits:
                answers += map(self._await, run)
            else:
                for start in range(0, len(run), BATCH):
                    answers += self._batch(run[start : start + BATCH])
        return answers

    def _batch(self, batch: Sequence[Access]) -> list[int]:
        self.qtest.write("".join(map(self._command, batch)).encode())
        self.qtest.flush()
        return [self._answer() for _ in batch]

    def _await(self, access: Access) -> int:
        assert access.value is not None
        deadline = time.monotonic() + PATIENCE_S
        poll = evolve(access, space="mmio", value=None)
        while ((found := self._batch([poll])[0]) ^ access.value) & ~access.ignored:
            assert time.monotonic() < deadline, (access, found)
        return found

    def _command(self, access: Access) -> str:
        if access.space == "line":
            pic, line = divmod(access.address, 8)
            return f"set_irq_in {self.pics[pic]} unnamed-gpio-in {line} {access.value}\n"
        if access.space == "pin":
            return f"set_irq_in ioapic unnamed-gpio-in {access.address} {access.value}\n"
        verb = {
            ("port", True): "in",
            ("port", False): "out",
            ("mmio", True): "read",
            ("mmio", False): "write",
        }
        word = verb[access.space, access.value is None] + WORDS[access.size]
        written = "" if access.value is None else f" {access.value:#x}"
        return f"{word} {access.address:#x}{written}\n"

    def _answer(self) -> int:
        words = self.qtest.readline().split()
        assert words[:1] == [b"OK"], words
        return int(words[1], 16) if len(words) > 1 else 0

    def command(self, name: str, **arguments: object) -> object:
        """A QMP command's result."""
        self.qmp.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self.qmp.flush()
        while "return" not in (answer := json.loads(self.qmp.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def find_pics(self) -> None:
        """Where QEMU keeps both 8259s: their number depends on what was made before them."""
        root = "/machine/unattached"
        listed = self.command("qom-list", path=root)
        assert isinstance(listed, list)
        found = [f"{root}/{child['name']}" for child in listed if child["type"] == "child<isa-i8259>"]
        self.pics = sorted(found, key=lambda path: not self.command("qom-get", path=path, property="master"))


@contextmanager
def reference(directory: Path, *options: str) -> Iterator[Reference]:
    """A QEMU that ends with the block."""
    with ExitStack() as stack:
        listeners = {name: stack.enter_context(_listening(directory / name)) for name in ("qtest", "qmp")}
        command = [*QEMU, "-S", "-qtest-log", "none", *options]
        for name in listeners:
            command += [f"-{name}", f"unix:{directory / name}"]
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        stack.callback(process.kill)
        connections = (stack.enter_context(listener.accept()[0]) for listener in listeners.values())
        qtest, qmp = (stack.enter_context(connection.makefile("rwb")) for connection in connections)
        qemu = Reference(qtest, qmp)
        qemu.command("qmp_capabilities")
        qemu.find_pics()
        yield qemu


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind(str(path))
        listener.listen()
        yield listener
    path.unlink()


# --- ours


class Ram:
    """Memory of a slot, kept in this process."""

    def __init__(self) -> None:
        self.data = bytearray(RAM)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes at an offset."""
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        """Nothing to close."""


SPACES: Final = {"port": Space.PIO, "mmio": Space.MMIO}
INPUTS: Final = {"line": ("pic", "ir"), "pin": ("ioapic", "irq")}
"""Devices whose inputs are driven, and what these are called."""


def _at_rest() -> None:
    """No device asks a backend."""


@define(eq=False)
class Ours:
    """The bundled devices in a machine whose clock stands."""

    machine: Machine
    ram: Ram
    touched: set[tuple[str, str, Direction]]
    """(device, register, direction) of each access."""
    settle: Callable[[], None] = _at_rest
    """Lets backends do what was asked of them."""

    def run(self, accesses: Sequence[Access]) -> list[int]:
        """What each access gave; 0 for a write."""
        return [self._one(access) for access in accesses]

    def _one(self, access: Access) -> int:
        if access.space in INPUTS:
            name, lines = INPUTS[access.space]
            self.machine.hosts[name].deliver(f"{lines}{access.address}", bool(access.value))
        elif access.space == "until":
            self.settle()
            return self.machine.read(Space.MMIO, access.address, access.size)
        elif access.space == "mmio" and access.address < RAM:
            return self._memory(access)
        elif access.value is None:
            return self.machine.read(SPACES[access.space], access.address, access.size)
        else:
            self.machine.write(SPACES[access.space], access.address, access.size, access.value)
        return 0

    def _memory(self, access: Access) -> int:
        if access.value is None:
            return int.from_bytes(self.ram.read(access.address, access.size), "little")
        self.ram.write(access.address, access.value.to_bytes(access.size, "little"))
        return 0


@cache
def plugin(name: str) -> type[Device]:
    """A bundled device class."""
    return load(name, bundled_directories())


def ours(more: Mapping[str, DeviceDescription] | None = None, file: Path = MACHINE) -> Ours:
    """A machine as QEMU's, with more devices if need be, powered on."""
    description = config.load_machine(file)
    fw_cfg = description.devices["fw_cfg"]
    files = {JUDGED_FILE: {"text": JUDGED_CONTENT}}
    judged = evolve(fw_cfg, config={**fw_cfg.config, "files": files})
    description = evolve(description, devices={**description.devices, "fw_cfg": judged, **(more or {})})
    parts = {
        name: (plugin(device.plugin), config.configure(plugin(device.plugin), device, MACHINE.parent))
        for name, device in description.devices.items()
    }
    touched: set[tuple[str, str, Direction]] = set()

    def note(record: Record) -> None:
        touched.add((record[9], record[11], Direction(record[5])))

    clock = MachineClock(lambda: 0, lambda: 0.0)
    machine = assemble("judged", description, parts, clock, lambda *_, **__: None, note)
    ram = Ram()
    machine.memory.add(Slot(0, 0, RAM, False, ram))
    machine.power_on(virtual=True)
    return Ours(machine, ram, touched)
