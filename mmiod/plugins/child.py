"""Ask a child process what it finds wrong with a plugin's next generation: see `check`."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import trio

from mmiod.machine.handover import last_good
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.plugins.question import AGAIN, Instance, Question, Rejected, Step, Verdict
from mmiod.trace import Recorder
from mmiod.trace.record import DEVICE, STATUS, VM, Record

CHECK_S: Final = 20.0
"""For the child, whatever the plugin does."""
SCANNED: Final = 4096
"""Records in which a device's last accesses are looked for."""
REPEATED: Final = 64
"""Accesses of each device that the child repeats."""
PLAIN: Final = (
    "let `state` hold numbers, texts, bytes, lists and tables, as annotated; then restart the daemon"
)
REMEDY: Final = "the plugin's code ends, or holds up, the interpreter it runs in"


async def ask(question: Question) -> Verdict:
    """Have the question answered, by a clean interpreter that finds modules where this one does.

    Raises:
        Rejected: it found something, or did not come back.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-P", "-m", "mmiod.plugins.check"]
    path = question.after.path
    try:
        told = question.encode()
        with trio.move_on_after(CHECK_S) as patience:
            done = await trio.run_process(
                command, stdin=told, capture_stdout=True, capture_stderr=True, check=False, env=environment
            )
    except ValueError as error:
        raise Rejected(Verdict(f"a device's state or configuration: {error}", PLAIN, path)) from error
    except OSError as error:
        raise Rejected(Verdict(f"no child process can be started: {error}", AGAIN, path)) from error
    if patience.cancelled_caught:
        raise Rejected(Verdict(f"the check was not over after {CHECK_S:.0f} s", REMEDY, path))
    try:
        verdict = Verdict.decode(done.stdout)
    except (ValueError, TypeError) as error:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = f"the check ended with status {done.returncode}: {last or 'no word'}"
        raise Rejected(Verdict(reason, REMEDY, path)) from error
    if verdict.reason is not None:
        raise Rejected(verdict)
    return verdict


def portray(
    machine: Machine, host: InlineHost, config: Mapping[str, object], directory: Path, recorder: Recorder
) -> Instance:
    """One device as it would be handed over now, with the last accesses to it.

    Raises:
        NotReady: its state cannot be had.
    """
    saved, owing = last_good(machine, host)
    claims = [
        (region, int(space), claim.base, claim.fixed)
        for (owner, region), (space, claim) in machine.claims.items()
        if owner == host.name
    ]
    return Instance(
        machine.name,
        host.name,
        config,
        str(directory),
        attrs.asdict(saved),
        claims,
        list(_steps(machine, host, recorder)),
        machine.clock.now_ns,
        owing,
    )


def _steps(machine: Machine, host: InlineHost, recorder: Recorder) -> Iterator[Step]:
    """The device's last accesses, where they are on the map now."""
    records, _, _ = recorder.since(recorder.serial - SCANNED, SCANNED)
    wanted = deque((record for record in records if _is_of(machine, host, record)), REPEATED)
    places = [(space, claim) for space, claim in machine.claims.values() if claim.host is host]
    for record in wanted:
        _, _, _, _, at, direction, address, size, value, _, _, _, _, _, _, count = record
        for space, claim in places:
            if space == at and claim.base <= address < claim.end:
                yield claim.region, claim.offset(address), size, int(direction), int(value), count


def _is_of(machine: Machine, host: InlineHost, record: Record) -> bool:
    return record[DEVICE] == host.name and record[VM] == machine.name and record[STATUS] == "ok"
