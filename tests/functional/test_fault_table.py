"""What becomes of a plugin's faults, in a real daemon: each cell of the design's table.

One VM has the plugin that fails; the other one goes on as if nothing had been.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mmiod.protocol.exit import Client
from mmiod.values import READ, WRITE, DecodedExit, Space, Values
from tests.functional.test_daemon import Hypervisor, Served, connect, start

PLUGIN = '''\
import os
import re

from mmiod.device import Device, Register


class Faulty(Device):
    """Keeps a value, and fails in the way that is written to `fault`."""

    length = 0x20
    kept = Register(0, size=4)
    fault = Register(4, size=4)
    wrong = Register(8, size=4)
    count = Register(0xC, size=4)
    range = Register(0x10, size=4)

    @fault.on_write
    def _fail(self, value: int) -> None:
        self.count += 1
        if value == 1:
            raise RuntimeError("broken")
        if value == 2:
            while True:
                pass
        if value == 3:  # C code that keeps the interpreter's lock
            re.match("(a+)+$", "a" * 64 + "b")
        if value == 4:  # C code that lets other threads run
            __import__("threading").Event().wait()
        if value == 5:
            __import__("ctypes").string_at(0)
        if value == 6:
            os.kill(os.getpid(), 9)
        if value == 7:
            bytearray(2 << 30)
        if value == 8:
            open("/etc/passwd").read()
        if value == 9:
            os.kill(os.getppid(), 9)
        if value == 10:
            held = [b""]
            while True:
                held.append(bytes(1 << 26))
        if value == 11:
            os.fork()

    @wrong.on_read
    def _answer(self) -> str:
        self.count += 1
        return "no number"

    @range.on_read
    def _overflow(self) -> int:
        self.count += 1
        return 1 << 32
'''
KEPT, FAULT, WRONG, COUNT, GOOD = 0x100, 0x104, 0x108, 0x10C, 0x200
ONES = b"\xff" * 4


def configured(directory: Path, isolation: str = "") -> Path:
    """Two VMs, each with a faulty device and one of its own kind that nobody hurts."""
    (directory / "faulty.py").write_text(PLUGIN)
    (directory / "machine.toml").write_text(
        f'[devices.dev]\nplugin = "faulty"\nat = {{ main = "mmio:{KEPT:#x}" }}\n{isolation}'
        '[devices.good]\nplugin = "faulty"\nat = { main = "mmio:0x200" }\n'
    )
    path = directory / "mmiod.toml"
    path.write_text(
        '[daemon]\ncontrol = "control"\nplugins = ["."]\nhook_deadline_ms = 300\n'
        + "".join(
            f'[[vm]]\nname = "{vm}"\nmachine = "machine.toml"\nsocket = "{vm}.exit"\n'
            for vm in ("vm", "peer")
        )
    )
    return path


@pytest.fixture(name="stack")
def _stack() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


def attach(stack: ExitStack, served: Served, vm: str) -> Hypervisor:
    """A session of one VM."""
    hypervisor = Hypervisor(connect(stack, served.directory / f"{vm}.exit"), Client(vm, 1, vendor="test"))
    hypervisor.hello()
    return hypervisor


def read(hypervisor: Hypervisor, address: int) -> bytes:
    """A guest's read of 4 bytes."""
    completion = hypervisor.exit(DecodedExit(0, 0, Space.MMIO, READ, address, 4)).completion
    assert isinstance(completion, Values)
    return completion.data


def write(hypervisor: Hypervisor, address: int, value: int) -> None:
    """A guest's write of 4 bytes."""
    data = value.to_bytes(4, "little")
    completion = hypervisor.exit(DecodedExit(0, 0, Space.MMIO, WRITE, address, 4, data=data)).completion
    assert isinstance(completion, Values)


