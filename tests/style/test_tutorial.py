"""docs/devices.md: its code runs, its device works by copy and paste."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from mmiod import config
from mmiod.__main__ import main as mmiod
from mmiod.ctl.__main__ import main
from mmiod.device import Device, block, pci, virtio
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.machine import Machine
from mmiod.plugins.loader import bundled_directories, load
from mmiod.testing.suite import PROMISES, Terms
from mmiod.values import READ, WRITE, Space
from mmiod.vmm.__main__ import main as hypervisor

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "devices.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {found[1]: text for _, text in BLOCKS if (found := re.match(r"# (\w+\.\w+)\n", text))}
SNIPPETS = [text for kind, text in BLOCKS if kind == "python" and not text.startswith("# ")]
SHELL = [text for kind, text in BLOCKS if kind == "sh"]
COMMANDS = [line for text in SHELL for line in text.splitlines()]
PROGRAMS = {"mmioctl": main, "mmiod": mmiod, "mmiod-vmm": hypervisor}
BIN = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
PATIENCE_S = 200
FAST = {**os.environ, "MMIOD_CONTRACT_ACCESSES": "1000"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, copied and pasted."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def machine(file: Path) -> tuple[Machine, list[tuple[str, dict[str, object]]]]:
    """The machine of a file, as the daemon makes it, and its events."""
    events: list[tuple[str, dict[str, object]]] = []
    description = config.load_machine(file)
    plugins = {
        name: load(device.plugin, [file.parent, *bundled_directories()])
        for name, device in description.devices.items()
    }
    parts = {
        name: (plugin, config.configure(plugin, description.devices[name], file.parent))
        for name, plugin in plugins.items()
    }
    clock = MachineClock(lambda: 0, lambda: 0.0)
    made = assemble(
        "vm",
        description,
        parts,
        clock,
        lambda event, **fields: events.append((event, fields)),
        lambda _: None,
    )
    made.power_on(virtual=True)
    return made, events


def read(machine: Machine, address: int, size: int = 4) -> object:
    """A vCPU's read."""
    return machine.access(machine.find(Space.MMIO, address), address, size, READ, 0)


def test_the_page_has_what_is_tested() -> None:
    """A device, its test, a daemon's files, a guest, and another machine file; snippets for the rest."""
    ours = {"mmiod.toml", "machine.toml", "guest.py"}
    assert {"countdown.py", "test_countdown.py", "ladder.toml"} | ours == FILES.keys()
    assert len(SNIPPETS) >= 8


def test_the_tutorials_test_passes(folder: Path) -> None:
    """As the reader runs it: `pytest` in the folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."]
    ran = subprocess.run(command, cwd=folder, env=FAST, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_tutorials_machine_works(folder: Path) -> None:
    """The device counts down at its address, and its line reaches the hypervisor."""
    made, _ = machine(folder / "machine.toml")
    base = 0xFE00_0000
    assert read(made, base) == 0x1AB1
    made.access(made.find(Space.MMIO, base + 4), base + 4, 4, WRITE, 5)
    made.clock.advance_to(4_999)
    assert (0, {}) == (read(made, base + 8), made.levels)
    made.clock.advance_to(5_000)
    assert (1, {5: True}) == (read(made, base + 8), made.levels)
    made.access(made.find(Space.MMIO, base + 8), base + 8, 4, WRITE, 1)
    assert (0, {5: False}) == (read(made, base + 8), made.levels)


def test_the_ladder_stands(folder: Path) -> None:
    """Log, value, table, Python: as the comments say."""
    made, events = machine(folder / "ladder.toml")
    offsets = (0x00, 0x10, 0x14, 0x00)
    bases = (0xFE10_0000, 0xFE20_0000, 0xFE30_0000, 0xFE40_0000)
    found = [read(made, base + offset) for base, offset in zip(bases, offsets, strict=True)]
    assert [0xFFFF_FFFF, 0, 0x8000_0001, 0x1AB1] == found
    told = [(fields["device"], fields["offset"]) for event, fields in events if event == "stub_accessed"]
    assert [("unknown", 0), ("constant", 0x10), ("mystery", 0x14)] == told


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_is_a_device_that_keeps_the_contract(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each defines one, with the SDK's names imported."""
    from mmiod import device as sdk  # noqa: PLC0415  # its names, as a plugin imports them

    module = type(sys)("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)
    for source in (sdk, pci, block, virtio, attrs):
        vars(module).update({name: value for name, value in vars(source).items() if name[0] != "_"})
    module.validators = attrs.validators  # type: ignore[attr-defined]
    exec(SNIPPETS[number], vars(module))  # the page is ours
    (plugin,) = (
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Device) and thing.__module__ == "snippet"
    )
    for promise in PROMISES:
        promise(Terms(plugin, accesses=1000))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_one(command: str) -> None:
    """The program knows it."""
    program, *words = shlex.split(command)
    if program == "python":
        assert set(words) <= FILES.keys()
        return
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program]([*words, "--help"])
    assert ended.value.code == 0


