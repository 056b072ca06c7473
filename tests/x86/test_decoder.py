"""The decoder against iced on random and on truncated bytes, and by hand where SDM is subtle."""

from __future__ import annotations

import iced_x86 as iced
import pytest
from hypothesis import given, settings, strategies as st

from mmiod.x86 import Mode, NeedMore, NotSupported, Plan, Undefined, decode
from mmiod.x86.faults import GP, UD
from mmiod.x86.operands import Memory
from tests.x86.forms import executed_forms, legal_modes
from tests.x86.layout import ENTRY
from tests.x86.oracle import Driver
from tests.x86.predicted import effective_address
from tests.x86.states import execute, flat, plan_of, with_registers
from tests.x86.trial import cases

FORMS = frozenset(executed_forms())
PREFIXES = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)]
MEMORY_KINDS = frozenset(
    value for name, value in vars(iced.OpKind).items() if isinstance(value, int) and name.startswith("MEMORY")
)


def touches(instruction: iced.Instruction) -> bool:
    """Whether the instruction has a memory operand or a port."""
    if instruction.mnemonic in (iced.Mnemonic.IN, iced.Mnemonic.OUT):
        return True
    return any(instruction.op_kind(n) in MEMORY_KINDS for n in range(instruction.op_count))


@settings(max_examples=3000)
@given(
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=4),
    escape=st.sampled_from((b"", b"", b"\x0f", b"\x0f\x38")),
    rest=st.binary(min_size=0, max_size=15),
    mode=st.sampled_from(list(Mode)),
)
def test_agrees_with_iced_on_random_bytes(
    prefixes: list[int], escape: bytes, rest: bytes, mode: Mode
) -> None:
    """A plan for each of iced's forms in scope; all plans have its length; #UD and #GP only where it fails.

    AMD's decoder, since 66 makes near calls 16 bits wide (APM vol. 3, CALL).
    """
    code = bytes(prefixes) + escape + rest
    decoder = iced.Decoder(int(mode), code, iced.DecoderOptions.AMD, ip=ENTRY[mode])
    instruction = decoder.decode()
    outcome = decode(code, mode)
    if instruction.code in FORMS and touches(instruction):
        assert isinstance(outcome, Plan)
        assert instruction.len == outcome.length
    elif decoder.last_error == iced.DecoderError.NO_MORE_BYTES:
        assert isinstance(outcome, NeedMore | NotSupported | Undefined)
    elif decoder.last_error == iced.DecoderError.INVALID_INSTRUCTION:
        whole = decode(code + bytes(15), mode) if isinstance(outcome, NeedMore) else outcome
        assert isinstance(whole, Undefined | NotSupported)
    elif isinstance(outcome, Plan):  # an instruction besides these forms: on the stack, on cache lines
        assert instruction.len == outcome.length
    else:
        assert isinstance(outcome, NotSupported)


@pytest.mark.parametrize("mode", list(Mode))
def test_every_truncation_needs_more(mode: Mode) -> None:
    """Each proper beginning of each form asks for bytes, for at least one and never too many."""
    for form in FORMS:
        if mode not in legal_modes(form):
            continue
        for case in cases(form, mode, 4):
            for have in range(len(case.code)):
                outcome = decode(case.code[:have], mode)
                assert isinstance(outcome, NeedMore), (case, have)
                assert 1 <= outcome.count <= len(case.code) - have


@given(data=st.data(), mode=st.sampled_from(list(Mode)))
def test_effective_addresses_agree_with_iced(data: st.DataObject, mode: Mode) -> None:
    """ModRM, SIB and displacement of random bytes give iced's address, whatever the registers hold."""
    prefixes = data.draw(st.lists(st.sampled_from([0x64, 0x67, *range(0x40, 0x50)]), max_size=2))
    code = bytes(prefixes) + b"\x89" + data.draw(st.binary(min_size=10, max_size=10))
    gpr = data.draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=16, max_size=16))
    outcome = decode(code, mode)
    if not isinstance(outcome, Plan):
        return
    memory = outcome.instruction.operands[0]
    assert isinstance(memory, Memory)
    instruction = iced.Decoder(int(mode), code, ip=ENTRY[mode]).decode()
    expected = effective_address(instruction, gpr)
    vcpu = with_registers(flat(mode), gpr=gpr, rip=ENTRY[mode])
    assert expected == memory.offset(vcpu)


