"""`mmioctl` against a served control socket."""

from __future__ import annotations

import errno
import json
import signal
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from mmiod.core.pump import Pump
from mmiod.ctl.__main__ import main
from mmiod.ctl.commands import show_reloaded
from mmiod.plugins.loader import Source
from mmiod.plugins.registry import Generation
from mmiod.trace.filter import KEYS
from mmiod.values import READ, DecodedExit, Space
from tests.control.small_daemon import Serial, SmallDaemon, served

ROOT = Path(__file__).parents[2]
BOTH = "vm0/uart0, vm1/uart0"


@pytest.fixture
def daemon() -> SmallDaemon:
    """A daemon that has seen some traffic."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FB, 0x83)
    daemon.access("vm0", 0x500)
    for _ in range(3):
        daemon.access("vm0", 0x3FD)
    return daemon


async def run(daemon: SmallDaemon, path: Path, *arguments: str) -> int:
    """Run a command line while the daemon serves; its exit code."""
    async with served(daemon, path):
        return await trio.to_thread.run_sync(main, ["--socket", str(path), *arguments])


async def test_devices(daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of devices, and a sentence for each that does not serve."""
    daemon.machines["vm0"].hosts["slow"].quarantine(ValueError("bad bits"))

    status = await run(daemon, tmp_path / "control", "devices", "--vm", "vm0")

    expected = """\
VM   DEVICE  PLUGIN  GEN  STATE        WHERE                                LINES HIGH  READS  WRITES  ERRORS
vm0  uart0   serial    1  serving      pio:0x3f8+0x8                        -               3       1       0
vm0  slow    slow      1  quarantined  mmio:0xfed40000+0x4 window:unplaced  -               0       0       1

vm0/slow is out of service: ValueError: bad bits
"""
    assert (0, expected) == (status, capsys.readouterr().out)


