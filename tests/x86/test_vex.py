"""VEX, EVEX and the table of vector forms: what decodes, how long it is, what is #UD."""

from __future__ import annotations

from random import Random
from typing import Final

import iced_x86 as iced
import pytest

from mmiod.x86 import Mode, NeedMore, NotSupported, Plan, Undefined, decode
from mmiod.x86.vector_opcodes import FORMS
from tests.x86.states import plan_of

UD = Undefined(6)
CASES: Final = 4000
_MAPS: Final = {0x0F: 1, 0x0F38: 2, 0x0F3A: 3, 5: 5}
_PREFIXES: Final = (*[b""] * 6, b"\x67", b"\x65", b"\x66", b"\xf3", b"\xf0", b"\x48", b"\x41\x26")
_MANDATORY: Final = (b"", b"\x66", b"\xf3", b"\xf2")
_ESCAPES: Final = {0x0F: b"\x0f", 0x0F38: b"\x0f\x38"}


def drawn(random: Random) -> bytes:
    """A random encoding of an opcode in the table: most fields legal, some not."""
    space, number = random.choice(list(FORMS))
    mandatory, escape, opcode = number >> 24, number >> 8 & 0xFFFF, number & 0xFF
    modrm = random.getrandbits(8)
    if random.random() < 0.9:
        modrm &= random.choice((0x3F, 0x7F, 0xBF))
    tail = bytes([opcode, modrm]) + random.randbytes(9)
    prefix = random.choice(_PREFIXES)
    if space == "legacy":
        rex = random.choice((b"", bytes([0x40 | random.getrandbits(4)])))
        return prefix + _MANDATORY[mandatory] + rex + _ESCAPES[escape] + tail
    vvvv = 15 if random.random() < 0.7 else random.getrandbits(4)
    w = random.getrandbits(1) << 7
    if space == "evex":
        first = random.getrandbits(4) << 4 | _MAPS[escape] | (8 if random.random() < 0.03 else 0)
        second = w | vvvv << 3 | mandatory | (4 if random.random() < 0.97 else 0)
        third = random.getrandbits(8) | random.choice((0, 8, 8)) & ~random.choice((0, 0x80, 0x90))
        return prefix + bytes([0x62, first, second, third & random.choice((0xFF, 0x6F, 0xEF))]) + tail
    first = random.getrandbits(3) << 5
    second = vvvv << 3 | random.getrandbits(1) << 2 | mandatory
    if escape == 0x0F and random.random() < 0.4:
        return prefix + bytes([0xC5, first & 0x80 | second]) + tail
    return prefix + bytes([0xC4, first | _MAPS[escape], w | second]) + tail


@pytest.mark.parametrize("mode", Mode)
def test_legality_and_length_are_iceds(mode: Mode) -> None:
    """What iced rejects has no plan; what it accepts in memory has one of its length, else none is needed."""
    random = Random(f"vex {mode}")
    plans = 0
    for _ in range(CASES):
        code = drawn(random)[:15]
        expected = iced.Decoder(int(mode), code, ip=0).decode()
        actual = decode(code, mode)
        if expected.code == iced.Code.INVALID:
            assert isinstance(actual, Undefined | NotSupported), code.hex()
        elif isinstance(actual, Plan):
            assert expected.len == actual.length, code.hex()
            plans += 1
        else:
            assert NotSupported() == actual, code.hex()
            assert not _moves_memory(expected), code.hex()
    assert plans > CASES / 10


