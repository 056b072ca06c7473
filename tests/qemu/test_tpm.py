"""Boots of SeaBIOS on our TPMs, replayed to QEMU's: each has a swtpm of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from attrs import evolve

from mmiod.trace.record import ADDRESS, DEVICE, DIRECTION, SIZE, VALUE
from tests.functional.boots import Boot, booting, pc
from tests.qemu.differences import CRB_STATES
from tests.qemu.sides import Access, reference
from tests.qemu.tpm_campaigns import (
    BUFFER as CRB_BUFFER,
    CAPABILITIES,
    FIFO,
    INTF_ID,
    READY,
    REQ,
    START,
    STS,
    TIS_STS,
)
from tests.qemu.tpms import BASE, swtpm

pytestmark = pytest.mark.needs("qemu", "swtpm", "seabios", "unicorn")

DID_VID: Final = 0xF00
POLLED: Final = {BASE + START, BASE + TIS_STS}
CODE: Final = slice(6, 10)
GET_RANDOM: Final = b"\0\0\1\x7b"
RANDOM: Final = 12
"""Where random bytes begin in its response."""

Step = tuple[Access, int]
"""An access and what it gave."""


Excused = Callable[[list[Step]], Iterator[Step]]


async def boot(directory: Path, name: str) -> list[Step]:
    """What SeaBIOS did to our TPM, and what it read."""
    machine = pc("pc-tpm.toml")
    machine["devices"]["tpm"] |= {"plugin": f"tpm/{name}", "streams": {"tpm": "swtpm"}}
    machine["devices"]["fw_cfg"]["config"]["acpi"]["tpm"] = name
    async with booting(directory, Boot(machine)) as under_way:
        await under_way.reaches_its_end()
        records = [record for record in under_way.trace() if record[DEVICE] == "tpm"]
    numbers = (tuple(int(record[n]) for n in (ADDRESS, SIZE, DIRECTION, VALUE)) for record in records)
    return [
        (Access("mmio", address, size, value if direction else None), value)
        for address, size, direction, value in numbers
    ]


def awaited(steps: list[Step]) -> list[Step]:
    """The steps; of polls of a register only the last, which QEMU is given time for."""
    kept = [step for step, following in pairwise([*steps, steps[0]]) if not _polls(step, following)]
    return [
        (evolve(access, space="until", value=ours), ours)
        if access.value is None and access.address in POLLED and access.size == 4
        else (access, ours)
        for access, ours in kept
    ]


def _polls(step: Step, following: Step) -> bool:
    return step[0].value is None and step[0].address in POLLED and step[0] == following[0]


def excused_crb(steps: list[Step]) -> Iterator[Step]:
    """The steps, with what is not compared: the table's bits, and what GetRandom gave."""
    sent, early = bytearray(64), True
    for access, ours in steps:
        kept, offset = access, access.address - BASE
        if access.space == "mmio" and access.value is not None:
            early &= offset != REQ
            if 0 <= offset - CRB_BUFFER < len(sent):
                sent[offset - CRB_BUFFER] = access.value
        elif offset == INTF_ID:
            kept = CRB_STATES.excuses(access, CAPABILITIES)
        elif early and offset in {DID_VID, STS}:
            kept = CRB_STATES.excuses(access)
        elif sent[CODE] == GET_RANDOM and offset >= CRB_BUFFER + RANDOM:
            kept = evolve(access, ignored=0xFF)
        yield kept, ours


def excused_tis(steps: list[Step]) -> Iterator[Step]:
    """The steps, with what is not compared: what GetRandom gave."""
    sent, received = bytearray(), 0
    for access, ours in steps:
        kept, offset = access, access.address - BASE
        if access.space == "mmio" and access.value is not None:
            if offset == FIFO:
                sent.append(access.value)
                received = 0
            elif offset == TIS_STS and access.value == READY:
                sent.clear()
        elif offset == FIFO:
            received += 1
            if sent[CODE] == GET_RANDOM and received > RANDOM:
                kept = evolve(access, ignored=0xFF)
        yield kept, ours


@pytest.mark.parametrize(("name", "excused"), [("crb", excused_crb), ("tis", excused_tis)])
async def test_firmware_gets_the_same_answers(tmp_path: Path, name: str, excused: Excused) -> None:
    """17 commands: their registers and responses."""
    steps = list(excused(awaited(await boot(tmp_path, name))))
    with swtpm(tmp_path / "theirs", f"tpm-{name}") as options, reference(tmp_path, *options) as qemu:
        theirs = qemu.run([access for access, _ in steps])
    reads = [
        (access, ours, their)
        for (access, ours), their in zip(steps, theirs, strict=True)
        if access.space == "until" or access.value is None
    ]
    assert [] == [(access, ours, their) for access, ours, their in reads if (ours ^ their) & ~access.ignored]
    assert len(reads) > 200
