"""A client in C that takes grants, against the real daemon: what stands where, and for how long."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from mmiod.attach.shared import OFFERED
from mmiod.attach.vm import VmAttachment
from mmiod.daemon import Daemon
from mmiod.machine.grantable import MAX_BELLS, PAGE
from tests.functional.boots import PATIENCE_S, ROOT, Boot, Tables, pc, serving
from tests.functional.test_c_client import CPLUSPLUS, VALGRIND, C
from tests.functional.test_kvm_grants import PANEL, PLUGIN, until

SOURCE = ROOT / "tests" / "attach" / "grants.c"
STRICT = ("-Wall", "-Wextra", "-Werror", "-O1", "-g", "-I", str(ROOT / "include"))
UP = [f"+ page {PANEL:x}", f"+ bell 0 {PANEL + 0x1000:x} 2 5"]
DOWN = [line.replace("+", "-") for line in UP]
SEEN = {
    "page": [*UP, "0 wrong, hole eeeeeeee", *DOWN],
    "doorbell": [*UP, "rung", *DOWN],
    "reconnect": [*UP, *DOWN, *UP, "rung", *DOWN],
    "restore": [*UP, "rung", *DOWN],
    "refuse": [*UP, *["1"] * 4, *DOWN],
    "starve": [*UP, "1 1", *DOWN],
    "leave": [*UP, *DOWN, "1"],
}
"""What each scenario prints; in grants.c is what it did."""

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.skipif(not OFFERED, reason="x86-64 only")]


def machine(directory: Path) -> Tables:
    """A PC with a panel, and a function with a doorbell where its BAR is."""
    (directory / "panel.py").write_text(PLUGIN)
    return pc(
        panel={"plugin": "panel", "at": {"page": f"mmio:{PANEL:#x}", "bells": f"mmio:{PANEL + 4096:#x}"}},
        entropy={"plugin": "virtio/rng", "slot": "00:05.0", "streams": {"source": "random:seed"}},
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((*C, "-pedantic"), id="c11"),
        pytest.param(CPLUSPLUS, id="c++17", marks=pytest.mark.needs("g++")),
    ],
)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """grants.c, as C and as C++."""
    found = tmp_path_factory.mktemp("programs") / "grants"
    subprocess.run([*request.param, *STRICT, str(SOURCE), "-o", str(found)], check=True)
    return found


async def run(directory: Path, *command: str | Path) -> list[str]:
    """A scenario: what it printed."""
    async with serving(directory, Boot(machine(directory), plugins=directory)):
        with trio.fail_after(PATIENCE_S):
            done = await trio.run_process(
                [str(word) for word in command], capture_stdout=True, capture_stderr=True, check=False
            )
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("scenario", SEEN)
async def test_grants_stand_as_the_document_says(tmp_path: Path, program: Path, scenario: str) -> None:
    """A page shows what was written before; a doorbell is heard, and again where it may have been lost."""
    assert SEEN[scenario] == await run(tmp_path, program, tmp_path / "vm.exit", "vm", scenario)


async def test_a_doorbell_goes_with_its_region(tmp_path: Path, program: Path) -> None:
    """The old one is down before the write that moved it is answered; a reset leaves none."""
    seen = await run(tmp_path, program, tmp_path / "vm.exit", "vm", "move")
    assert [line for line in seen if " bell 0 e8" in line or " bell 0 e9" in line] == [
        f"{sign} bell 0 {base:x} 2 0"
        for sign, base in (("+", 0xE800_3000), ("-", 0xE800_3000), ("+", 0xE900_3000), ("-", 0xE900_3000))
    ]


async def test_a_doorbell_that_a_restore_moves_is_signalled(tmp_path: Path, program: Path) -> None:
    """It is granted behind the ACK, where its region was saved: what was rung there then may be lost."""
    seen = await run(tmp_path, program, tmp_path / "vm.exit", "vm", "move back")
    assert seen[len(UP) :] == [
        *(f"{sign} bell 0 e{at}003000 2 0" for sign, at in zip("+-+-+", (8, 8, 9, 9, 8), strict=True)),
        "signals 1",
        *DOWN,
        "- bell 0 e8003000 2 0",
    ]


def test_the_header_has_a_place_for_whatever_is_granted() -> None:
    """Pages as many as there is room for, and all doorbells of a VM."""
    text = (ROOT / "include" / "mmiod_exit.h").read_text()
    length, places = (
        int(re.findall(rf"#define {name} (\d+)u", text)[0])
        for name in ("MMIOD_PAGES_BYTES", "MMIOD_FIXTURES")
    )
    assert places == length // PAGE + MAX_BELLS


@pytest.mark.needs("valgrind")
async def test_no_error_that_valgrind_sees(tmp_path: Path, program: Path) -> None:
    """No byte is used that nobody wrote, no descriptor is left, over a reconnect."""
    assert SEEN["reconnect"] == await run(
        tmp_path, *VALGRIND, program, tmp_path / "vm.exit", "vm", "reconnect"
    )


@pytest.mark.parametrize("scenario", ["watched", "unused"])
async def test_who_watches_waits_for_the_client(tmp_path: Path, program: Path, scenario: str) -> None:
    """REVOKE is answered, of what stands and of what was left unused: the client stays connected."""
    boot = Boot(machine(tmp_path), plugins=tmp_path)
    command = [str(word) for word in (program, tmp_path / "vm.exit", "vm", scenario)]
    async with serving(tmp_path, boot) as daemon:
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert process.stdout is not None
        assert process.stdin is not None
        with trio.fail_after(PATIENCE_S):
            await watch(daemon)
            await process.stdin.send_all(b"\n")
            printed = b"".join([data async for data in process.stdout]).decode().splitlines()
            assert 0 == await process.wait()
    assert printed == ([*UP, *DOWN, *UP, *DOWN] if scenario == "watched" else [])


async def watch(daemon: Daemon) -> None:
    """Look at the panel's traffic, as soon as it stands in the client; then not any more."""
    attachment = daemon.attachments["vm"]
    assert isinstance(attachment, VmAttachment)
    await until(lambda: attachment.grants is not None and bool(attachment.grants.given))
    assert attachment.grants is not None
    granted, owner = len(attachment.grants.given), daemon.machines["vm"]
    owner.withhold("panel", "watch")
    assert 2 == len(attachment.grants.ending)
    await attachment.withdrawn()
    assert attachment.grants is not None
    assert not attachment.grants.ending
    daemon.work(partial(owner.release, "panel"))
    await until(lambda: attachment.grants is None or granted == len(attachment.grants.given))