async def test_map(daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each space with its holes and what they answer."""
    await run(daemon, tmp_path / "control", "map", "--vm", "vm0")

    expected = """\
vm0 pio
FROM   TO      OWNER  REGION    PLACED BY  HITS
0x0    0x7f    -      (ones)    -             0
0x80   0x80    -      (ignore)  -             0
0x81   0x3f7   -      (ones)    -             0
0x3f8  0x3ff   uart0  main      machine
0x400  0xffff  -      (ones)    -             1
"""
    assert expected.rstrip() in capsys.readouterr().out.split("\n\n")


async def test_exits(daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An exit that waits says for whom, and the totals follow."""
    await run(daemon, tmp_path / "control", "exits")
    assert "no exit is in flight\n" == capsys.readouterr().out

    flights = daemon.attach("vm0", Pump(threading.Event()))
    flights.exit(DecodedExit(1, 5, Space.MMIO, READ, 0xFED4_0000, 4), 0, None)  # type: ignore[arg-type]
    flights.totals.exits["raw"] = 12
    flights.totals.unsupported[b"\x0f\xae"] = 3
    await run(daemon, tmp_path / "again", "exits")

    head, row, _, title, _, raw, unsupported = capsys.readouterr().out.splitlines()
    assert ["VM", "VCPU", "SEQUENCE", "KIND", "AGE", "ADDRESS", "PC", "WAITS", "FOR"] == head.split()
    words = row.split()
    words.pop(4)
    assert ["vm0", "1", "5", "decoded", "mmio:0xfed40000", "-", "slow"] == words
    assert "vm0 since its hypervisor came" == title
    assert ["exit", "raw", "12"] == raw.split()
    assert ["unsupported", "0f", "ae", "3"] == unsupported.split()


async def test_registers(daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Registers with all their fields; a getter that fails says so in its line."""
    await run(daemon, tmp_path / "control", "registers", "vm0/uart0")

    expected = """\
REGISTER  WHERE     SIZE  ACCESS  VALUE  FIELDS
RBR       main+0x0     1  r       0x41
LCR       main+0x3     1  rw      0x83   WLS=3 STB=0 DLAB=1
LSR       main+0x5     1  rc      0x00
BROKEN    main+0x7     1  r       ?      RuntimeError: out of order
"""
    assert expected == capsys.readouterr().out


@pytest.mark.parametrize("words", [["vm0/uart0", "lcr"], ["vm0/uart0.LCR"], ["--vm", "vm0", "uart0.l?r"]])
async def test_registers_of_a_name(
    daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """A register is named behind its device, or as `break` has it."""
    await run(daemon, tmp_path / "control", "registers", *words)
    assert "LCR" in capsys.readouterr().out.splitlines()[1]


async def test_statistics(daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counters per device and for all, then the holes that were hit."""
    await run(daemon, tmp_path / "control", "statistics")

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["DEVICE", "READS", "WRITES", "REFUSED", "FAULTS", "P50", "P99"] == lines[0]
    assert ["vm0/uart0", "3", "1", "0", "0"] == lines[1][:5]
    assert ["vm0/slow", "0", "0", "0", "0", "-", "-"] == lines[2]
    assert ["all", "3", "1", "0", "0"] == lines[5][:5]
    assert ["vm0", "pio:0x400", "0xffff", "ones", "1"] == lines[-1]


async def test_json_is_the_daemons_reply(
    daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json gives programs what the varlink call gives, before or behind the command."""
    await run(daemon, tmp_path / "control", "--json", "registers", "vm0/uart0", "lcr")
    before = json.loads(capsys.readouterr().out)
    await run(daemon, tmp_path / "again", "registers", "vm0/uart0", "lcr", "--json")
    behind = json.loads(capsys.readouterr().out)

    assert before == behind
    assert [("lcr", 0x83)] == [(found["name"], found["value"]) for found in before["registers"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devices", "--vm", "vm9"], "there is no VM 'vm9'; there are: vm0, vm1"),
        (["watch", "--vm", "vm9"], "there is no VM 'vm9'; there are: vm0, vm1"),
        (["attach", "vm9/uart0"], "'vm9/uart0' is no stream that has a backend; there are: none"),
        *(
            ([command, "uart0"], f"'uart0' is the name of several devices: {BOTH}; say which, as VM/DEVICE")
            for command in ("registers", "break", "continue")
        ),
        (["continue", "pit", "--vm", "vm0"], "there is no device 'pit'; there are: vm0/uart0, vm0/slow"),
        (
            ["registers", "uart0", "x*", "--vm", "vm0"],
            "vm0/uart0 has no register 'x*'; there are: rbr, lcr, lsr, broken",
        ),
        (
            ["watch", "dev==x"],
            f"the filter cannot be read: 'dev' is no key; a filter knows {', '.join(KEYS)}",
        ),
    ],
)
async def test_refusals_are_sentences(
    daemon: SmallDaemon,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """What the daemon refuses is explained, with exit code 1."""
    status = await run(daemon, tmp_path / "control", *arguments)

    assert (1, f"mmioctl: {message}\n") == (status, capsys.readouterr().err)


async def test_a_name_for_several_plugins_is_refused_with_the_ways_to_say_which(
    daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A candidate, and --vm, mean one plugin: here one that has no generation before."""
    daemon.machines["vm1"].hosts["uart0"].plugin = "other"
    source = Source("other", str(tmp_path / "other.py"), {})
    daemon.reloader.registry.current["other"] = Generation(1, source, Serial)

    for number, command in enumerate(("reload", "rollback")):
        assert 1 == await run(daemon, tmp_path / str(number), command, "uart0")
        expected = f"mmioctl: 'uart0' is the name of several devices: {BOTH}; say which, as VM/DEVICE\n"
        assert expected == capsys.readouterr().err
    for words in (["vm1/uart0"], ["uart0", "--vm", "vm1"]):
        assert 1 == await run(daemon, tmp_path / words[-1].replace("/", "."), "rollback", *words)
        assert "mmioctl: vm1/uart0 stays as it is: " in capsys.readouterr().err


START = (
    "start it with `systemctl start mmiod` or `mmiod serve --config FILE`, "
    "or name its control socket with --socket"
)
SEE = "see whether mmiod runs, and whether that is its control socket"
NAME = "name mmiod's control socket with --socket"


def refusal(path: Path | str, capsys: pytest.CaptureFixture[str]) -> str:
    """Why nobody answers there, and what to do: one line, and exit code 3."""
    assert 3 == main(["--socket", str(path), "devices"])
    text = capsys.readouterr().err
    assert text.endswith("\n")
    assert 1 == text.count("\n")
    return text.removeprefix(f"mmioctl: no mmiod answers at {path}: ").rstrip()


def test_no_daemon_says_where_and_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The socket's path, the reason, and how to start it; or that this is no control socket at all."""
    path = tmp_path / "control"
    assert f"No such file or directory; {START}" == refusal(path, capsys)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert f"Connection refused; {START}" == refusal(path, capsys)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "exit"))
        listener.listen()
        assert f"Protocol wrong type for socket; {NAME}" == refusal(tmp_path / "exit", capsys)
    assert f"AF_UNIX path too long; {NAME}" == refusal("a" * 200, capsys)


def test_a_socket_that_may_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Starting it would not help.  Faked, as root may reach everything."""

    class Denied(socket.socket):
        """A socket of others."""

        def connect(self, _path: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("mmiod.ctl.client.socket.socket", Denied)
    remedy = "join the socket's group, usually mmiod, or be root"
    assert f"Permission denied; {remedy}" == refusal(tmp_path / "control", capsys)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", f"the connection was closed without an answer; {SEE}"),
        (b"HTTP/1.1 400 Bad Request\0", f"what answers there speaks no varlink; {NAME}"),
        (b"\xff\0", f"what answers there speaks no varlink; {NAME}"),
        (b"[]\0", f"what answers there speaks no varlink; {NAME}"),
        (b'{"parameters": 5}\0', f"what answers there speaks no varlink; {NAME}"),
        (b"[" * 100_000 + b"\0", f"what answers there speaks no varlink; {NAME}"),
    ],
    ids=["nothing", "http", "binary", "array", "number", "deep"],
)
def test_what_answers_is_no_mmiod(
    tmp_path: Path, answer: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program's socket, or a daemon that ends meanwhile: exit code 3 and no traceback."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        told = refusal(tmp_path / "control", capsys)
        server.join()

    assert reason == told


@pytest.mark.parametrize(
    "words",
    [
        ["registers", "\udcff"],
        ["break", "\udcff"],
        ["continue", "\udcff"],
        ["watch", "device==\udcff"],
        ["reload", "\udcff"],
        ["devices", "--vm", "\udcff"],
    ],
)
async def test_word_that_is_no_text(
    words: list[str], daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte of the command line that is not UTF-8: no daemon could be told of it."""
    assert 2 == await run(daemon, tmp_path / "control", *words)
    assert "mmioctl: '\\udcff' is not UTF-8\n" == capsys.readouterr().err


async def test_interrupted_before_the_answer(tmp_path: Path) -> None:
    """Whoever does not wait for a reload gets no traceback."""
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(tmp_path / "control"), "reload", "uart0"]
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "control"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, stderr=PIPE, check=False, cwd=ROOT)
            process: trio.Process = await nursery.start(start, command)
            assert process.stderr is not None
            peer, _ = await listener.accept()
            await peer.recv(4096)
            process.send_signal(signal.SIGINT)
            remarks = b"".join([data async for data in process.stderr])
            assert (130, b"") == (await process.wait(), remarks)
            peer.close()


