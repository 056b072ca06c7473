"""`mmiod demo`: stock firmware boots on devices that are all Python; watch it talk to them.

The daemon and the reference hypervisor run as processes of their own, as they would
anywhere else.  What is shown comes from the control socket alone: the firmware's log is
what it writes to the debug console, beside each line is what else it did since the line
before, by device and register name.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from mmiod.config.shipped import shipped
from mmiod.ctl.client import Client
from mmiod.ctl.commands import show_exits, show_statistics
from mmiod.demo.tpm import Conversation, Tpm

FIRMWARE: Final = (Path("/usr/share/seabios/bios-256k.bin"), Path("/usr/share/qemu/bios-256k.bin"))
"""Stock SeaBIOS, where Debian's packages put it."""
CONSOLE: Final = "debugcon"
LAST_LINES: Final = ("No bootable device.", "The tiny guest is done.")
"""What SeaBIOS, or our own guest, says last."""
RESET_VECTOR: Final = bytes.fromhex("ea 00 00 00 f0").ljust(16, b"\0")
"""jmp f000:0000"""
PATIENCE_S: Final = 60.0
START_S: Final = 15.0
LOG_WIDTH: Final = 70
SHOWN_REGISTERS: Final = 3

TPM_BACKEND: Final = 'tpm = "swtpm"'
"""In pc-tpm.toml; the demo's swtpm has a second client, so it is the demo's own."""
CONFIG: Final = """\
[daemon]
control = "{directory}/control"
log_level = "warning"
[[vm]]
name = "demo"
machine = "{machine}"
socket = "{directory}/demo.exit"
"""

Object = Mapping[str, Any]
Process = subprocess.Popen[bytes]


def run(*, memory_mib: int, as_json: bool) -> int:
    """Boot, show, and print the figures; 0 if the firmware reached its end."""
    firmware = next((path for path in FIRMWARE if path.is_file()), None)
    if not as_json:
        print(_introduction(firmware, memory_mib))
    with ExitStack() as outer, tempfile.TemporaryDirectory(prefix="mmiod-demo-") as name:
        directory, memory = Path(name), guest_ram(outer, memory_mib)
        tpm = Tpm.start(outer, directory, memory)
        with ExitStack() as stack:
            control = _start_daemon(stack, directory, tpm)
            guest = firmware or tiny_guest(directory)
            hypervisor = start_hypervisor(stack, directory, guest, memory_mib, memory)
            shown = _follow(stack, control, hypervisor, as_json=as_json)
            client = Client(str(control))
            stack.callback(client.close)
            statistics, exits = client.call("GetStatistics"), client.call("ListExits")
        measured = _measured(tpm, shown)
    if as_json:
        told = {"finished": shown.ended, "tpm_commands": shown.tpm.commands, "tpm": measured}
        print(json.dumps({**told, "statistics": statistics, "exits": exits}))
    else:
        print()
        print("\n".join(show_statistics(statistics)))
        print("\n".join(show_exits(exits)))
        if not any(totals["unsupported"] for totals in exits["totals"]):
            print("unsupported instructions: none")
        print(_verdict(shown, hypervisor))
        print(measured)
    return 0 if shown.ended else 1


def _introduction(firmware: Path | None, memory_mib: int) -> str:
    what = f"SeaBIOS ({firmware})" if firmware else "a tiny guest of our own, as SeaBIOS is not installed"
    boots = f"Booting {what} with {memory_mib} MiB on Unicorn; every device is a file in devices/."
    return f"{boots}\n\n{'the firmware says':{LOG_WIDTH}}  what it did since the line before\n"


def _verdict(shown: Lines, hypervisor: Process) -> str:
    if shown.died:
        return f"\nThe hypervisor ended with status {hypervisor.returncode} before the firmware did."
    if not shown.ended:
        return f"\nThe firmware did not reach its end within {PATIENCE_S:.0f} s."
    return "\nThe firmware reached its end: nothing to boot from, and every device was Python."


def _measured(tpm: Tpm | None, shown: Lines) -> str:
    return "TPM: none, as swtpm is not installed." if tpm is None else tpm.verdict(shown.tpm)


# --- processes -------------------------------------------------------------------------------