# --- by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "mode", "expected"),
    [
        ("66 41 41 41 41 41 41 41 41 41 41 41 41 41 41 41", 64, Undefined(GP, 0)),  # SDM vol. 2, 2.3.11
        ("26 26 26 26 26 26 26 26 26 26 26 26 26 8b 07", 32, 15),
        ("26 26 26 26 26 26 26 26 26 26 26 26 26 26 8b 07", 32, Undefined(GP, 0)),
        ("26 26 26 26 26 26 26 26 26 26 26 26 26 26 8b", 32, Undefined(GP, 0)),
        ("26 26 26 26 26 26 26 26 26 26 26 26 26 26", 32, NeedMore(1)),
        ("c7 05 00 00 00 00 78 56 34 12", 64, 10),
        ("80 3d 00 00 00 00 01", 64, 7),
        ("66 c7 00 34 12", 64, 5),
        ("66 48 c7 00 78 56 34 12", 64, 8),  # REX.W overrides 66
        ("48 66 c7 00 34 12", 64, 6),  # REX before a legacy prefix counts for nothing
        ("c7 40 01 34 12", 16, 5),
        ("c7 06 00 10 34 12", 16, 6),
        ("a1 00 00 00 00 00 00 00 00", 64, 9),
        ("67 a1 00 00 00 00", 64, 6),
        ("a1 00 00", 16, 3),
        ("f3 8b 07", 64, 3),  # REP on what is no string: ignored
        ("f2 8b 07", 64, 3),
        ("82 00 01", 32, 3),
        ("82 00 01", 64, Undefined(UD)),
        ("f6 08 01", 64, 3),  # TEST by its alias /1
        ("f7 08 01 00 00 00", 64, 6),
        ("c6 08 01", 64, Undefined(UD)),
        ("c7 38 01 00 00 00", 64, Undefined(UD)),
        ("c6 c8 01", 64, Undefined(UD)),
        ("c6 f8 01", 64, NotSupported()),  # XABORT
        ("c7 f8 00 00 00 00", 64, NotSupported()),  # XBEGIN
        ("8c 30", 64, Undefined(UD)),  # there is no segment register 6
        ("8e 18", 64, 2),
        ("8e 08", 64, Undefined(UD)),  # CS is not loaded that way
        ("fe 10", 64, Undefined(UD)),
        ("ff 38", 32, Undefined(UD)),
        ("ff 10", 64, 2),
        ("48 ff 18", 64, 3),
        ("8f 00", 64, 2),
        ("8f 08", 64, NotSupported()),  # XOP, or undefined
        ("d0 30", 64, 2),  # SHL by its alias /6
        ("c1 30 05", 32, 3),
        ("66 0f 38 f6 00", 64, 5),
        ("0f 38 f6 00", 64, NotSupported()),  # WRSS, which ADCX is without its prefix
        ("0f b8 00", 64, NotSupported()),  # POPCNT without its prefix
        ("f3 0f 38 f0 00", 64, NotSupported()),  # MOVBE takes no prefix but 66
        ("66 f2 0f 38 f1 00", 64, 6),  # F2 counts, and 66 still gives the size
        ("f2 66 0f 38 f1 00", 64, 6),
        ("f2 f3 0f b8 00", 64, 5),  # of both the last one
        ("66 0f ae 38", 64, 4),
        ("62 00 00", 32, NotSupported()),  # BOUND
        ("c4 00", 32, NotSupported()),  # LES
        ("8b c3", 64, NotSupported()),  # no memory
        ("63 07", 32, NotSupported()),  # ARPL
        ("0f 0b", 64, NotSupported()),
        ("", 64, NeedMore(1)),
        ("0f", 64, NeedMore(1)),
        ("8b 84", 64, NeedMore(1)),
        ("8b 84 24", 64, NeedMore(4)),
        ("8b 84 24 00", 64, NeedMore(3)),
    ],
)
def test_vectors(code: str, mode: int, expected: object) -> None:
    """Lengths, and the outcomes that are no plan."""
    outcome = decode(bytes.fromhex(code), Mode(mode))
    assert expected == (outcome.length if isinstance(outcome, Plan) else outcome)


