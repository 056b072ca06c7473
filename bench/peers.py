"""What others have for the same: libvfio-user's C server, QEMU's qtest; and our vfio-user beside them."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.contest import Contestant, Progress
from bench.programs import CACHE, BenchError, Line, Process, client, compiled, spawn, start_daemon, vm

LIBVFIO_USER, QTEST, FUNCTION = "libvfio-user (C)", "QEMU qtest", "mmiod, vfio-user"
VARIABLE: Final = "MMIOD_LIBVFIO_USER"
BUILT: Final = CACHE / "libvfio-user"
MACHINE: Final = '[devices.testdev]\nplugin = "pci/testdev"\n'
VERSION: Final = b'\0\0\1\0{"capabilities":{}}\0'
HEADER: Final = struct.Struct("<HHIII")
QEMU: Final = (
    "qemu-system-x86_64 -M pc -m 16M -accel tcg -S -nodefaults -display none -qtest-log none".split()
)
PATIENCE_S: Final = 20.0


def contestants(stack: ExitStack, directory: Path, progress: Progress) -> Iterator[Contestant]:
    """Ours, and those that are there; what is not is told."""
    peers = compiled("peers", directory)
    machine = directory / "function.toml"
    machine.write_text(MACHINE)
    (directory / "vfio").mkdir()
    daemon = start_daemon(
        stack, directory / "vfio", [vm(directory / "vfio", "bench", machine, vfio_user=True)]
    )
    path = directory / "vfio" / "bench" / "testdev"
    yield Contestant(FUNCTION, daemon, _vfio_user(stack, peers, path), "vfio-user")
    reference = reference_server(stack, directory)
    if reference is None:
        progress(f"no libvfio-user: {VARIABLE} names where it is installed (bench/libvfio-user builds it)")
    else:
        yield reference
    if shutil.which(QEMU[0]) is None:
        progress("no QEMU: nothing to say of qtest (Debian: qemu-system-x86)")
    else:
        yield _qtest(stack, peers, directory / "qtest")


def reference_server(stack: ExitStack, directory: Path) -> Contestant | None:
    """libvfio-user's C server, if it is installed."""
    library = libvfio_user()
    if library is None:
        return None
    server = compiled("libvfio_user", directory, *_flags(library))
    path = directory / "libvfio-user"
    process = spawn(stack, [str(server), str(path)])
    line = _vfio_user(stack, compiled("peers", directory), path)
    return Contestant(LIBVFIO_USER, process, line, "vfio-user")


def libvfio_user() -> Path | None:
    """Where it is installed, if it is."""
    prefix = Path(os.environ.get(VARIABLE, BUILT))
    return prefix if (prefix / "lib" / "libvfio-user.so").exists() else None


def _flags(prefix: Path) -> list[str]:
    library = prefix / "lib"
    return ["-isystem", f"{prefix}/include", f"-L{library}", f"-Wl,-rpath,{library}", "-lvfio-user"]


def _vfio_user(stack: ExitStack, program: Path, path: Path) -> Line:
    with _connected(path) as connection:
        connection.sendall(HEADER.pack(0, 1, HEADER.size + len(VERSION), 0, 0) + VERSION)
        answered = HEADER.unpack(connection.recv(4096)[: HEADER.size])
        if answered[3] != 1:
            raise BenchError(f"{path} does not agree to VERSION: flags {answered[3]:#x}, errno {answered[4]}")
        number = connection.fileno()
        return client(stack, program, f"vfio-user=vfio-user:{number}", pass_fds=[number])


def _connected(path: Path) -> socket.socket:
    """As soon as somebody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while connection.connect_ex(str(path)):
        if time.monotonic() > deadline:
            raise BenchError(f"nobody listens at {path}")
        time.sleep(0.05)  # noqa: TID251 - nothing says when another program listens
    connection.settimeout(None)
    return connection


def _qtest(stack: ExitStack, peers: Path, path: Path) -> Contestant:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind(str(path))
        listener.listen()
        process: Process = spawn(stack, [*QEMU, "-qtest", f"unix:{path}"])
        connection = listener.accept()[0]
    with connection:
        connection.settimeout(None)
        number = connection.fileno()
        line = client(stack, peers, f"qtest=qtest:{number}", pass_fds=[number])
    return Contestant(QTEST, process, line, "qtest")


def qemu_version() -> str:
    """What `QEMU qtest` stands for."""
    if shutil.which(QEMU[0]) is None:
        return "none"
    said = subprocess.run([QEMU[0], "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]
