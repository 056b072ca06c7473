"""Backends on the real thing: files, terminals, sockets, programs."""

from __future__ import annotations

import os
import signal
import socket
import sys
import termios
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st
from structlog.testing import capture_logs

from mmiod.core.backends.faces import Place
from mmiod.core.backends.sinks import MAX_LINE, FileBackend, LogBackend
from mmiod.core.backends.specs import NoBackend, service_backend, stream_backend
from mmiod.core.backends.terminals import StdioBackend
from mmiod.core.wiring import choose
from tests.core.backends import Peripheral, serving

PLACE = Place("vm", "uart0", "serial")
ECHO = "import os; os.write(1, b'%d,' % os.getpid()); [os.write(1, os.read(0, 100).upper()) for _ in '123']"


def left(directory: Path) -> list[Path]:
    """What a backend has not cleaned up."""
    return list(directory.iterdir())


# --- log and file -------------------------------------------------------------------------------


@given(st.lists(st.text("ab\r\n", max_size=30), max_size=10))
def test_log_backend_tells_lines(parts: list[str]) -> None:
    """However the bytes are cut: one event per line, without carriage returns."""
    backend = LogBackend(PLACE)

    async def write() -> None:
        for part in parts:
            await backend.send_all(part.encode())

    with capture_logs() as logs:
        trio.run(write)
    assert "".join(parts).replace("\r", "").split("\n")[:-1] == [event["text"] for event in logs]
    assert {("stream_line", "vm", "uart0", "serial")} >= {
        (event["event"], event["vm"], event["device"], event["stream"]) for event in logs
    }


async def test_line_without_an_end_is_cut() -> None:
    """A guest that sends no line break fills no memory; bytes that are no UTF-8 are shown as such."""
    backend = LogBackend(PLACE)
    with capture_logs() as logs:
        await backend.send_all(b"x" * (2 * MAX_LINE + 1))
        await backend.send_all(b"\xff\n")
    assert ["x" * MAX_LINE, "x" * MAX_LINE, "x\ufffd"] == [event["text"] for event in logs]


async def test_files_get_their_bytes(tmp_path: Path) -> None:
    """Each stream has its own; what a hook sent last is there at the end; the file is appended to."""
    (tmp_path / "serial").write_bytes(b"before ")
    async with serving(tmp_path, serial="file:serial", debug="file:{vm}-{device}") as bench:
        bench.device.serial.send(b"serial")
        bench.device.debug.send(b"debug")
    assert b"before serial" == (tmp_path / "serial").read_bytes()
    assert b"debug" == (tmp_path / "vm-dev").read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/serial", "No such file or directory"),
        (".", "Is a directory"),
        ("/dev/full", "No space left on device"),
        ("pipe", "No such device or address"),
    ],
)
async def test_file_that_cannot_be_written(tmp_path: Path, name: str, reason: str) -> None:
    """The reason is told, in the device's status too; the device's other stream goes on."""
    os.mkfifo(tmp_path / "pipe")
    async with serving(tmp_path, serial=f"file:{name}", debug="file:good") as bench:
        for stream in (bench.device.serial, bench.device.debug):
            stream.send(b"one")
        await bench.until(lambda: "backend_failed" in bench.events)
    assert reason in str(bench.facts("backend_failed")["reason"])
    assert reason in str(bench.rig.machine.backends["dev", "serial"].status.failure)
    assert b"one" == (tmp_path / "good").read_bytes()


async def test_random_bytes_are_the_hosts_or_follow_from_a_seed(tmp_path: Path) -> None:
    """As many as the device takes; what it sends is taken and not used."""
    async with serving(tmp_path, serial="random:seed", debug="random") as bench:
        bench.device.space = 100
        bench.device.serial.ready()
        bench.device.serial.send(b"more entropy")
        await bench.until(lambda: len(bench.device.received) == 100)
        assert Random("seed").randbytes(100) == bench.device.received
    async with serving(tmp_path, serial="random") as bench:
        bench.device.space = 100
        bench.device.serial.ready()
        await bench.until(lambda: len(bench.device.received) == 100)
        assert len(set(bench.device.received)) > 20


# --- terminals ------------------------------------------------------------------------------------


async def test_pty_is_a_raw_terminal_under_a_name(tmp_path: Path) -> None:
    """Bytes pass both ways as they are, a program may come and go; the link goes with the backend."""
    async with serving(tmp_path, serial="pty:console") as bench:
        await bench.until(lambda: "backend_opened" in bench.events)
        assert str(tmp_path / "console") == bench.where
        assert (tmp_path / "console").is_symlink()
        for text in (b"\x03one\r\n", b"two\x04"):
            terminal = os.open(bench.where, os.O_RDWR | os.O_NOCTTY)
            modes = termios.tcgetattr(terminal)[3]
            assert 0 == modes & (termios.ECHO | termios.ICANON | termios.ISIG)
            os.write(terminal, text)
            await bench.until(partial(bench.device.received.endswith, text))
            bench.device.serial.send(text)
            assert text == await trio.to_thread.run_sync(os.read, terminal, len(text))
            os.close(terminal)
    assert [] == left(tmp_path)


