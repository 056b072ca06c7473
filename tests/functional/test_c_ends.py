"""How the C side lives through a take-over, and that it leaves nothing behind when it ends."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from subprocess import PIPE, CompletedProcess

import pytest
import trio

from mmiod.values import Space
from tests.functional.between import between
from tests.functional.boots import PATIENCE_S, Boot, pc, serving
from tests.functional.test_c_client import SEEN, SOURCE, STRICT, VALGRIND, C
from tests.functional.test_kvm_example import build

POWER_OFF = Path(__file__).with_name("poweroff.S")
WATCHED = (*(word for word in VALGRIND if word != "--quiet"), "--track-fds=yes")
KIB = 1024
OPEN = re.compile(r"Open (.+)\n(?:==\d+== +(.+)\n)?")


def firmware(directory: Path) -> Path:
    """128 KiB that use the UART and then switch the machine off."""
    code, binary, path = (directory / f"poweroff.{suffix}" for suffix in ("o", "bin", "rom"))
    subprocess.run(["as", "--32", "-o", str(code), str(POWER_OFF)], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(code), str(binary)], check=True)
    path.write_bytes(bytes(64 * KIB) + binary.read_bytes())
    return path


def client(directory: Path) -> Path:
    """The C client."""
    program = directory / "client"
    subprocess.run([*C, *STRICT, str(SOURCE), "-o", str(program)], check=True)
    return program


async def run(*command: str | Path) -> CompletedProcess[bytes]:
    """A program to its end."""
    with trio.fail_after(PATIENCE_S):
        return await trio.run_process(
            [str(word) for word in command], capture_stdout=True, capture_stderr=True, check=False
        )


async def look_again() -> None:
    """In a moment."""
    await trio.sleep(0.02)


def left_open(report: str) -> list[str]:
    """Descriptors that valgrind found open at the end, but for those that the program was started with."""
    assert "FILE DESCRIPTORS" in report
    return [name for name, origin in OPEN.findall(report) if origin != "<inherited from parent>"]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("scenario", ["decoded", "raw", "posted", "interrupts", "reset", "error"])
async def test_client_resends_after_a_take_over(tmp_path: Path, scenario: str) -> None:
    """RESUMED in the place of every completion: all exits go out again, and none is executed twice."""
    program = client(tmp_path)
    async with serving(tmp_path, Boot()), between(tmp_path / "exit", tmp_path / "vm.exit") as relay:
        done = await run(program, tmp_path / "exit", "vm", scenario)
    assert (0, b"") == (done.returncode, done.stderr)
    assert ["welcome 0", *SEEN[scenario]] == done.stdout.decode().splitlines()
    assert len(relay.repeated) > 3


@pytest.mark.needs("gcc", "kvm")
async def test_hypervisor_lives_through_take_overs(tmp_path: Path) -> None:
    """One at each exit, all by message: the guest reads what it wrote, and is switched off with status 0."""
    program = build(tmp_path)
    async with (
        serving(tmp_path, Boot()) as daemon,
        between(tmp_path / "exit", tmp_path / "vm.exit", without=("SHARED_MEMORY",)) as relay,
    ):
        done = await run(program, tmp_path / "exit", "vm", firmware(tmp_path), "16")
        statistics = daemon.machines["vm"].hosts["uart0"].statistics
    assert (0, b"") == (done.returncode, done.stderr)
    assert (32, 32) == (statistics.reads, statistics.writes)
    assert len(relay.repeated) > 64


@pytest.mark.needs("gcc", "kvm", "valgrind")
async def test_hypervisor_that_is_switched_off_leaves_nothing(tmp_path: Path) -> None:
    """No memory, no descriptor, and no byte was used that nobody wrote."""
    program = build(tmp_path)
    async with serving(tmp_path, Boot()):
        done = await run(*WATCHED, program, tmp_path / "vm.exit", "vm", firmware(tmp_path), "16")
    assert (0, []) == (done.returncode, left_open(done.stderr.decode()))


@pytest.mark.needs("gcc", "kvm", "valgrind")
async def test_hypervisor_whose_session_is_over_leaves_nothing(tmp_path: Path) -> None:
    """The daemon went and another one does not know the session: status 1, the reason, and no leak."""
    program = build(tmp_path)
    rom = firmware(tmp_path)
    machine = Boot(pc(pm=None))  # nothing switches it off: it halts
    async with (
        serving(tmp_path, machine) as daemon,
        between(tmp_path / "exit", tmp_path / "vm.exit", takes_over=False) as relay,
    ):
        command = [*WATCHED, program, tmp_path / "exit", "vm", rom, "16"]
        process = await trio.lowlevel.open_process([str(word) for word in command], stderr=PIPE)
        assert process.stderr is not None
        with trio.fail_after(PATIENCE_S):
            while (Space.PIO, 0x604) not in daemon.machines["vm"].misses:
                await look_again()
        relay.end()
        report = b"".join([data async for data in process.stderr]).decode()
        status = await process.wait()
    assert "kvm-vmm: Stale file handle; hello.token: no such session" in report
    assert (1, []) == (status, left_open(report))
