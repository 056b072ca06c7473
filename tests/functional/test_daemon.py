"""`mmiod` as people and systemd run it: a process, its signals, its sockets, its exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from mmiod.ctl.client import Client as ControlClient
from mmiod.protocol.exit import MAX_MESSAGE, Client, Completed, ToClient, Welcome
from mmiod.values import READ, WRITE, DecodedExit, Space, Values

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
MANAGERS = ("NOTIFY_", "WATCHDOG_", "LISTEN_")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(MANAGERS)}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)

SLOW = """\
from mmiod.device import PENDING, Device, Pending


class Slow(Device):
    \"\"\"Reads are never answered.\"\"\"

    length = 4

    def read(self, _offset: int, _size: int) -> Pending:
        return PENDING

    def write(self, _offset: int, _size: int, _value: int) -> None:
        pass
"""
MACHINE = """\
[devices.slow]
plugin = "slow"
at = { main = "pio:0x100" }
[devices.uart0]
plugin = "legacy/uart16550"
at = { ports = "pio:0x3f8" }
streams = { serial = "file:serial" }
"""


def configured(directory: Path, log_level: str = "info") -> Path:
    """A configuration of one VM, all of it in one folder."""
    (directory / "slow.py").write_text(SLOW)
    (directory / "machine.toml").write_text(MACHINE)
    path = directory / "mmiod.toml"
    path.write_text(
        f'[daemon]\ncontrol = "control"\nplugins = ["."]\nlog_level = "{log_level}"\n'
        '[[vm]]\nname = "vm"\nmachine = "machine.toml"\nsocket = "vm.exit"\n'
    )
    return path


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`mmiod` to its end, and that of all processes that it started."""
    command = [sys.executable, "-m", "mmiod", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=ENVIRONMENT | variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=2 * PATIENCE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@define(eq=False)
class Served:
    """A daemon under way."""

    directory: Path
    process: subprocess.Popen[bytes]
    manager: socket.socket
    log: Path

    def notified(self, variable: str) -> dict[str, str]:
        """The next notification with this variable."""
        while True:
            lines = self.manager.recv(4096).decode().split("\n")
            message = dict(line.split("=", 1) for line in lines)
            if variable in message:
                return message

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What is in the log, of this name."""
        events = [json.loads(line) for line in self._whole_lines()]
        return [event for event in events if name in {None, event["event"]}]

    def _whole_lines(self) -> list[str]:
        """The daemon may be in the middle of the next one."""
        return self.log.read_text().rpartition("\n")[0].splitlines()

    def waits_for(self, name: str) -> list[dict[str, Any]]:
        """The events of this name, once there is one."""
        end = time.monotonic() + PATIENCE_S
        while not (events := self.events(name)):
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            os.sched_yield()
        return events

    def ends(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE_S)


@define(eq=False)
class Hypervisor:
    """A client of the exit socket."""

    socket: socket.socket
    client: Client = field(factory=lambda: Client("vm", 2, vendor="test"))

    def receive(self) -> ToClient:
        """The next message."""
        return self.client.receive(self.socket.recv(MAX_MESSAGE))

    def hello(self) -> None:
        """Begin a session."""
        self.socket.send(self.client.hello())
        assert isinstance(self.receive(), Welcome)

    def exit(self, exit_: DecodedExit) -> Completed:
        """One exit and its completion."""
        self.socket.send(self.client.exit(exit_))
        completed = self.receive()
        assert isinstance(completed, Completed)
        return completed


@pytest.fixture(name="stack")
def _stack() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, config: Path, *prefix: str | Path, options: tuple[str, ...] = ()) -> Served:
    """`mmiod serve`, perhaps by way of another program."""
    directory = config.parent
    manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    manager.bind(str(directory / "notify"))
    manager.settimeout(PATIENCE_S)
    log = directory / "log"
    command = [*prefix, sys.executable, "-m", "mmiod", "serve", "--config", config, *options]
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(directory / "notify")}
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr, stdout=subprocess.DEVNULL)

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return Served(directory, process, manager, log)


def serve(stack: ExitStack, config: Path, *options: str) -> Served:
    """A daemon that is ready."""
    served = start(stack, config, options=options)
    assert "1 VMs, 0 attached, 2 devices, 0 accesses" == served.notified("READY")["STATUS"]
    return served


def connect(stack: ExitStack, path: Path, kind: socket.SocketKind = socket.SOCK_SEQPACKET) -> socket.socket:
    """Connect as soon as somebody listens."""
    client = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
    client.settimeout(PATIENCE_S)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.connect(str(path))
        except OSError:
            assert time.monotonic() < end
            os.sched_yield()
        else:
            return client


def attach(stack: ExitStack, served: Served) -> Hypervisor:
    """A session."""
    hypervisor = Hypervisor(connect(stack, served.directory / "vm.exit"))
    hypervisor.hello()
    return hypervisor


def edit(directory: Path, old: str, new: str) -> None:
    """Change the plugin, as an editor does: another file takes its place."""
    path = directory / "slow.py"
    text = path.read_text()
    assert 1 == text.count(old)
    (directory / "new").write_text(text.replace(old, new))
    (directory / "new").replace(path)


def ctl(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`mmioctl` to its end."""
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(directory / "control"), *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def in_(vcpu: int, port: int) -> DecodedExit:
    """IN of four bytes."""
    return DecodedExit(vcpu, 0, Space.PIO, READ, port, 4)


def test_sigterm_answers_what_is_in_flight(stack: ExitStack, tmp_path: Path) -> None:
    """An access that a device holds up, and the one behind it, read all ones; then the end, status 0."""
    served = serve(stack, configured(tmp_path))
    hypervisor = attach(stack, served)
    for vcpu in (0, 1):
        hypervisor.socket.send(hypervisor.client.exit(in_(vcpu, 0x100)))
    other = connect(stack, served.directory / "control", socket.SOCK_STREAM)
    while {0, 1} > {event["vcpu"] for event in served.events("exit_dumped")}:  # until both have come
        served.process.send_signal(signal.SIGUSR2)
        served.waits_for("exit_dumped")
    served.process.terminate()

    assert "answering what is in flight" == served.notified("STOPPING")["STATUS"]
    answers = [hypervisor.receive() for _ in range(2)]
    assert {(0, Values(b"\xff" * 4)), (1, Values(b"\xff" * 4))} == {
        (answer.vcpu, answer.completion) for answer in answers if isinstance(answer, Completed)
    }
    assert b"" == hypervisor.socket.recv(MAX_MESSAGE)
    assert 0 == served.ends()
    assert b"" == other.recv(1)
    assert not (tmp_path / "vm.exit").exists()
    assert not (tmp_path / "control").exists()
    assert 2 == served.events("daemon_stopped")[0]["accesses"]


def test_stream_is_written_to_its_end(stack: ExitStack, tmp_path: Path) -> None:
    """What a device sent before SIGTERM is in its file, which lies beside the machine file."""
    served = serve(stack, configured(tmp_path))
    hypervisor = attach(stack, served)
    for character in b"hello":
        hypervisor.exit(DecodedExit(0, 0, Space.PIO, WRITE, 0x3F8, 1, data=bytes([character])))
    served.process.terminate()
    assert 0 == served.ends()
    assert b"hello" == (tmp_path / "serial").read_bytes()


def test_sigusr2_dumps_tasks_and_exits(stack: ExitStack, tmp_path: Path) -> None:
    """Every task with its stack, and each exit with what it waits for."""
    served = serve(stack, configured(tmp_path))
    hypervisor = attach(stack, served)
    hypervisor.exit(in_(0, 0x200))
    hypervisor.socket.send(hypervisor.client.exit(in_(1, 0x100)))
    while not served.events("exit_dumped"):
        served.process.send_signal(signal.SIGUSR2)
        served.waits_for("task_dumped")
    dumped = served.events("exit_dumped")[0]
    assert ("vm", 1, 1, "DecodedExit", "slow") == tuple(
        dumped[key] for key in ("vm", "vcpu", "sequence", "kind", "waits_for")
    )
    tasks = served.events("task_dumped")
    names = " ".join(task["task"] for task in tasks)
    for part in ("serve", "Pump.run", "VmAttachment.run", "DeviceTask.run", "Server.run"):
        assert part in names
    pump = next(task for task in tasks if "Pump.run" in task["task"])
    assert any(line.startswith("pump.py:") for line in pump["stack"])


def test_sighup_reloads_what_has_changed(stack: ExitStack, tmp_path: Path) -> None:
    """The manager is told begin and end; an edited plugin serves, and what is not reloaded is said."""
    served = serve(stack, configured(tmp_path))
    hypervisor = attach(stack, served)
    hypervisor.exit(in_(0, 0x200))
    edit(tmp_path, "        return PENDING\n", "        return 7\n")
    served.process.send_signal(signal.SIGHUP)
    served.notified("RELOADING")
    assert "1 VMs, 1 attached" in served.notified("READY")["STATUS"]
    assert Values(b"\x07\0\0\0") == hypervisor.exit(in_(0, 0x100)).completion
    (event,) = served.events("device_reloaded")
    assert ("slow", 2, ["vm/slow"]) == (event["plugin"], event["generation"], event["devices"])
    (event,) = served.events("plugins_reloaded")
    assert (["slow"], "mmiod.toml and machine files, which are read at start only") == (
        event["changed"], event["not_reloaded"]
    )  # fmt: skip


def test_access_that_waits_survives_a_reload(stack: ExitStack, tmp_path: Path) -> None:
    """By mmioctl, while a vCPU waits; a plugin that is broken is refused with its place, status 1."""
    served = serve(stack, configured(tmp_path))
    hypervisor = attach(stack, served)
    hypervisor.socket.send(hypervisor.client.exit(in_(0, 0x100)))
    edit(tmp_path, "        return PENDING\n", "        (\n")
    refused = ctl(tmp_path, "reload", "slow")
    assert 1 == refused.returncode
    assert f"mmioctl: slow stays as it is: {tmp_path}/slow.py:10: SyntaxError: " in refused.stderr
    answered = "        return 7\n\n    def on_reload(self) -> None:\n        self.complete(5)\n"
    edit(tmp_path, "        (\n", answered)
    done = ctl(tmp_path, "reload", "vm/slow")
    assert done.stdout.startswith("slow: generation 2 serves vm/slow; the pause was ")
    completed = hypervisor.receive()
    assert isinstance(completed, Completed)
    assert Values(b"\x05\0\0\0") == completed.completion
    again = ctl(tmp_path, "reload", "slow")
    assert "TypeError: slow completed an access that it does not owe" in again.stderr
    back = ctl(tmp_path, "rollback", "slow")
    assert back.stdout.startswith("slow: generation 3 serves vm/slow; ")
    unknown = ctl(tmp_path, "reload", "fast")
    known = "'fast' is neither a plugin nor a device; plugins: legacy/uart16550, slow; devices: as "
    assert (1, f"mmioctl: {known}`mmioctl devices` shows\n") == (unknown.returncode, unknown.stderr)


def test_saved_plugin_is_reloaded(stack: ExitStack, tmp_path: Path) -> None:
    """With --watch a save is enough; a broken one is refused, and the next one serves."""
    served = serve(stack, configured(tmp_path), "--watch")
    hypervisor = attach(stack, served)
    hypervisor.exit(in_(0, 0x200))
    edit(tmp_path, "        return PENDING\n", "        (\n")
    assert 10 == served.waits_for("reload_rejected")[0]["line"]
    edit(tmp_path, "        (\n", "        return 9\n")
    assert 2 == served.waits_for("device_reloaded")[0]["generation"]
    assert Values(b"\x09\0\0\0") == hypervisor.exit(in_(0, 0x100)).completion
    served.process.terminate()
    assert 0 == served.ends()


def test_stale_socket_is_removed(stack: ExitStack, tmp_path: Path) -> None:
    """What a killed daemon left does not keep the next one from starting."""
    config = configured(tmp_path)
    first = serve(stack, config)
    first.process.kill()
    first.ends()
    assert (tmp_path / "vm.exit").is_socket()
    (tmp_path / "notify").unlink()
    second = serve(stack, config)
    attach(stack, second)


def test_second_daemon_is_refused(stack: ExitStack, tmp_path: Path) -> None:
    """The error has the socket and the reason; the first one goes on."""
    config = configured(tmp_path)
    served = serve(stack, config)
    refused = run("serve", "--config", config)
    assert (1, f"{tmp_path}/vm.exit: another daemon serves this socket\n") == (
        refused.returncode,
        refused.stderr,
    )
    attach(stack, served)


@pytest.mark.parametrize(
    ("path", "reason"), [("vm.exit", "Address already in use"), ("control", "Address already in use")]
)
def test_file_in_the_sockets_place_is_left_alone(tmp_path: Path, path: str, reason: str) -> None:
    """It is not ours to remove."""
    config = configured(tmp_path)
    (tmp_path / path).write_text("mine")
    refused = run("serve", "--config", config)
    assert (1, f"{tmp_path}/{path}: {reason}\n") == (refused.returncode, refused.stderr)
    assert "mine" == (tmp_path / path).read_text()


@pytest.mark.needs("systemd")
@pytest.mark.parametrize("name", ["exit.vm", "control"])
def test_socket_of_the_service_manager_is_used(stack: ExitStack, tmp_path: Path, name: str) -> None:
    """systemd-socket-activate opens it: it is served and stays; the other one is our own."""
    config, passed = configured(tmp_path), tmp_path / "passed"
    options = ["--seqpacket"] if name == "exit.vm" else []
    names = ["PYTHONPATH", "NOTIFY_SOCKET"]
    activate: list[str | Path] = ["systemd-socket-activate", *options, "-l", passed, f"--fdname={name}"]
    activate += [word for variable in names for word in ("-E", variable)]
    served = start(stack, config, *activate)
    if name == "exit.vm":
        Hypervisor(connect(stack, passed)).hello()
        served.notified("READY")
        assert not (tmp_path / "vm.exit").exists()
    else:
        connect(stack, passed, socket.SOCK_STREAM)
        served.notified("READY")
        client = ControlClient(str(passed))
        stack.callback(client.close)
        assert 0 < len(client.call("ListDevices")["devices"])
        assert not (tmp_path / "control").exists()
    served.process.terminate()
    assert 0 == served.ends()
    assert passed.is_socket()


def test_wrong_environment_is_told(tmp_path: Path) -> None:
    """A variable of the service manager that makes no sense: one line, no traceback."""
    refused = run("serve", "--config", configured(tmp_path), NOTIFY_SOCKET="x")
    assert (1, "NOTIFY_SOCKET=x: a path or @name was expected\n") == (refused.returncode, refused.stderr)


def test_check_config(tmp_path: Path) -> None:
    """0 and one line for what would start; 1 and a line for each problem; 2 for a wrong call."""
    config = configured(tmp_path)
    good = run("check-config", "--config", config)
    assert (0, f"{config}: 1 VMs, 0 attached, 2 devices, 0 accesses\n", "") == (
        good.returncode, good.stdout, good.stderr
    )  # fmt: skip
    assert not (tmp_path / "vm.exit").exists()

    (tmp_path / "machine.toml").write_text(
        MACHINE.replace("legacy/uart16550", "legacy/none").replace("0x100", "x")
    )
    bad = run("check-config", "--config", config)
    first, second = bad.stderr.splitlines()
    assert (1, "") == (bad.returncode, bad.stdout)
    assert f"{tmp_path}/machine.toml: devices['slow'].at['main']: 'x' is no number" == first
    assert second.startswith(f"{tmp_path}/machine.toml: devices.uart0: plugin legacy/none: not found in ")
    assert 2 == run("check-config", "--no-such-option").returncode


@pytest.mark.needs("seabios", "unicorn")
def test_demo_reaches_the_firmwares_end() -> None:
    """`mmiod demo --json`: finished, every instruction executed, devices with accesses."""
    shown = run("demo", "--json")
    assert 0 == shown.returncode, shown.stderr
    figures = json.loads(shown.stdout)
    assert figures["finished"]
    assert [[]] == [totals["unsupported"] for totals in figures["exits"]["totals"]]
    assert "debugcon" in json.dumps(figures["statistics"])


@pytest.mark.needs("seabios", "unicorn")
def test_demo_of_a_reload_reaches_its_end() -> None:
    """`mmiod demo-reload`: the broken edit is refused, the other one speaks the firmware's last line."""
    shown = run("demo-reload")
    assert 0 == shown.returncode, shown.stderr
    assert "debugcon.py:33: SyntaxError: '(' was never closed" in shown.stdout
    assert "pseudo/debugcon: generation 2 serves demo/debugcon; the pause was " in shown.stdout
    assert "Press ESC for boot menu." in shown.stdout
    assert "\nNO BOOTABLE DEVICE.\n" in shown.stdout
