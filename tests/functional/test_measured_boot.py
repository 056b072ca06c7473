"""What stock SeaBIOS does with the TPM: its event log, the PCRs, its boot menu; also across two daemons."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from mmiod.ctl.event_log import Event, EventLog, find, parse
from mmiod.daemon import Daemon
from mmiod.device.tpm import HEADER_LENGTH
from mmiod.trace.record import ADDRESS, DIRECTION, REGISTER, SEQUENCE, VALUE, Record
from mmiod.values import WRITE
from tests.functional import relay
from tests.functional.boots import (
    LAST_LINE,
    ROOT,
    Boot,
    Booting,
    Tables,
    booting,
    dial,
    pc,
    serving,
    until_end,
)
from tests.functional.test_hand_over import SHIFT, directories, unnumbered
from tests.functional.tpms import BASE, BUFFER, children, proxied

pytestmark = pytest.mark.needs("swtpm", "seabios", "unicorn")

EV_SEPARATOR, EV_ACTION, EV_IPL = 4, 5, 13
BANKS = {0x4: 20, 0xB: 32, 0xC: 48, 0xD: 64}
NAMES = {0x4: "sha1", 0xB: "sha256", 0xC: "sha384", 0xD: "sha512"}
PCRS = range(24)
SEPARATOR = b"\xff\xff\xff\xff"
MENU = b"Press ESC for boot menu."
TPM_LINE = "t. TPM Configuration"
CODE = range(6, 10)
RANDOM = (0x129, 0x146, 0x17B)
"""TPM2_HierarchyChangeAuth, StirRandom and GetRandom."""


def with_tpm(backend: str, files: Mapping[str, object] | None = None) -> Tables:
    """pc-tpm.toml with a backend, and further files of fw_cfg."""
    machine = pc("pc-tpm.toml")
    machine["devices"]["tpm"]["streams"] = {"tpm": backend}
    machine["devices"]["fw_cfg"]["config"]["files"].update(files or {})
    return machine


def measured(daemon: Daemon) -> bytes:
    """The log's area in guest memory."""
    return find(daemon.machines["vm"].memory.read)


@asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[tuple[Tables, Path]]:
    """A machine whose swtpm others can ask, too, and where they do."""
    (directory / "tpm").mkdir()
    async with proxied(directory / "tpm") as proxy:
        yield with_tpm(f"swtpm-socket:{proxy.path},{proxy.path.parent / 'tpm-control'}"), proxy.path


async def pcrs(tpm: Path) -> dict[str, dict[int, str]]:
    """All PCRs of all banks in hexadecimal digits, as tpm2_pcrread reads them from the same swtpm."""
    selection = "+".join(f"{name}:{','.join(map(str, PCRS))}" for name in NAMES.values())
    tool = ["tpm2_pcrread", "-T", f"cmd:{sys.executable} {relay.__file__} {tpm}", selection]
    printed = (await trio.run_process(tool, capture_stdout=True)).stdout.decode()
    banks = re.split(r"^  (\w+):\n", printed, flags=re.MULTILINE)[1:]
    return {
        name: {int(n): digits.lower() for n, digits in re.findall(r"(\d+) *: 0x(\w+)", values)}
        for name, values in zip(banks[::2], banks[1::2], strict=True)
    }


def replayed(log: EventLog) -> dict[str, dict[int, str]]:
    """All PCRs as they must be after these events: localities' own ones begin with ones."""
    return {
        name: {
            number: (
                log.replay(algorithm).get(number)
                or (b"\xff" if number in range(17, 23) else b"\0") * BANKS[algorithm]
            ).hex()
            for number in PCRS
        }
        for algorithm, name in NAMES.items()
    }


# --- the log ----------------------------------------------------------------------------------


@pytest.mark.needs("tpm2")
async def test_the_event_log_gives_the_pcrs(tmp_path: Path) -> None:
    """Replayed, its digests are what tpm2_pcrread reads, in all banks; tpm2_eventlog reads it like we do."""
    async with watched(tmp_path) as (machine, tpm), booting(tmp_path, Boot(machine)) as under_way:
        await under_way.reaches_its_end()
        area = measured(under_way.daemon)
        found = await pcrs(tpm)
    log = parse(area)
    assert BANKS == log.algorithms
    assert replayed(log) == found
    check_events(log.events)
    (tmp_path / "log").write_bytes(area.rstrip(b"\0"))
    tool = ["tpm2_eventlog", str(tmp_path / "log")]
    printed = (await trio.run_process(tool, capture_stdout=True)).stdout.decode()
    assert 1 + len(log.events) == printed.count("- EventNum:")
    theirs = [int(digits, 16) for digits in re.findall(r"^    \d+ *: 0x([0-9a-f]+)$", printed, re.MULTILINE)]
    ours = [int.from_bytes(value, "big") for n in NAMES for _, value in sorted(log.replay(n).items())]
    assert ours == theirs


def check_events(events: list[Event]) -> None:
    """What SeaBIOS measures: actions, a separator on each of PCR 0-7; each digest is that of its data."""
    separators = [event for event in events if event.kind == EV_SEPARATOR]
    assert list(range(8)) == [event.pcr for event in separators]
    assert {SEPARATOR} == {event.data for event in separators}
    texts = {(event.pcr, event.data.rstrip(b"\0")) for event in events}
    assert {(2, b"Start Option ROM Scan"), (4, b"Calling INT 19h")} <= texts
    assert 1 in {event.pcr for event in events if event.kind != EV_SEPARATOR}  # SMBIOS
    for event in events:
        if event.kind in {EV_SEPARATOR, EV_ACTION}:
            assert hashlib.sha256(event.data).digest() == event.digests[0xB]


