"""Breakpoints on data and ports: #DB behind the instruction, DR6 says which (SDM vol. 3, 17.2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve

from mmiod.core.run import Platform
from mmiod.values import Done, ExtendedState, Fault, NeedRegisters, RegisterSet
from mmiod.x86 import Mode
from tests.core.guests import DEVICE, PORT, Guest
from tests.x86.states import TF, flat

LOAD, STORE, ADD, XCHG, IN, OUT = "8b03", "8903", "0103", "8703", "ed", "ef"
WRITES, PORTS, ALL = 1, 2, 3
ONE, TWO, EIGHT, FOUR = range(4)
DE = 1 << 3


@pytest.fixture(name="guest")
def _guest() -> Iterator[Guest]:
    guest = Guest(platform=Platform(vectors=True))
    yield guest
    guest.close()


def dr7(number: int, kind: int, length: int) -> int:
    """One breakpoint enabled locally."""
    return 1 << 2 * number | (kind | length << 2) << 16 + 4 * number


def watching(guest: Guest, code: str, address: int, control: int, **registers: object) -> None:
    """All four registers hold the address; the instruction's operand is DEVICE + 8."""
    vectors = ExtendedState(RegisterSet.DEBUG, dr=[address] * 4)
    defaults = {"rbx": DEVICE + 8, "rdx": PORT, "rip": 0x7000, "cr4": DE, "dr7": control, "extended": vectors}
    guest.state = flat(Mode.CODE64, **(defaults | registers))
    guest.code = bytes.fromhex(code)


def debug(guest: Guest) -> int:
    """The bits for DR6."""
    completion = guest.once()
    assert isinstance(completion, Done), completion
    return completion.delta.debug


@pytest.mark.parametrize(
    ("code", "address", "control", "bits"),
    [
        (STORE, DEVICE + 8, dr7(0, WRITES, FOUR), 1),
        (STORE, DEVICE + 11, dr7(1, WRITES, ONE), 2),
        (STORE, DEVICE + 12, dr7(1, WRITES, ONE), 0),
        (STORE, DEVICE + 7, dr7(2, WRITES, ONE), 0),
        (STORE, DEVICE + 15, dr7(2, WRITES, EIGHT), 4),  # the low bits are ignored
        (STORE, DEVICE + 7, dr7(2, WRITES, TWO), 0),
        (STORE, DEVICE + 8, dr7(3, ALL, TWO), 8),
        (STORE, DEVICE + 8, 0xF << 28, 0),  # not enabled
        (STORE, DEVICE + 8, dr7(0, 0, ONE), 0),  # on code
        (LOAD, DEVICE + 8, dr7(0, WRITES, FOUR), 0),
        (LOAD, DEVICE + 8, dr7(0, ALL, FOUR), 1),
        (LOAD, DEVICE + 8, dr7(0, ALL, FOUR) | dr7(3, ALL, ONE), 9),
        (ADD, DEVICE + 8, dr7(0, WRITES, FOUR), 1),
        (XCHG, DEVICE + 8, dr7(0, WRITES, FOUR), 1),
        (IN, PORT + 3, dr7(0, PORTS, ONE), 1),
        (OUT, PORT + 4, dr7(0, PORTS, ONE), 0),
        (OUT, PORT, dr7(0, ALL, FOUR), 0),
        (LOAD, DEVICE + 8, dr7(0, PORTS, FOUR), 0),
    ],
)
def test_access_that_is_watched(guest: Guest, code: str, address: int, control: int, bits: int) -> None:
    """By address, length, and kind of access."""
    watching(guest, code, address, control)
    assert bits == debug(guest)


def test_ports_are_watched_with_debug_extensions_only(guest: Guest) -> None:
    """Without CR4.DE R/W of 2 means nothing, and nothing is asked for."""
    watching(guest, IN, PORT, dr7(0, PORTS, FOUR), cr4=0, extended=None)
    assert 0 == debug(guest)


def test_string_stops_behind_the_iteration_that_is_watched(guest: Guest) -> None:
    """Each iteration is an exit of its own while a breakpoint is on: the third one traps."""
    watching(guest, "f3aa", DEVICE + 2, dr7(1, WRITES, ONE), rdi=DEVICE, rcx=5)
    seen = []
    for _ in range(4):
        completion = guest.once()
        assert isinstance(completion, Done)
        seen.append((completion.delta.registers[1], completion.delta.debug))
        guest.apply(completion)
    assert [(4, 0), (3, 0), (2, 2), (1, 0)] == seen


def test_single_step_and_breakpoint_are_one_exception(guest: Guest) -> None:
    """DR6 tells both."""
    watching(guest, STORE, DEVICE + 8, dr7(0, WRITES, FOUR), rflags=2 | TF)
    assert 1 << 14 | 1 == debug(guest)


def test_fault_comes_without_it(guest: Guest) -> None:
    """What did not happen was not watched."""
    watching(guest, "0f32", DEVICE, dr7(0, ALL, FOUR))
    assert Fault(13, 0) == guest.once()


def test_addresses_are_asked_for_before_any_access(guest: Guest) -> None:
    """Only if a breakpoint on data is on; of a hypervisor that cannot tell nothing is asked."""
    watching(guest, STORE, 0, dr7(0, WRITES, FOUR), extended=None)
    assert NeedRegisters(RegisterSet.DEBUG) == guest.once()
    assert [] == guest.log.accesses
    guest.platform = evolve(guest.platform, vectors=False)
    assert 0 == debug(guest)
    watching(guest, STORE, 0, dr7(0, 0, ONE), extended=None)
    assert 0 == debug(guest)