@contextmanager
def running(folder: Path, script: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A block of the page in a terminal of its own, where it is ended."""
    process = subprocess.Popen(
        ["timeout", str(PATIENCE_S), "sh", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": BIN, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


def until(process: subprocess.Popen[str], *wanted: str) -> list[str]:
    """Its lines until each text was in one; all of them if it ends before."""
    assert process.stdout is not None
    lines, missing = list[str](), set(wanted)
    while missing and (line := process.stdout.readline()):
        lines.append(line)
        missing -= {text for text in missing if text in line}
    assert not missing, "".join(lines)
    return lines


@pytest.mark.needs("unicorn")
def test_the_tutorials_guest_runs(folder: Path, tmp_path: Path) -> None:
    """Each block in its terminal: traffic has the register's names, and an edit serves meanwhile."""
    serve, guest, look, reload = SHELL
    folder = Path(shutil.copytree(folder, tmp_path / "page"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, ExitStack() as stack:
        ready.bind(str(tmp_path / "ready"))
        ready.settimeout(PATIENCE_S)
        daemon = stack.enter_context(running(folder, serve, NOTIFY_SOCKET=str(tmp_path / "ready")))
        until(daemon, "mmiod.toml: 1 VMs, 0 attached, 1 devices")
        while b"READY=1" not in ready.recv(4096):
            pass
        stack.enter_context(running(folder, guest))
        shown = ("REGISTER  ", "watching ", "timer0 DELAY <- 0x0007a120", "STATUS -> 0x00000001 DONE=1")
        until(stack.enter_context(running(folder, look)), *shown)
        plugin = folder / "countdown.py"
        plugin.write_text(plugin.read_text().replace("1000 * value", "100 * value"))
        until(stack.enter_context(running(folder, reload)), "countdown: generation 2 serves tutorial/timer0")


@pytest.mark.needs("gcc")
def test_the_guests_bytes_are_what_stands_beside_them(folder: Path, tmp_path: Path) -> None:
    """By GNU as: the code from its first byte on, 32-bit behind the far jump."""
    text = FILES["guest.py"]
    rows = text[text.index('CODE = """\n') + 11 : text.index('"""\nGDT')].splitlines()
    lines = [".code16", *(row[24:].partition("#")[0] for row in rows)]
    lines.insert(5, ".code32")
    (tmp_path / "guest.s").write_text("\n".join(lines) + "\n")
    subprocess.run(["as", "--32", "-o", "guest.o", "guest.s"], cwd=tmp_path, check=True)
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", "guest.o", "guest.bin"], cwd=tmp_path, check=True
    )
    code = (tmp_path / "guest.bin").read_bytes()
    written = Path(shutil.copy(folder / "guest.py", tmp_path))
    subprocess.run([sys.executable, str(written)], cwd=tmp_path, check=True)
    assert code == (tmp_path / "guest.img").read_bytes()[: len(code)]
    assert 57 == len(code)


def test_the_table_of_promises_is_complete() -> None:
    """Each case of the contract has its row."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE[PAGE.index("## Testing") :], re.MULTILINE)
    assert [promise.__name__ for promise in PROMISES] == rows
