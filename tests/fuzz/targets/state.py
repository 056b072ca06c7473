"""Any document restores or is refused by RestoreError; refused it leaves the machine as it was.

After a restore the machine saves what the document said, and what it saves restores to the same.
A device may refuse its state by failing: then it is in quarantine, and the save says so.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Final

from mmiod.errors import RestoreError
from mmiod.machine.machine import Machine
from mmiod.machine.state import restore, save
from mmiod.values import Space
from tests.fuzz.edits import ACTIONS, ODD, edited
from tests.fuzz.machines import Kit
from tests.fuzz.reader import Reader, written

PC: Final = Kit.of("pc.toml").without("testdev")  # its RAM is most of a document
WRITES: Final = (0x43, 0x34), (0x40, 0), (0x40, 0x40), (0x20, 0x11), (0x21, 8), (0x3FB, 0x83), (0x70, 0x8B)


def _used() -> Machine:
    """A machine with something in its registers, and a timer."""
    machine = PC.build()
    for port, value in WRITES:
        machine.write(Space.PIO, port, 1, value)
    machine.clock.advance_to(1_000_000)
    return machine


SAVED: Final = save(_used())
DOCUMENT: Final = json.loads(SAVED)


def seeds() -> list[bytes]:
    """The document as it is, and one edit of each kind at many places."""
    places = [(step, device, part) for step in range(5) for device in (0, 6) for part in (0, 3)]
    edits = [
        written(1, 0, *place, 0xFF, action, value)
        for place in places
        for action in range(len(ACTIONS))
        for value in (5, len(ODD) - 1)
    ]
    return [written(0, SAVED), written(1), *edits]


def run(data: bytes) -> None:
    """The first byte says whether the rest is a document, or edits of one."""
    reader = Reader(data)
    if reader.number() == 0:
        _check(reader.rest())
    else:
        _check(json.dumps(edited(DOCUMENT, reader)).encode())


def _check(document: bytes) -> None:
    machine = _used()
    try:
        restore(machine, document)
    except RestoreError as error:
        assert str(error)
        assert save(machine) == SAVED
        return
    kept = save(machine)
    _check_said(json.loads(document), json.loads(kept))
    other = PC.build()
    restore(other, kept)
    assert save(other) == kept


def _check_said(document: dict[str, Any], kept: dict[str, Any]) -> None:
    """What a document says of devices that took it is what is saved; what it left out has defaults."""
    expected, actual = copy.deepcopy(document), copy.deepcopy(kept)
    for name, device in kept["devices"].items():
        if device["failure"] is not None:
            for said in (expected, actual):
                del said["devices"][name]
                said["timers"] = [one for one in said.get("timers", []) if one["device"] != name]
    assert _within(expected, actual), "the save says something else"


def _within(expected: object, actual: object) -> bool:
    if isinstance(expected, dict) and isinstance(actual, dict):
        return all(key in actual and _within(value, actual[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(_within, expected, actual))
    return expected == actual
