"""The programs that are measured: compiled, started, pinned and ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from attrs import frozen

Process = subprocess.Popen[bytes]

ROOT: Final = Path(__file__).resolve().parent.parent
MACHINE: Final = ROOT / "config" / "machines" / "pc.toml"
NOTHING: Final[Mapping[str, str]] = {}
DAEMON: Final = """\
[daemon]
control = "{directory}/control"
log_level = "error"
hook_deadline_ms = 5000
"""
CACHE: Final = Path(os.environ.get("MMIOD_CACHE", Path.home() / ".cache" / "mmiod"))
"""Where peers are built and boots recorded."""
VM: Final = """\
[[vm]]
name = "{name}"
machine = "{machine}"
socket = "{directory}/{name}{suffix}"
protocol = "{protocol}"
"""
COMPILE: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "include"))
START_S: Final = 30.0


class BenchError(Exception):
    """The benchmark cannot run; the message says why."""


@frozen
class Line:
    """A client that takes commands (commands.h)."""

    process: Process

    def ask(self, name: str, count: int, gap_ns: int = 0) -> Sequence[int]:
        """The ns of each of `count` round trips."""
        self.tell(f"{name} {count} {gap_ns}")
        return self.numbers(count)

    def tell(self, command: str) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchError("a client has ended") from error

    def numbers(self, count: int) -> Sequence[int]:
        """What it answers."""
        assert self.process.stdout is not None
        found = array("Q", self.process.stdout.read(count * array("Q").itemsize))
        if len(found) != count:
            raise BenchError("a client has ended")
        return found


def compiled(name: str, directory: Path, *arguments: str) -> Path:
    """A C program of this folder.

    Raises:
        BenchError: there is no compiler, or it refuses.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        raise BenchError("no gcc: the benchmark's clients are C programs (Debian: gcc libc6-dev)")
    source, program = Path(__file__).parent / f"{name}.c", directory / name
    if not program.exists():
        command = [compiler, *COMPILE, str(source), "-o", str(program), *arguments]
        if subprocess.run(command, check=False).returncode:
            raise BenchError(f"{source} does not compile")
    return program


def vm(directory: Path, name: str, machine: Path = MACHINE, *, vfio_user: bool = False) -> str:
    """A [[vm]] of the configuration; its socket is NAME.exit, or the folder NAME for vfio-user."""
    protocol, suffix = ("vfio-user", "") if vfio_user else ("exit", ".exit")
    return VM.format(directory=directory, name=name, machine=machine, protocol=protocol, suffix=suffix)


def start_daemon(
    stack: ExitStack,
    directory: Path,
    vms: Sequence[str],
    *options: str,
    environment: Mapping[str, str] = NOTHING,
) -> Process:
    """Start it, and wait for its READY=1 as a service manager does.

    Raises:
        BenchError: it does not start.
    """
    config = directory / "mmiod.toml"
    config.write_text(DAEMON.format(directory=directory) + "".join(vms))
    command = [sys.executable, *options, "-m", "mmiod", "serve", "--config", str(config)]
    notifications = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    notifications.bind(str(directory / "notify"))
    notifications.settimeout(START_S)
    daemon = spawn(stack, command, environment={**environment, "NOTIFY_SOCKET": str(directory / "notify")})
    try:
        while b"READY=1" not in notifications.recv(4096):
            pass
    except TimeoutError:
        raise BenchError(f"the daemon did not start within {START_S:.0f} s") from None
    return daemon


def spawn(
    stack: ExitStack,
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | None = None,
    pipes: bool = False,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] = NOTHING,
) -> Process:
    """Start a program in a process group of its own: Ctrl-C is for us, who end it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if pipes else stdin,
        stdout=subprocess.PIPE if pipes else stdout,
        env={**os.environ, **environment},
        pass_fds=pass_fds,
        process_group=0,
    )
    stack.callback(_end, process)
    return process


def client(stack: ExitStack, program: Path, *arguments: str, pass_fds: Sequence[int] = ()) -> Line:
    """Start a client."""
    return Line(spawn(stack, [str(program), *arguments], pipes=True, pass_fds=pass_fds))


def _end(process: Process) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.terminate()
    process.wait()


def pin(process: Process, cpu: int) -> None:
    """Every thread: the affinity of a process is that of its first thread."""
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def cpu_ns(process: Process) -> int:
    """CPU time that all its threads have had (proc(5), schedstat)."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def private_kib(process: Process) -> int:
    """Memory that is its own, without what it shares (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