def guest_ram(stack: ExitStack, memory_mib: int) -> int:
    """The guest's RAM, as a hypervisor wants it: of a size that stays."""
    descriptor = os.memfd_create("guest-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    os.ftruncate(descriptor, memory_mib << 20)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _start_daemon(stack: ExitStack, directory: Path, tpm: Tpm | None) -> Path:
    """Start it, with the TPM if there is one; the control socket's path."""
    machine = config_folder() / "machines" / "pc.toml"
    if tpm is not None:
        machine = shutil.copytree(machine.parent, directory / "machines") / "pc-tpm.toml"
        ours = f'tpm = "swtpm-socket:{tpm.data},{tpm.control}"'
        machine.write_text(machine.read_text().replace(TPM_BACKEND, ours))
    return serve(stack, directory, CONFIG.format(directory=directory, machine=machine))


def serve(stack: ExitStack, directory: Path, text: str) -> Path:
    """Start a daemon with this configuration, and wait for it; the control socket's path.

    Raises:
        TimeoutError: it did not start; its log says why.
    """
    config = directory / "mmiod.toml"
    config.write_text(text)
    notifications = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    notifications.bind(str(directory / "notify"))
    notifications.settimeout(START_S)
    spawn(stack, ["-m", "mmiod", "serve", "--config", str(config)], NOTIFY_SOCKET=str(directory / "notify"))
    while b"READY=1" not in notifications.recv(4096):
        pass
    return directory / "control"


def tiny_guest(directory: Path) -> Path:
    """An image of 64 KiB: config/guests/tiny.S, and a jump to it at the reset vector."""
    code = (config_folder() / "guests" / "tiny.bin").read_bytes()
    image = directory / "tiny.img"
    image.write_bytes(code.ljust(0xFFF0, b"\0") + RESET_VECTOR)
    return image


def config_folder() -> Path:
    """The folder of machine files that comes with mmiod."""
    return shipped("config")


def start_hypervisor(
    stack: ExitStack, directory: Path, firmware: Path, memory_mib: int, memory: int
) -> Process:
    """Boot on the daemon's socket in a folder; `memory` is the descriptor of the guest's RAM."""
    command = ["-m", "mmiod.vmm", "--socket", str(directory / "demo.exit"), "--vm", "demo"]
    ram = ["--memory", str(memory_mib), "--memory-fd", str(memory)]
    return spawn(stack, [*command, *ram, "--firmware", str(firmware)], memory)


def spawn(stack: ExitStack, arguments: Sequence[str], *descriptors: int, **environment: str) -> Process:
    """Start a Python program that ends with the stack."""
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, env={**os.environ, **environment}, pass_fds=descriptors)

    def end() -> None:
        process.terminate()
        process.wait()

    stack.callback(end)
    return process


# --- what is shown -----------------------------------------------------------------------------


def _follow(stack: ExitStack, control: Path, hypervisor: Process, *, as_json: bool) -> Lines:
    """Show the boot until the firmware's last line, or its hypervisor's end, or as long as patience lasts."""
    client = Client(str(control))
    stack.callback(client.close)
    lines = Lines(shutil.get_terminal_size((134, 40)).columns)
    deadline = time.monotonic() + PATIENCE_S
    for reply in client.stream("Watch", start="oldest"):
        for access in reply["accesses"] if reply else ():
            for line in lines.take(access):
                if not as_json:
                    print(line, flush=True)
        lines.died = reply is None and hypervisor.poll() is not None and not lines.ended
        if lines.ended or lines.died or time.monotonic() > deadline:
            break
    return lines


@define
class Lines:
    """The lines of a guest's console, and the traffic between them."""

    columns: int
    console: str = CONSOLE
    """The device that they are written to."""
    register: str | None = None
    """Its register; None: it has one only."""
    last: tuple[str, ...] = LAST_LINES
    ended: bool = False
    died: bool = False
    """The hypervisor did, before the firmware's end."""
    tpm: Conversation = field(factory=Conversation)
    _text: str = ""
    _traffic: Counter[str] = field(factory=Counter)

    def take(self, access: Object) -> Iterator[str]:
        """One access: a line, if it ends one."""
        self.tpm.take(access)
        if access["device"] != self.console:
            arrow = "r" if access["direction"] == "read" else "w"
            name = access["register"] or access["region"] or access["space"]
            self._traffic[f"{access['device'] or 'unclaimed'}.{name} {arrow}"] += 1
            return
        if access["direction"] == "read" or self.register not in {None, access["register"]}:
            return
        character = chr(access["value"] & 0xFF)
        if character != "\n":
            self._text += character if character.isprintable() else ""
            return
        yield f"{self._text[:LOG_WIDTH]:{LOG_WIDTH}}  {self._summary()}"[: self.columns].rstrip()
        self.ended = self.ended or self._text.startswith(self.last)
        self._text = ""
        self._traffic.clear()

    def _summary(self) -> str:
        shown = [
            f"{name} x{count}" if count > 1 else name
            for name, count in self._traffic.most_common(SHOWN_REGISTERS)
        ]
        rest = self._traffic.total() - sum(count for _, count in self._traffic.most_common(SHOWN_REGISTERS))
        return ", ".join(shown) + (f", {rest} more" if rest else "")
