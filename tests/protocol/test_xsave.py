"""The C header's way between an XSAVE area and the protocol, compiled and run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest

from mmiod.protocol.exit import NO_DEADLINE, decode_exit, encode_completion
from mmiod.values import Delta, Done, ExtendedState, RawExit, RegisterSet, VectorDelta

HEADER: Final = Path(__file__).parents[2] / "include" / "mmiod_exit.h"
AVX, OPMASK, ZMM_HI256, HI16_ZMM, END = 576, 832, 896, 1408, 2432
"""Of an AMD processor (CPUID leaf 0DH)."""
XSTATE_BV: Final = 512
EVERYTHING: Final = 0xE7

Helper = Callable[..., bytes]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("gcc", "-std=c11"), marks=pytest.mark.needs("gcc")),
        pytest.param(("g++", "-std=c++17", "-x", "c++"), marks=pytest.mark.needs("g++")),
    ],
)
def helper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helper:
    """Runs xsave.c with an argument and bytes on its standard input."""
    program = tmp_path_factory.mktemp("xsave") / "xsave"
    strict = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(HEADER.parent))
    source = Path(__file__).parent / "xsave.c"
    subprocess.run([*request.param, *strict, str(source), "-o", str(program)], check=True)

    def run(argument: str, data: bytes) -> bytes:
        return subprocess.run([program, argument], input=data, check=True, capture_output=True).stdout

    return run


def area(present: int = EVERYTHING) -> bytearray:
    """An area full of random bytes, in use as XSTATE_BV says."""
    data = bytearray(Random("xsave").randbytes(END))
    data[XSTATE_BV : XSTATE_BV + 8] = present.to_bytes(8, "little")
    return data


def number(data: bytes | bytearray, at: int, size: int) -> int:
    """A little-endian number in an area."""
    return int.from_bytes(data[at : at + size], "little")


def registers(data: bytes | bytearray) -> tuple[list[int], list[int]]:
    """The 32 vectors and 8 opmasks of an area, all components in use."""
    low = [
        number(data, 160 + 16 * n, 16)
        | number(data, AVX + 16 * n, 16) << 128
        | number(data, ZMM_HI256 + 32 * n, 32) << 256
        for n in range(16)
    ]
    high = [number(data, HI16_ZMM + 64 * n, 64) for n in range(16)]
    return low + high, [number(data, OPMASK + 8 * n, 8) for n in range(8)]


def supplied(helper: Helper, sets: RegisterSet, data: bytearray) -> ExtendedState:
    """What the daemon understands of the exit that the C program made."""
    exit_, _ = decode_exit(_with_sequence(helper(str(int(sets)), bytes(data))))
    assert isinstance(exit_, RawExit)
    assert exit_.state.extended is not None
    return exit_.state.extended


def _with_sequence(message: bytes) -> bytes:
    """Exits are numbered from 1; the program did not connect."""
    return message[:16] + (1).to_bytes(8, "little") + message[24:]


def applied(helper: Helper, delta: VectorDelta, data: bytearray, how: str = "apply") -> bytes:
    """The area after a DONE with these changes."""
    done = Done(Delta(0, 0, memory=[(0x1000, b"x")], vectors=delta))
    message = encode_completion(
        done, vcpu=0, sequence=1, posted=0, interrupt=False, guest_ns=0, deadline_ns=NO_DEADLINE
    )
    return helper(how, bytes(data) + message)


def test_all_sets_are_supplied(helper: Helper) -> None:
    """Every component lands where the daemon looks for it."""
    data, sets = area(), ~RegisterSet.GENERAL
    zmm, k = registers(data)
    dr = [0x1000, 0x2000, 0x3000, 0xFFFF_FFFF_8000_4000]

    assert ExtendedState(sets, zmm, k, bytes(data[:160]), 0x8000_0005, dr) == supplied(helper, sets, data)


def test_breakpoints_alone_are_supplied(helper: Helper) -> None:
    """A guest that enables one has them asked for, whatever its instruction is."""
    assert supplied(helper, RegisterSet.DEBUG, area()).dr == [0x1000, 0x2000, 0x3000, 0xFFFF_FFFF_8000_4000]


@pytest.mark.parametrize("sets", [RegisterSet.SSE, RegisterSet.X87 | RegisterSet.AVX512])
def test_what_is_not_in_use_is_in_its_initial_configuration(helper: Helper, sets: RegisterSet) -> None:
    """SDM vol. 1, 13.6: XSTATE_BV clear means zeros, and FCW 037FH, whatever the area holds."""
    found = supplied(helper, sets, area(present=0))

    assert ([0] * 32, [0] * 8) == (found.zmm, found.k)
    if RegisterSet.X87 in sets:
        assert b"\x7f\x03" + bytes(22) == found.x87[:24]
        assert bytes(128) == found.x87[32:]


def test_changes_are_applied_and_nothing_else(helper: Helper) -> None:
    """XMM leaves the bits above alone, ZMM has them all; MXCSR is not x87's."""
    data = area()
    changes = VectorDelta({1: 2}, {3: 1 << 511 | 1 << 255 | 5, 31: 7 << 500}, {7: 9}, bytes(range(160)))
    zmm, k = registers(data)
    zmm[1] = zmm[1] >> 128 << 128 | 2
    zmm[3], zmm[31], k[7] = changes.zmm[3], changes.zmm[31], 9
    after = applied(helper, changes, data)

    assert (zmm, k) == registers(after)
    assert (bytes(range(24)), data[24:32], bytes(range(32, 160))) == (after[:24], data[24:32], after[32:160])
    assert data[416:576] == after[416:576]


def test_a_component_comes_into_use(helper: Helper) -> None:
    """A change sets its bits in XSTATE_BV; registers beside it are zeros, not what lay there."""
    after = applied(helper, VectorDelta(zmm={3: 1 << 511 | 1 << 255 | 5}), area(present=0))

    assert 0x46 == after[XSTATE_BV]
    zmm = [number(after, 160 + 16 * n, 16) | number(after, AVX + 16 * n, 16) << 128 for n in range(16)]
    assert [0, 0, 0, 1 << 255 | 5, *[0] * 12] == zmm


def test_a_vcpu_takes_what_it_has(helper: Helper) -> None:
    """Without AVX the low 128 bits are all that is written."""
    data = area(present=3)
    after = applied(helper, VectorDelta(zmm={3: 1 << 511 | 5}, k={1: 1}), data, "apply-sse")
    expected = data[:]
    expected[160 + 48 : 160 + 64] = (5).to_bytes(16, "little")

    assert expected == after