@pytest.mark.parametrize(
    ("sink", "status", "remark"),
    [
        ("> /dev/full", 1, "mmioctl: what was asked for cannot be written: No space left on device\n"),
        (">&-", 0, ""),
        ("| true", 0, ""),
    ],
)
async def test_answer_that_nobody_takes(
    sink: str, status: int, remark: str, daemon: SmallDaemon, tmp_path: Path
) -> None:
    """A full disk is told; a closed output or a pipe that nobody reads is no mistake."""
    mmioctl = f"'{sys.executable}' -m mmiod.ctl --socket '{tmp_path}/control'"
    command = f"{{ {mmioctl} devices; echo $? > '{tmp_path}/status'; }} {sink}"
    async with served(daemon, tmp_path / "control"):
        done = await trio.run_process(["sh", "-c", command], capture_stderr=True, check=False, cwd=ROOT)
    assert (f"{status}\n", remark) == ((tmp_path / "status").read_text(), done.stderr.decode())


@pytest.mark.parametrize("words", [["upgrade", "--vm", "vm0"], ["explain", "90", "--socket", "control"]])
def test_what_a_command_does_not_look_at_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An upgrade is all VMs', and an instruction is explained without a daemon."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert 2 == ended.value.code
    assert f"unrecognized arguments: {words[-2]} {words[-1]}\n" in capsys.readouterr().err


def test_wrong_command_line_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Argparse's own code; --help documents all of them."""
    with pytest.raises(SystemExit) as wrong:
        main(["frobnicate"])
    with pytest.raises(SystemExit) as helped:
        main(["--help"])

    assert (2, 0) == (wrong.value.code, helped.value.code)
    text = capsys.readouterr().out
    assert ["  0  done", "  1  the ", "  2  the ", "  3  no d", "130  Ctrl"] == [
        line[:9] for line in text.splitlines() if line[2:3].isdigit()
    ]


def test_filter_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """`mmioctl watch --help` knows what the daemon's filter knows."""
    with pytest.raises(SystemExit):
        main(["watch", "--help"])

    words = set(capsys.readouterr().out.split("keys:")[1].replace("(", " ").split())
    assert set(KEYS) - words == set()


# --- watch, as a process -------------------------------------------------------------------