async def test_pty_does_not_replace_a_file(tmp_path: Path) -> None:
    """Where something else has the link's name, that stays and the reason is told."""
    (tmp_path / "console").write_text("precious")
    async with serving(tmp_path, serial="pty:console") as bench:
        await bench.until(lambda: "backend_failed" in bench.events)
    assert "is there and no symbolic link" in str(bench.facts("backend_failed")["reason"])
    assert "precious" == (tmp_path / "console").read_text()


async def test_stdio_passes_bytes_and_survives_the_end_of_input(tmp_path: Path) -> None:
    """Standard input and output as pipes; after the end of input output goes on."""
    for_us, to_us = os.pipe()
    from_us, by_us = os.pipe()
    async with serving(tmp_path, streams={"serial": StdioBackend(for_us, by_us)}) as bench:
        os.write(to_us, b"typed")
        await bench.until(lambda: bench.device.received == b"typed")
        os.close(to_us)
        await trio.testing.wait_all_tasks_blocked()
        bench.device.serial.send(b"shown")
        assert b"shown" == await trio.to_thread.run_sync(os.read, from_us, 100)
    for descriptor in (for_us, from_us, by_us):
        os.close(descriptor)


async def test_stdio_reads_a_file(tmp_path: Path) -> None:
    """Input from a file, which no epoll watches, is read to its end."""
    (tmp_path / "input").write_bytes(b"x" * 10_000)
    with (tmp_path / "input").open("rb") as file, (tmp_path / "output").open("wb") as output:
        backend = StdioBackend(file.fileno(), output.fileno())
        async with serving(tmp_path, streams={"serial": backend}) as bench:
            await bench.until(lambda: len(bench.device.received) == 10_000)


# --- sockets --------------------------------------------------------------------------------------


async def dial(bench_path: str) -> trio.SocketStream:
    """Connect."""
    return await trio.open_unix_socket(bench_path)


async def test_listening_socket_has_one_client_at_a_time(tmp_path: Path) -> None:
    """Others are turned away meanwhile; the next one gets what was sent in between."""
    async with serving(tmp_path, serial="unix:serial") as bench:
        await bench.until(lambda: "backend_opened" in bench.events)
        first = await dial(bench.where)
        await first.send_all(b"hello")
        await bench.until(lambda: bench.device.received == b"hello")
        second = await dial(bench.where)
        assert b"" == await second.receive_some(10)
        bench.device.serial.send(b"to the first")
        assert b"to the first" == await first.receive_some(100)
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        bench.device.serial.send(b"to whoever comes")
        third = await dial(bench.where)
        assert b"to whoever comes" == await third.receive_some(100)
        await third.send_all(b"!")
        await bench.until(lambda: bench.device.received == b"hello!")
        await third.aclose()
        await second.aclose()
    assert ["backend_opened"] == bench.events
    assert [] == left(tmp_path)


async def test_paste_is_held_back_until_there_is_room(tmp_path: Path) -> None:
    """A client that sends more than the device takes waits in its own send; nothing is lost."""
    data = bytes(range(256)) * 4096
    async with serving(tmp_path, serial="unix:serial") as bench, trio.open_nursery() as nursery:
        bench.device.space = 1000
        await bench.until(lambda: "backend_opened" in bench.events)
        client = await dial(bench.where)
        nursery.start_soon(client.send_all, data)
        while len(bench.device.received) < len(data):
            await bench.until(lambda: len(bench.device.received) == min(bench.device.space, len(data)))
            bench.device.space += 100_000
            bench.device.serial.ready()
        assert data == bench.device.received
        await client.aclose()


async def test_socket_of_another_daemon_is_not_taken(tmp_path: Path) -> None:
    """Somebody listens on the path already: the reason is told, and the socket stays."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "serial"))
        other.listen()
        async with serving(tmp_path, serial="unix:serial") as bench:
            await bench.until(lambda: "backend_failed" in bench.events)
    assert "another daemon serves this socket" in str(bench.facts("backend_failed")["reason"])
    assert (tmp_path / "serial").is_socket()


async def test_connection_is_made_again(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A peer that ends the connection gets another one."""
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(tmp_path / "peer"))
    listener.listen()
    autojump_clock.autojump_threshold = 0.05
    async with serving(tmp_path, serial="unix-connect:peer") as bench:
        for number in (1, 2):
            client, _ = await listener.accept()
            await client.send(b"%d" % number)
            await bench.until(partial(bench.device.received.endswith, b"%d" % number))
            bench.device.serial.send(b"answer")
            assert b"answer" == await client.recv(100)
            client.close()
    listener.close()
    assert b"12" == bench.device.received
    assert "the far side has ended" == bench.facts("backend_failed")["reason"]