def begin(stack: ExitStack, config: Path) -> tuple[Served, Hypervisor, Hypervisor]:
    """A daemon and both VMs, whose devices have something to keep."""
    served = start(stack, config)
    served.notified("READY")
    hypervisor, peer = attach(stack, served, "vm"), attach(stack, served, "peer")
    for each in (hypervisor, peer):
        write(each, KEPT, 0x1234)
        write(each, GOOD, 0x5678)
    return served, hypervisor, peer


def check_out_of_service(served: Served, hypervisor: Hypervisor) -> None:
    """The device that failed reads ones until it is back, which on a busy host it may be by now."""
    assert ONES == read(hypervisor, KEPT) or served.events("device_restarted")


def check_others(hypervisor: Hypervisor, peer: Hypervisor) -> None:
    """The device beside the one that failed, and the other VM's of the same plugin, answer."""
    assert [b"\x78\x56\0\0"] * 2 == [read(each, GOOD) for each in (hypervisor, peer)]
    assert b"\x34\x12\0\0" == read(peer, KEPT)


MENDED: dict[str, tuple[Callable[[Hypervisor], object], str]] = {
    "raises": (lambda hypervisor: write(hypervisor, FAULT, 1), "RuntimeError: broken"),
    "wrong type": (
        lambda hypervisor: read(hypervisor, WRONG),
        "TypeError: a read of 4 bytes was answered by 'no number'",
    ),
    "wrong range": (
        lambda hypervisor: read(hypervisor, WRONG + 8),
        "TypeError: a read of 4 bytes was answered by 4294967296",
    ),
    "loops": (lambda hypervisor: write(hypervisor, FAULT, 2), "HookDeadlineExceeded: "),
}
"""What the guest does, and the reason that the event gives."""


@pytest.mark.parametrize("fault", MENDED)
def test_inline_fault_is_mended(stack: ExitStack, tmp_path: Path, fault: str) -> None:
    """All ones and an event that names the device and why; then it is there again, as before the fault."""
    provoke, reason = MENDED[fault]
    served, hypervisor, peer = begin(stack, configured(tmp_path))

    provoke(hypervisor)

    check_out_of_service(served, hypervisor)
    check_others(hypervisor, peer)
    (quarantined,) = served.waits_for("device_quarantined")
    assert ("vm", "dev", reason) == tuple(quarantined[key] for key in ("vm", "device", "reason"))
    (restarted,) = served.waits_for("device_restarted")
    assert ("vm", "dev", 1) == tuple(restarted[key] for key in ("vm", "device", "attempt"))
    assert [b"\x34\x12\0\0", bytes(4)] == [read(hypervisor, at) for at in (KEPT, COUNT)]
    served.process.terminate()
    assert 0 == served.ends()


MENDED_BY_FORCE: dict[str, tuple[Callable[[Hypervisor], object], str]] = {
    **MENDED,
    "C code keeps the lock": (lambda hypervisor: write(hypervisor, FAULT, 3), "HookDeadlineExceeded: "),
    "C code lets threads run": (lambda hypervisor: write(hypervisor, FAULT, 4), "HookDeadlineExceeded: "),
    "C code crashes": (lambda hypervisor: write(hypervisor, FAULT, 5), "WorkerGone: its process has ended"),
    "is killed": (
        lambda hypervisor: write(hypervisor, FAULT, 6),
        "WorkerGone: its process has ended",
    ),
    "takes memory": (lambda hypervisor: write(hypervisor, FAULT, 7), "MemoryError: "),
    "takes memory without end": (lambda hypervisor: write(hypervisor, FAULT, 10), "MemoryError: "),
    "forks": (
        lambda hypervisor: write(hypervisor, FAULT, 11),
        "PermissionError: [Errno 1] Operation not permitted",
    ),
    "opens a file": (
        lambda hypervisor: write(hypervisor, FAULT, 8),
        "PermissionError: [Errno 13] Permission denied: '/etc/passwd'",
    ),
    "signals the daemon": (
        lambda hypervisor: write(hypervisor, FAULT, 9),
        "PermissionError: [Errno 1] Operation not permitted",
    ),
}


