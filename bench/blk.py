"""How fast a guest's disk is: stock Linux on a disk in Python, and on QEMU's own, in one guest.

QEMU under TCG, with a virtio disk of a real `mmiod serve` and one of its own, on files alike.  The
guest reads and writes 64 MiB of each in turn by `dd`, 128 KiB at a time: directly, one request after
the other, and through its cache with an fsync(2) at the end.  Told are the time of 128 KiB, and for
ours the CPU time that the daemon spends on it, and where (`bench.shares`).
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Final

from attrs import define, field

from bench.contest import Effort
from bench.figures import NS_PER_US, Row, ratio
from bench.programs import ROOT, BenchError, Process, cpu_ns, spawn, start_daemon, vm
from bench.shares import Shares, sampled
from mmiod.ctl.client import Client as Control
from mmiod.ctl.qemu import arguments
from mmiod.demo.initrd import compressed

SUBJECT: Final = "128 KiB of a guest's disk"
BLOCK: Final = 128 << 10
BLOCKS: Final = 512
MIB: Final = BLOCK * BLOCKS >> 20
PATIENCE_S: Final = 120.0
MEMORY: Final = "256M"
KINDS: Final[Mapping[str, str]] = {
    "direct read": f"dd if={{disk}} of=/dev/null bs={BLOCK} count={BLOCKS} iflag=direct",
    "direct write": f"dd if=/dev/zero of={{disk}} bs={BLOCK} count={BLOCKS} oflag=direct",
    "write, fsync": f"dd if=/dev/zero of={{disk}} bs={BLOCK} count={BLOCKS} conv=fsync",
}
NOTHING: Final = "dd if=/dev/zero of=/dev/null count=0"
"""What a command costs that moves nothing."""
OURS, THEIRS = "mmiod", "QEMU's own"
DISKS: Final[Mapping[str, str]] = {OURS: "0000:00:11.0", THEIRS: "0000:00:12.0"}
"""Places of the disks."""
GUEST: Final = """\
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
cd /sys/bus/pci/devices
for disk in */virtio*/block/*; do echo "disk ${disk%%/*} ${disk##*/}"; done
echo ready
while read -r line; do eval "$line" >/dev/null 2>&1; echo "done $?"; done
"""
MACHINE: Final = """\
[devices.blk]
plugin = "virtio/blk"
slot = "00:11.0"
streams = {{ image = "block:{image}" }}
"""


@define(eq=False)
class Guest:
    """A shell in a guest, on its console."""

    process: Process
    disks: dict[str, str] = field(factory=dict)
    """Device files, by PCI address."""
    _pending: bytes = b""

    def boot(self) -> None:
        """Wait for the shell."""
        while (line := self.line()) != "ready":
            if line.startswith("disk "):
                _, address, name = line.split()
                self.disks[address] = f"/dev/{name}"

    def run(self, command: str) -> int:
        """Do it; how many ns that took.

        Raises:
            BenchError: it fails.
        """
        assert self.process.stdin is not None
        started = perf_counter_ns()
        os.write(self.process.stdin.fileno(), command.encode() + b"\n")  # unbuffered: it may have ended
        while not (line := self.line()).startswith("done "):
            pass
        if line != "done 0":
            raise BenchError(f"the guest's {command!r} ended with {line}")
        return perf_counter_ns() - started

    def line(self) -> str:
        """The next line of the console.

        Raises:
            BenchError: none comes.
        """
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._pending:
            ready, _, _ = select.select([descriptor], [], [], PATIENCE_S)
            more = os.read(descriptor, 4096) if ready else b""
            if not more:
                raise BenchError("the guest says nothing more")
            self._pending += more
        found, _, self._pending = self._pending.partition(b"\n")
        return found.decode(errors="replace").strip()

    def end(self) -> None:
        """Switch it off, so that QEMU ends by itself."""
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), b"poweroff -f\n")
            self.process.wait(PATIENCE_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass  # it is ended as all programs are


@define
class Taken:
    """What rounds gave for one kind and one disk, of each 128 KiB."""

    us: list[float] = field(factory=list)
    cpu_us: list[float] = field(factory=list)
    """Of the daemon."""


def measure(effort: Effort) -> list[Row]:
    """Rows of time, throughput and CPU; none if the stock parts are missing, and then says so."""
    found = subprocess.run([ROOT / ".ci" / "stock"], capture_output=True, text=True, check=False)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        effort.progress(f"blk: skipped, there is no stock QEMU or kernel: {reason}")
        return []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        daemon, guest = _boot(stack, directory, Path(found.stdout.strip()))
        taken = _rounds(guest, daemon, effort)
        shares = {kind: _share(guest, daemon, kind, directory, effort) for kind in KINDS}
    return [row for kind in KINDS for row in _rows(kind, taken, shares[kind])]


def _boot(stack: ExitStack, directory: Path, stock: Path) -> tuple[Process, Guest]:
    ours, theirs, initrd = directory / "ours", directory / "theirs", directory / "initrd"
    for image in (ours, theirs):
        image.write_bytes(os.urandom(1 << 20) * MIB)
    (directory / "machine.toml").write_text(MACHINE.format(image=ours))
    machine = vm(directory, "guest", directory / "machine.toml", vfio_user=True)
    daemon = start_daemon(stack, directory, [machine])
    control = Control(str(directory / "control"))
    options = arguments(control.call("ListFunctions")["functions"], MEMORY)
    control.close()
    initrd.write_bytes(compressed(stock, GUEST, ["virtio_blk"]))
    command = [
        *(str(stock / "qemu"), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", "stdio"),
        *("-kernel", str(stock / "vmlinuz"), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 loglevel=4 tsc=unstable panic=-1"),
        *("-drive", f"file={theirs},format=raw,if=none,id=theirs"),
        *("-device", "virtio-blk-pci,drive=theirs,addr=0x12"),
    ]
    guest = Guest(spawn(stack, [*command, *options], pipes=True))
    stack.callback(guest.end)
    guest.boot()
    return daemon, guest


def _rounds(guest: Guest, daemon: Process, effort: Effort) -> dict[str, dict[str, Taken]]:
    """All kinds on both disks in turn; the first round is not counted."""
    taken = {kind: {disk: Taken() for disk in DISKS} for kind in KINDS}
    for number in range(effort.rounds + 1):
        effort.progress("blk: " + (f"round {number} of {effort.rounds}" if number else "warming up"))
        nothing = min(guest.run(NOTHING) for _ in range(3))
        for kind, disks in taken.items():
            for disk, figures in disks.items():
                before = cpu_ns(daemon)
                ns = guest.run(_command(guest, kind, disk)) - nothing
                if number:
                    figures.us.append(ns / NS_PER_US / BLOCKS)
                    figures.cpu_us.append((cpu_ns(daemon) - before) / NS_PER_US / BLOCKS)
    return taken


def _share(guest: Guest, daemon: Process, kind: str, directory: Path, effort: Effort) -> Shares:
    with sampled(daemon, directory / "perf.data", effort.progress) as shares:
        for _ in range(max(2, effort.rounds // 5)):
            guest.run(_command(guest, kind, OURS))
    return shares


def _command(guest: Guest, kind: str, disk: str) -> str:
    return KINDS[kind].format(disk=guest.disks[DISKS[disk]])


def _rows(kind: str, taken: Mapping[str, Mapping[str, Taken]], shares: Shares) -> Iterator[Row]:
    ours, theirs = (taken[kind][disk] for disk in DISKS)
    for disk, figures in taken[kind].items():
        ratios = {THEIRS: ratio(ours.us, theirs.us)} if disk == OURS else {}
        p50, n = median(figures.us), len(figures.us)
        yield Row(SUBJECT, f"{kind}, {disk}", p50, ratios=ratios, n=n)
        yield Row(SUBJECT, f"{kind}, {disk}: throughput", BLOCK / p50, unit="MB/s", n=n)
        yield Row(SUBJECT, f"{kind}, {disk}: best round", BLOCK / min(figures.us), unit="MB/s", n=n)
    yield Row(SUBJECT, f"{kind}, {OURS}: CPU of the daemon", median(ours.cpu_us), n=len(ours.cpu_us))
    for place, share in shares.parts.items():
        yield Row(SUBJECT, f"{kind}, {OURS}: CPU {place}", 100 * share, unit="%", n=shares.samples)