@pytest.mark.parametrize(
    "opcode",
    [
        "8b 00",
        "88 00",
        "38 00",
        "3b 00",
        "03 00",
        "84 00",
        "a4",
        "aa",
        "ec",
        "c6 00 00",
        "f6 00 00",
        "80 38 00",
        "01 c0",
        "87 c0",
        "0f a3 00",
        "0f ba 20 01",
        "0f af 00",
        "f7 20",
        "d1 00",
        "0f a4 00 01",
        "0f 44 00",
        "0f 94 00",
        "0f 38 f0 00",
        "0f 38 f1 00",
        "0f 38 f9 00",
        "0f 38 fc 00",
        "0f c3 00",
        "ff 30",
        "8f 00",
        "ff 10",
        "d7",
    ],
)
def test_lock_is_undefined_where_nothing_is_modified(opcode: str) -> None:
    """LOCK is #UD without a memory destination that is read and written (SDM vol. 2, LOCK)."""
    assert Undefined(UD) == decode(bytes.fromhex("f0" + opcode), Mode.CODE64)


@pytest.mark.parametrize(
    "opcode",
    (
        "00 00,09 00,11 00,19 00,21 00,29 00,31 00,86 00,87 00,80 00 01,83 28 01,f6 10,f7 18,fe 00,ff 08,"
        "0f b0 00,0f b1 00,0f c0 00,0f c1 00,0f c7 08,48 0f c7 08,0f ab 00,0f b3 00,0f bb 00,0f ba 28 01"
    ).split(","),
)
def test_lock_is_legal_on_read_modify_write(opcode: str) -> None:
    """What reads and writes memory with one operation may be locked (SDM vol. 2, LOCK)."""
    assert plan_of("f0" + opcode).instruction.lock


@pytest.mark.parametrize(
    ("code", "written"),
    [("88 30", 0x12), ("40 88 30", 0x78), ("44 88 30", 0xEF)],
)
def test_high_byte_registers_need_the_absence_of_rex(code: str, written: int) -> None:
    """Register 6 of a byte is DH; with any REX it is SIL (SDM vol. 2, 2.2.1.2)."""
    driver = Driver()
    execute(code, flat(Mode.CODE64, rax=0x100, rdx=0x1234, rsi=0x5678, r14=0xCDEF), driver)
    assert [written] == [effect.value for effect in driver.trace]


def test_load_into_high_byte_keeps_the_low_one() -> None:
    """MOV AH, [m] merges at bits 15:8."""
    delta = execute("8a 60 10", flat(Mode.CODE64, rax=0x2_0042))
    assert 0x2_0042 == delta.registers[0] & ~0xFF00
    assert 8 == plan_of("8a 60 10").instruction.operands[0].shift  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("code", "offset"),
    [
        ("8b 04 0b", 0x1010),  # SIB scales by 1, 2, 4, 8
        ("8b 04 4b", 0x1020),
        ("8b 04 8b", 0x1040),
        ("8b 04 cb", 0x1080),
        ("8b 47 f8", 0x1FF8),  # displacements are signed
        ("8b 05 f0 ff ff ff", 0x4006 - 16),
        ("67 8b 47 f8", 0x1FF8),
        ("67 8b 05 f0 ff ff ff", 0x4007 - 16),
    ],
)
def test_addressing_that_other_decoders_got_wrong(code: str, offset: int) -> None:
    """Regressions of COCONUT-SVSM's decoder."""
    memory = plan_of(code).instruction.operands[1]
    assert isinstance(memory, Memory)
    assert offset == memory.offset(flat(Mode.CODE64, rbx=0x1000, rcx=0x10, rdi=0x2000, rip=0x4000))


@pytest.mark.parametrize(
    ("code", "size"),
    [
        ("ed", 4),
        ("48 6d", 4),
        ("48 6f", 4),
        ("66 ed", 2),
        ("48 ed", 4),
        ("66 48 ed", 4),
        ("48 ef", 4),
        ("ec", 1),
    ],
)
def test_ports_are_at_most_four_bytes_wide(code: str, size: int) -> None:
    """REX.W does not widen IN and OUT (and takes the effect of 66 away, as iced and QEMU have it)."""
    driver = Driver()
    execute(code, flat(Mode.CODE64, rdx=0x80), driver)
    assert {size} == {effect.size for effect in driver.trace}
    assert {"in", "out"} & {effect.kind for effect in driver.trace}