@pytest.mark.parametrize("fault", MENDED_BY_FORCE)
def test_fault_in_a_process_is_mended(stack: ExitStack, tmp_path: Path, fault: str) -> None:
    """As inline, and so is what inline takes the daemon down, or is not contained there."""
    provoke, reason = MENDED_BY_FORCE[fault]
    served, hypervisor, peer = begin(stack, configured(tmp_path, 'isolation = "process"\n'))

    provoke(hypervisor)

    check_out_of_service(served, hypervisor)
    check_others(hypervisor, peer)
    (quarantined,) = served.waits_for("device_quarantined")
    assert ("vm", "dev", reason) == tuple(quarantined[key] for key in ("vm", "device", "reason"))
    (restarted,) = served.waits_for("device_restarted")
    assert ("vm", "dev", 1) == tuple(restarted[key] for key in ("vm", "device", "attempt"))
    assert [b"\x34\x12\0\0", bytes(4)] == [read(hypervisor, at) for at in (KEPT, COUNT)]
    served.process.terminate()
    assert 0 == served.ends()


LOST = {"keeps the lock": (3, -signal.SIGPROF), "lets threads run": (4, -signal.SIGABRT)}


@pytest.mark.parametrize("fault", LOST)
def test_inline_c_code_that_does_not_return_ends_the_daemon(
    stack: ExitStack, tmp_path: Path, fault: str
) -> None:
    """Stacks are dumped; the successor begins with that device in quarantine, and serves all others."""
    value, status = LOST[fault]
    config = configured(tmp_path)
    served, hypervisor, _ = begin(stack, config)

    data = value.to_bytes(4, "little")
    message = hypervisor.client.exit(DecodedExit(0, 0, Space.MMIO, WRITE, FAULT, 4, data=data))
    hypervisor.socket.send(message)

    assert status == served.ends()
    (tmp_path / "notify").unlink()
    successor = start(stack, config)
    successor.notified("READY")
    (aborted,) = successor.waits_for("daemon_aborted")
    assert ["vm/dev"] == aborted["devices"]
    assert "faulty.py" in aborted["stacks"]
    (quarantined,) = successor.waits_for("device_quarantined")
    assert ("vm", "dev") == (quarantined["vm"], quarantined["device"])
    hypervisor, peer = attach(stack, successor, "vm"), attach(stack, successor, "peer")
    assert ONES == read(hypervisor, KEPT)
    assert [bytes(4)] * 3 == [read(hypervisor, GOOD), read(peer, KEPT), read(peer, GOOD)]
    successor.process.terminate()
    assert 0 == successor.ends()
    (tmp_path / "notify").unlink()
    third = start(stack, config)
    third.notified("READY")
    assert bytes(4) == read(attach(stack, third, "vm"), KEPT)


def test_daemon_that_is_killed_leaves_no_last_words(stack: ExitStack, tmp_path: Path) -> None:
    """Only stacks are: a kill in the middle of a hook says nothing about the device."""
    config = configured(tmp_path)
    served, hypervisor, _ = begin(stack, config)
    data = (3).to_bytes(4, "little")
    message = hypervisor.client.exit(DecodedExit(0, 0, Space.MMIO, WRITE, FAULT, 4, data=data))
    hypervisor.socket.send(message)
    while not int.from_bytes((tmp_path / "control.hooks").read_bytes()[:2], "little"):
        os.sched_yield()
    served.process.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == served.ends()
    (tmp_path / "notify").unlink()
    successor = start(stack, config)
    successor.notified("READY")
    assert ([], bytes(4)) == (successor.events("daemon_aborted"), read(attach(stack, successor, "vm"), KEPT))


def test_core_dump_has_no_memory(stack: ExitStack, tmp_path: Path) -> None:
    """No mapping of the daemon is written to one."""
    served, _, _ = begin(stack, configured(tmp_path))
    assert 0 == int(Path(f"/proc/{served.process.pid}/coredump_filter").read_text(), 16)
