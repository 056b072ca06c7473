"""`python -m bench.boot.record [NAME ...]`: boot Debian's kernel on Debian's QEMU and keep its accesses.

    server    q35 without VGA, a TPM 2.0 (CRB, swtpm): what a cloud VM has
    q35 pc    with VGA
    microvm   no PCI
The kernel and its initial RAM disk (busybox; it powers off) are those of `.ci/stock`; emulation is
TCG, so that every access is seen, also those that KVM would answer in the kernel.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.boot.trace import SAMPLE, load, read_log, save
from bench.peers import qemu_version
from bench.programs import CACHE, BenchError, spawn
from tests.functional.stock import kernel, stock

QEMU: Final = (
    "qemu-system-x86_64 -accel tcg -smp 1 -m 256M -nodefaults -no-user-config -display none -no-reboot "
    "-serial file:/dev/null -trace memory_region_ops_read -trace memory_region_ops_write"
).split()
TPM: Final = "-tpmdev emulator,id=tpm,chardev=tpm -device tpm-crb,tpmdev=tpm"
MACHINES: Final = {
    "server": f"-M q35 -vga none {TPM}",
    "q35": "-M q35 -vga std",
    "pc": "-M pc -vga std",
    "microvm": "-M microvm,rtc=on",
}
COMMAND_LINE: Final = "console=ttyS0 panic=-1"
PATIENCE_S: Final = 300
SAMPLED: Final = 20_000
"""Accesses of the committed sample, of the server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, and say what came."""
    parser = argparse.ArgumentParser(prog="python -m bench.boot.record", description="Record boots.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MACHINES)}; default: all")
    parser.add_argument("--sample", action="store_true", help="keep the begin of `server` in the repository")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(MACHINES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(MACHINES)}")
    for name in options.names or MACHINES:
        path = CACHE / f"{name}.boot"
        print(f"{name}: {_record(name, path)} accesses in {path}", flush=True)
    if options.sample:
        boot = load(CACHE / "server.boot")
        save(SAMPLE, "server, its begin", boot.source, boot.accesses[:SAMPLED])
    return 0


def _record(name: str, path: Path) -> int:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-boot-")))
        log = directory / "log"
        subprocess.run(
            [
                *QEMU,
                *MACHINES[name].split(),
                *_tpm(stack, directory, name),
                *_kernel(directory),
                "-D",
                str(log),
            ],
            check=True,
            timeout=PATIENCE_S,
        )
        source = f"{qemu_version()}, {MACHINES[name]}, {_versions()}"
        return save(path, name, source, read_log(log))


def _kernel(directory: Path) -> list[str]:
    """The stock kernel and busybox, with the messages that a server's console has."""
    *arguments, _line = kernel(directory, "")
    return [*arguments, COMMAND_LINE]


def _tpm(stack: ExitStack, directory: Path, name: str) -> list[str]:
    """A swtpm of its own for the machine that has a TPM."""
    if TPM not in MACHINES[name]:
        return []
    if shutil.which("swtpm") is None:
        raise BenchError("no swtpm for the server's TPM (Debian: swtpm)")
    control = directory / "tpm"
    command = [
        "swtpm",
        "socket",
        "--tpm2",
        "--tpmstate",
        f"dir={directory}",
        "--ctrl",
        f"type=unixio,path={control}",
    ]
    spawn(stack, command)
    while not control.exists():
        pass
    return ["-chardev", f"socket,id=tpm,path={control}"]


def _versions() -> str:
    names = (stock() / "versions").read_text().split()
    return " ".join(name for name in names if name.startswith(("linux-image", "busybox")))


if __name__ == "__main__":
    sys.exit(main())