def _moves_memory(instruction: iced.Instruction) -> bool:
    """Whether it has an operand in memory and is not LES, LDS or BOUND."""
    kinds = [instruction.op_kind(number) for number in range(instruction.op_count)]
    return iced.OpKind.MEMORY in kinds and instruction.encoding != iced.EncodingKind.LEGACY


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("66c5fe6f00", "66 before VEX (SDM vol. 2, 2.3.3)"),
        ("f2c5fe6f00", "F2 before VEX (2.3.3)"),
        ("f3c5fe6f00", "F3 before VEX (2.3.3)"),
        ("f0c5fe6f00", "LOCK before VEX (2.3.2)"),
        ("48c5fe6f00", "REX before VEX (2.3.4)"),
        ("f062f17f486f00", "LOCK before EVEX (2.7.11)"),
        ("c5f66f00", "VEX.vvvv of a move with two operands (2.3.5.6)"),
        ("c5fc1200", "VEX.L of VMOVLPS"),
        ("c4e2fd1800", "VEX.W of VBROADCASTSS"),
        ("c4e2791a00", "VEX.L of VBROADCASTF128"),
        ("c4e47d1800", "a VEX map that is reserved (2.3.5)"),
        ("c5789000", "a ninth opmask"),
        ("62f97f486f00", "bit 3 of EVEX's second byte (2.7.11)"),
        ("62f17b486f00", "bit 2 of EVEX's third byte (2.7.11)"),
        ("62f07f486f00", "EVEX map 0 (2.7.11)"),
        ("62f17f686f00", "EVEX.L'L of 3 (2.7.11)"),
        ("62f17f586f00", "EVEX.b of a move (2.7.11)"),
        ("62f17fc86f00", "EVEX.z without an opmask (2.7.11)"),
        ("62f17fc97f00", "EVEX.z of a store (2.7.11)"),
        ("62f17d49e700", "an opmask of VMOVNTDQ (2.7.11)"),
        ("62f17f406f00", "EVEX.V' of a move with two operands (2.7.11)"),
        ("f00f1000", "LOCK of a load"),
    ],
)
def test_what_the_manual_forbids(code: str, why: str) -> None:
    """Each breach by itself is #UD; iced agrees."""
    data = bytes.fromhex(code)

    assert iced.Code.INVALID == iced.Decoder(64, data.ljust(15, b"\0"), ip=0).decode().code, why
    assert UD == decode(data, Mode.CODE64), why


@pytest.mark.parametrize(
    "code", ["c5fe6f8000010000", "c4e27d1880a0000000", "62f17f486f4001", "660f3830442401"]
)
def test_every_truncation_needs_more(code: str) -> None:
    """Bytes that end anywhere inside an instruction say so, and never more than are missing."""
    whole = bytes.fromhex(code)
    for have in range(1, len(whole)):
        outcome = decode(whole[:have], Mode.CODE64)
        assert isinstance(outcome, NeedMore), have
        assert 1 <= outcome.count <= len(whole) - have


@pytest.mark.parametrize("mode", [Mode.CODE16, Mode.CODE32])
@pytest.mark.parametrize(("code", "name"), [("c5be", "LDS"), ("c4be", "LES"), ("62be", "BOUND")])
def test_other_instructions_have_these_bytes_in_front_of_memory(mode: Mode, code: str, name: str) -> None:
    """Outside of 64-bit code ModRM of LES, LDS and BOUND names memory, which VEX never looks like."""
    assert NotSupported() == decode(bytes.fromhex(code).ljust(15, b"\0"), mode), name


@pytest.mark.parametrize(
    ("code", "displacement", "why"),
    [
        ("62f17f486f4001", 64, "512 bits, full (SDM vol. 2, 2.7.5)"),
        ("62f17f286f40ff", -32, "256 bits, full"),
        ("62f17e08104001", 4, "one float"),
        ("62f27d48184001", 4, "broadcast of one element"),
        ("62f27d485a4001", 16, "broadcast of four"),
        ("62f27d48304002", 64, "half of the vector"),
        ("62f27d48324001", 8, "an eighth"),
        ("62f1ff08124001", 8, "VMOVDDUP of 128 bits"),
        ("62f1ff48124001", 64, "VMOVDDUP of 512 bits"),
        ("62f17f486f8001000000", 1, "a displacement of four bytes"),
        ("62e57e08104001", 2, "a scalar of half precision"),
        ("62e57d086e40ff", -2, "VMOVW"),
        ("c5fe6f4001", 1, "VEX does not scale"),
    ],
)
def test_compressed_displacement(code: str, displacement: int, why: str) -> None:
    """EVEX counts an 8-bit displacement in units of the operand."""
    memory = plan_of(code).instruction.memory

    assert memory is not None
    assert displacement == memory.displacement, why