async def test_each_piece_is_a_datagram(tmp_path: Path) -> None:
    """To the path go datagrams as the device sends; what comes back are bytes, also of more than one room."""
    peer = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    await peer.bind(str(tmp_path / "peer"))
    async with serving(tmp_path, serial="datagram:peer") as bench:
        bench.device.space = 3
        for piece in (b"one", b"two"):
            bench.device.serial.send(piece)
        first, sender = await peer.recvfrom(100)
        assert [b"one", b"two"] == [first, await peer.recv(100)]
        await peer.sendto(b"answer", sender)
        await bench.until(lambda: bench.device.received == b"ans")
        bench.device.space = 100
        bench.device.serial.ready()
        await bench.until(lambda: bench.device.received == b"answer")
    peer.close()


# --- programs -------------------------------------------------------------------------------------


async def test_program_is_the_far_side_of_a_stream(tmp_path: Path) -> None:
    """Its standard input and output; it ends with the backend."""
    async with serving(tmp_path, serial=f'process:{sys.executable} -c "{ECHO}"') as bench:
        bench.device.serial.send(b"hello")
        await bench.until(lambda: bench.device.received.endswith(b",HELLO"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(bench.device.received.split(b",")[0]), 0)


async def test_program_that_ends_is_started_again(tmp_path: Path) -> None:
    """The event has the program's status; bytes that come later reach the next one."""
    command = (
        f"process:{sys.executable} -uc 'import os, signal; os.write(1, b\"x\"); os.kill(os.getpid(), 9)'"
    )
    async with serving(tmp_path, serial=command) as bench:
        await bench.until(lambda: len(bench.device.received) >= 2)
    assert f"it was ended by {signal.SIGKILL.name}" == bench.facts("backend_failed")["reason"]


async def test_program_that_is_not_there(tmp_path: Path) -> None:
    """The reason names it."""
    async with serving(tmp_path, serial="process:no-such-program") as bench:
        await bench.until(lambda: "backend_failed" in bench.events)
    assert "no-such-program" in str(bench.facts("backend_failed")["reason"])


# --- what a machine file says ---------------------------------------------------------------------

FORMS = (
    "null, log, file:PATH, stdio, pty[:LINK], unix:PATH, unix-connect:PATH, datagram:PATH, random[:SEED], "
    "process:COMMAND"
)


@pytest.mark.parametrize(
    "spec", ["", "file", "file:", "log:x", "null:x", "stdio:1", "unix:", "tcp:1", "swtpm"]
)
def test_unknown_backend_is_refused(spec: str) -> None:
    """The error has the stream, what was written and what there is."""
    with pytest.raises(ValueError) as refused:
        stream_backend(spec, PLACE)
    assert f"stream serial = {spec!r}: a backend is {FORMS}" == str(refused.value)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("process:'unfinished", "No closing quotation"),
        ("swtpm-socket:data", "it is swtpm-socket:DATA,CONTROL"),
        ("unix:x", "a backend is null, block:PATH, swtpm[:DIRECTORY], swtpm-socket:DATA,CONTROL"),
        ("swtpm", "it does not do ask"),
    ],
)
def test_wrong_backend_is_refused(spec: str, reason: str) -> None:
    """What cannot be meant, and a service that does not do what the device asks."""
    kinds = frozenset({"initialize", "execute", "ask"})
    with pytest.raises(ValueError) as refused:
        stream_backend(spec, PLACE) if spec.startswith("process") else service_backend(spec, PLACE, kinds)
    assert reason in str(refused.value)


def test_paths_are_relative_to_the_machine_file(tmp_path: Path) -> None:
    """{vm} and {device} stand for names."""
    backend = stream_backend("file:{vm}/{device}.log", Place("vm0", "uart0", "serial", tmp_path))
    assert isinstance(backend, FileBackend)
    assert tmp_path / "vm0" / "uart0.log" == backend.path


def test_stream_that_the_device_does_not_have_is_refused() -> None:
    """The error lists those that it has."""
    with pytest.raises(ValueError, match=r"streams\.console: the device has debug, disk, image, serial"):
        choose(Peripheral, PLACE, {"console": "log"})


async def test_service_without_backend_fails_its_requests() -> None:
    """A machine file may leave it out: nothing hangs."""
    async with serving(service=NoBackend(frozenset({"execute"}))) as bench:
        bench.device.disk.send("execute")
        await bench.until(lambda: bool(bench.device.answers))
    assert [(1, "the machine file names no backend")] == bench.device.answers