class Watching:
    """A running `mmioctl watch`."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._out, self._err = bytearray(), bytearray()

    async def line(self) -> str:
        """The next line of output."""
        return await self._line(self.process.stdout, self._out)

    async def remark(self) -> str:
        """The next line of standard error."""
        return await self._line(self.process.stderr, self._err)

    async def _line(self, stream: trio.abc.ReceiveStream | None, held: bytearray) -> str:
        assert stream is not None
        while b"\n" not in held:
            data = await stream.receive_some()
            if not data:
                return ""
            held += data
        text, _, rest = bytes(held).partition(b"\n")
        held[:] = rest
        return text.decode()


async def watching(nursery: trio.Nursery, path: Path, *arguments: str) -> Watching:
    """Start `mmioctl watch`."""
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(path), "watch", *arguments]
    start = partial(trio.run_process, stdout=PIPE, stderr=PIPE, check=False, cwd=ROOT)
    return Watching(await nursery.start(start, command))


async def test_watch_shows_traffic_until_interrupted(daemon: SmallDaemon, tmp_path: Path) -> None:
    """Words on standard error, lines on standard output; Ctrl-C ends it with the last count and code 0."""
    async with served(daemon, tmp_path / "control"), trio.open_nursery() as nursery:
        watch = await watching(nursery, tmp_path / "control", "--oldest", "--vm", "vm0")
        remark = await watch.remark()
        lines = [await watch.line() for _ in range(4)]
        daemon.access("vm0", 0x3FB, 0x3)
        lines += [await watch.line() for _ in range(2)]
        for _ in range(2):
            daemon.access("vm0", 0x3FB, 0x3)
        lines.append(await watch.line())
        watch.process.send_signal(signal.SIGINT)
        status = await watch.process.wait()
        rest = await watch.remark()

    assert (
        "watching accesses that reach mmiod with vm==vm0; devices that match now: vm0/uart0, vm0/slow"
        == remark
    )
    assert [
        "uart0 LCR <- 0x83 WLS=3 DLAB=1 pio:0x3f8+3 1B",
        "- -> 0xff unclaimed pio:0x500 1B",
        "uart0 LSR -> 0x61 pio:0x3f8+5 1B",
        "uart0 LSR -> 0x00 pio:0x3f8+5 1B",
    ] == [" ".join(line.split()[2:-2]) for line in lines[:4]]
    assert "    last line again x 1" == lines[4]
    assert "uart0 LCR <- 0x03 WLS=3 pio:0x3f8+3 1B" == " ".join(lines[5].split()[2:-2])
    assert "    last line again x 2" == lines[6]
    assert (0, "") == (status, rest)


async def test_watch_ends_with_its_reader(daemon: SmallDaemon, tmp_path: Path) -> None:
    """`mmioctl watch | head` ends quietly."""
    async with served(daemon, tmp_path / "control"), trio.open_nursery() as nursery:
        watch = await watching(nursery, tmp_path / "control", "--json")
        await watch.remark()
        daemon.access("vm0", 0x3FB, 0x83)
        access = json.loads(await watch.line())
        assert watch.process.stdout is not None
        await watch.process.stdout.aclose()
        daemon.access("vm0", 0x3FB, 0x83)
        status = await watch.process.wait()
        rest = await watch.remark()

    assert ("lcr", {"WLS": 3, "STB": 0, "DLAB": 1}) == (access["register"], access["fields"])
    assert (0, "") == (status, rest)


async def test_watch_ends_with_the_daemon(daemon: SmallDaemon, tmp_path: Path) -> None:
    """When the daemon goes, so does the watch, and says why."""
    async with trio.open_nursery() as nursery:
        async with served(daemon, tmp_path / "control"):
            watch = await watching(nursery, tmp_path / "control")
            await watch.remark()
        status = await watch.process.wait()
        remark = await watch.remark()

    assert (3, "mmioctl: the daemon has closed the connection") == (status, remark)


def test_reload_shows_what_is_otherwise() -> None:
    """Who serves and the pause; then differences, as far as they are spelled out, and what was dropped."""
    answer = {
        "plugin": "cell",
        "generation": 3,
        "devices": ["vm/a", "vm/b"],
        "pause_us": 210,
        "load_us": 5000,
        "accesses": 64,
        "differing": 3,
        "differences": ["vm/a: read, 1 bytes at ports+0x1: was 0x0, is 0x80", "vm/b: another"],
        "dropped": ["a: registers.lower"],
    }
    expected = """\
cell: generation 3 serves vm/a, vm/b; the pause was 210 us

the last 64 accesses, repeated by both generations: 3 differences
  vm/a: read, 1 bytes at ports+0x1: was 0x0, is 0x80
  vm/b: another
  and 1 more

dropped, as this class has none: a: registers.lower"""
    assert expected == "\n\n".join(show_reloaded(answer))
