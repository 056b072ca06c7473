"""A boot of SeaBIOS on our TPM, replayed to QEMU's tpm-crb: each has a swtpm of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from attrs import evolve

from mmiod import config
from mmiod.trace.record import ADDRESS, DEVICE, DIRECTION, SIZE, VALUE
from tests.functional.boots import ROOT, Boot, booting
from tests.qemu import differences as rows
from tests.qemu.sides import Access, Reference, reference

pytestmark = pytest.mark.needs("qemu", "swtpm", "seabios", "unicorn")

BASE: Final = 0xFED40000
INTF_ID, CTRL_REQ, CTRL_STS, CTRL_START, BUFFER = (BASE + n for n in (0x30, 0x40, 0x44, 0x4C, 0x80))
COMMAND_CODE: Final = range(BUFFER + 6, BUFFER + 10)
GET_RANDOM: Final = 0x17B
PATIENCE_S: Final = 20


@contextmanager
def swtpm(directory: Path) -> Iterator[tuple[str, ...]]:
    """A TPM without a state, and QEMU's options for it."""
    control = directory / "control"
    state = ["--tpmstate", f"dir={directory}", "--ctrl", f"type=unixio,path={control}"]
    with subprocess.Popen(["swtpm", "socket", "--tpm2", *state, "--flags", "not-need-init"]) as process:
        try:
            _wait(control.exists)
            chardev = ("-chardev", f"socket,id=control,path={control}")
            yield (*chardev, "-tpmdev", "emulator,id=t,chardev=control", "-device", "tpm-crb,tpmdev=t")
        finally:
            process.kill()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline


Step = tuple[Access, int]
"""An access and what it gave."""


async def boot(directory: Path) -> list[Step]:
    """What SeaBIOS did to our TPM, and what it read."""
    machine = dict(config.read_machine(ROOT / "config" / "machines" / "pc-tpm.toml"))
    async with booting(directory, Boot(machine)) as under_way:
        await under_way.reaches_its_end()
        records = [record for record in under_way.trace() if record[DEVICE] == "tpm"]
    numbers = (tuple(int(record[n]) for n in (ADDRESS, SIZE, DIRECTION, VALUE)) for record in records)
    return [
        (Access("mmio", address, size, value if direction else None), value)
        for address, size, direction, value in numbers
    ]


def replay(steps: list[Step], qemu: Reference) -> Iterator[tuple[Access, int, int]]:
    """Each read with what it gave us and gives QEMU; of a poll of START only its end."""
    for access, ours in steps:
        if access.value is None and access.address == CTRL_START and ours:
            continue
        theirs = qemu.run([access])[0]
        if access.value is None:
            deadline = time.monotonic() + PATIENCE_S
            while access.address == CTRL_START and theirs and time.monotonic() < deadline:
                theirs = qemu.run([access])[0]
            yield access, ours, theirs


def excused(steps: list[Step]) -> Iterator[Step]:
    """The steps, with what is not compared: the table's bits, and what GetRandom gave."""
    code, early = 0, True
    for access, ours in steps:
        kept, port = access, access.address
        if access.value is not None and port in COMMAND_CODE:
            code = (code << 8 | access.value) & 0xFFFF_FFFF
        early &= not (access.value is not None and port == CTRL_REQ)
        if port == INTF_ID:
            kept = rows.TPM_INTERFACE.excuses(access)
        elif early and (port == BASE + 0xF00 or port == CTRL_STS):
            kept = rows.TPM_STATES.excuses(access)
        elif code == GET_RANDOM and port >= BUFFER + 12:
            kept = evolve(access, ignored=0xFF)
        yield kept, ours


async def test_firmware_gets_the_same_answers(tmp_path: Path) -> None:
    """17 commands: their registers and responses; where the table has a row, both do differ."""
    (tmp_path / "theirs").mkdir()
    steps = list(excused(await boot(tmp_path)))
    with swtpm(tmp_path / "theirs") as options, reference(tmp_path, *options) as qemu:
        results = list(replay(steps, qemu))
    assert [] == [result for result in results if (result[1] ^ result[2]) & ~result[0].ignored]
    assert len(results) > 200
    for row in (rows.TPM_INTERFACE, rows.TPM_STATES):
        proof = row.proof[0][-1].address
        (_, ours, theirs) = next(result for result in results if result[0].address == proof)
        assert ours != theirs
        assert not (ours ^ theirs) & ~row.bits
