"""The programs that are measured: the daemon, the echo server, the client."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from attrs import frozen

ROOT: Final = Path(__file__).resolve().parent.parent
MACHINE: Final = ROOT / "config" / "machines" / "pc.toml"
VM: Final = "bench"
CONFIG: Final = """\
[daemon]
control = "{directory}/control"
log_level = "warning"
[[vm]]
name = "{vm}"
machine = "{machine}"
socket = "{directory}/exit"
"""
COMPILE: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "include"))
START_S: Final = 20.0


class BenchError(Exception):
    """The benchmark cannot run; the message says why."""


@frozen
class Programs:
    """All of them running: the client has a session with the daemon and a line to the echo."""

    daemon: subprocess.Popen[bytes]
    echo: subprocess.Popen[bytes]
    client: subprocess.Popen[bytes]


def start(stack: ExitStack, directory: Path) -> Programs:
    """Compile and start everything; the stack ends it.

    Raises:
        BenchError: a tool is missing, or a program does not start.
    """
    client, server = _compile("client", directory), _compile("echo", directory)
    daemon = _start_daemon(stack, directory)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        echo = _spawn(stack, [str(server)], stdin=far.fileno())
        command = [str(client), str(directory / "exit"), VM, str(near.fileno())]
        line = _spawn(stack, command, pipes=True, pass_fds=[near.fileno()])
    return Programs(daemon, echo, line)


def _compile(name: str, directory: Path) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        raise BenchError("no gcc: the benchmark's client is a C program (Debian: gcc libc6-dev)")
    source, program = Path(__file__).parent / f"{name}.c", directory / name
    if subprocess.run([compiler, *COMPILE, str(source), "-o", str(program)], check=False).returncode:
        raise BenchError(f"{source} does not compile")
    return program


def _start_daemon(stack: ExitStack, directory: Path) -> subprocess.Popen[bytes]:
    """Start it, and wait for its READY=1 as a service manager does."""
    config = directory / "mmiod.toml"
    config.write_text(CONFIG.format(directory=directory, vm=VM, machine=MACHINE))
    command = [sys.executable, "-m", "mmiod", "serve", "--config", str(config)]
    notifications = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    notifications.bind(str(directory / "notify"))
    notifications.settimeout(START_S)
    daemon = _spawn(stack, command, environment={"NOTIFY_SOCKET": str(directory / "notify")})
    try:
        while b"READY=1" not in notifications.recv(4096):
            pass
    except TimeoutError:
        raise BenchError(f"the daemon did not start within {START_S:.0f} s") from None
    return daemon


def _spawn(
    stack: ExitStack,
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    pipes: bool = False,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own: Ctrl-C is for us, who end it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if pipes else stdin,
        stdout=subprocess.PIPE if pipes else None,
        env={**os.environ, **(environment or {})},
        pass_fds=pass_fds,
        process_group=0,
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.terminate()
    process.wait()