# --- the boot menu ----------------------------------------------------------------------------


async def menu(directory: Path, backend: str) -> str:
    """What SeaBIOS shows on the serial console from the boot menu on: ESC leads there, and out again."""
    port = {"hex": struct.pack("<H", 0x3F8).hex()}
    machine = with_tpm(backend, {"etc/sercon-port": port, "etc/boot-menu-wait": {"integer": 10_000}})
    machine["devices"]["uart0"]["streams"] = {"serial": f"unix:{directory / 'serial'}"}
    shown = b""
    async with (
        booting(directory, Boot(machine)) as under_way,
        await dial(directory / "serial") as serial,
        trio.open_nursery() as nursery,
    ):
        while MENU not in shown:
            shown += await serial.receive_some()
        nursery.start_soon(press_escape, serial)
        await under_way.reaches_its_end()
        while LAST_LINE.encode() not in shown:
            shown += await serial.receive_some()
        nursery.cancel_scope.cancel()
    return shown.partition(MENU)[2].decode()


async def press_escape(serial: trio.SocketStream) -> None:
    """Again and again: the menu takes none in its first seconds."""
    while True:
        await serial.send_all(b"\x1b")
        await trio.sleep(0.2)


@pytest.mark.parametrize(("backend", "there"), [("swtpm", True), ("null", False)])
async def test_the_boot_menu_has_the_tpm_with_swtpm_only(tmp_path: Path, backend: str, there: bool) -> None:
    """The only thing that Debian's SeaBIOS says of a TPM that works."""
    shown = await menu(tmp_path, backend)
    assert "Select boot device:" in shown
    assert there == (TPM_LINE in shown)


# --- two daemons ------------------------------------------------------------------------------


def told(trace: list[Record]) -> list[Record]:
    """A trace without what is random by nature: what `RANDOM` commands and their responses carry."""
    found, code = [], 0
    for record in unnumbered(until_end(trace)):
        kept, offset, value = record, int(record[ADDRESS]) - BASE - BUFFER, int(record[VALUE])
        if record[REGISTER] == "data_buffer" and record[DIRECTION] == WRITE and offset in CODE:
            code = (code << 8 | value) & 0xFFFF_FFFF
        elif record[REGISTER] == "data_buffer" and offset >= HEADER_LENGTH and code in RANDOM:
            kept = cast("Record", (*record[:VALUE], 0, *record[VALUE + 1 :]))
        found.append(kept)
    return found


def starts(trace: list[Record]) -> list[int]:
    """The exits that begin a command."""
    return [
        int(record[SEQUENCE])
        for record in trace
        if record[REGISTER] == "ctrl_start" and record[DIRECTION] == WRITE
    ]


@pytest.mark.needs("tpm2")
async def test_a_measured_boot_goes_on_in_another_daemon(tmp_path: Path) -> None:
    """Before, in and behind commands: trace, event log and PCRs are those of an undisturbed boot."""
    (undisturbed,) = directories(tmp_path, "undisturbed")
    async with (
        watched(undisturbed) as (machine, tpm),
        booting(undisturbed, Boot(machine, icount=SHIFT)) as under_way,
    ):
        await under_way.reaches_its_end()
        trace = until_end(under_way.trace())
        area, found = measured(under_way.daemon), await pcrs(tpm)
    begun = starts(trace)
    assert 17 == len(begun)
    for exits in (begun[0] - 1, begun[2], begun[9] + 40, begun[16]):
        here, there = directories(tmp_path, f"from{exits}", f"to{exits}")
        options = ("--hand-over", f"{exits}:{there}/vm.exit")
        async with (
            watched(here) as (first, _),
            watched(there) as (second, tpm),
            serving(there, Boot(second)) as daemon,
            booting(here, Boot(first, icount=SHIFT, options=options)) as before,
        ):
            after = Booting(daemon, before.hypervisors)
            await after.reaches_its_end()
            assert told(trace) == told(before.trace() + after.trace())
            assert area == measured(daemon)
            assert found == await pcrs(tpm)
    assert [] == children("swtpm")


# --- the demo ---------------------------------------------------------------------------------


async def demo(**environment: str) -> dict[str, object]:
    """What `mmiod demo --json` tells."""
    told = await trio.run_process(
        [sys.executable, "-m", "mmiod", "demo", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_stdout=True,
    )
    figures: dict[str, object] = json.loads(told.stdout)
    return figures


async def test_the_demo_tells_of_the_tpm() -> None:
    """Its figures are of what it saw, of guest RAM and of swtpm."""
    figures = await demo()
    line = (
        "TPM: 17 commands, all answered 0; event log with 11 events in guest RAM; PCR 0-7 and the log agree."
    )
    assert (True, 17, line) == tuple(figures[name] for name in ("finished", "tpm_commands", "tpm"))


async def test_the_demo_goes_without_swtpm(tmp_path: Path) -> None:
    """It says so, and reaches its end."""
    figures = await demo(PATH=str(tmp_path))
    line = "TPM: none, as swtpm is not installed."
    assert (True, 0, line) == tuple(figures[name] for name in ("finished", "tpm_commands", "tpm"))
