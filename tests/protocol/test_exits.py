from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings

from mmiod.protocol.exit import (
    MAX_MESSAGE,
    NUMBERS,
    PostedWrite,
    decode_exit,
    decode_posted,
    encode_exit,
    encode_posted,
    pack,
    read,
)
from mmiod.values import (
    Access,
    AcknowledgeExit,
    DecodedExit,
    Direction,
    Exit,
    HaltExit,
    Intent,
    RawExit,
    Segment,
    Space,
    TickExit,
    VcpuState,
)
from tests.protocol.messages import exits, patch, posted_writes, refusal, resize, u64

ERROR = NUMBERS["error"]


@given(exits, u64)
@settings(max_examples=200)
def test_exits_survive_the_wire(exit_: Exit, guest_ns: int) -> None:
    """Every exit arrives as it was sent, with its guest time."""
    assert (exit_, guest_ns) == decode_exit(encode_exit(exit_, guest_ns))


@given(posted_writes())
def test_posted_writes_survive_the_wire(write: PostedWrite) -> None:
    """Every posted write arrives as it was sent."""
    assert write == decode_posted(encode_posted(write))


def test_decoded_write_as_written_by_hand() -> None:
    """OUT to port 0x80: the byte travels in `value`, nothing follows."""
    by_hand = struct.pack("<IHHIIQQ", 64, 16, 0, 1, 0, 5, 99)
    by_hand += struct.pack("<QQBBHIiI", 0x80, 0x41, 1, 1, 1, 1, 0, 0)
    exit_ = DecodedExit(1, 5, Space.PIO, Direction.WRITE, 0x80, 1, data=b"A")

    assert by_hand == encode_exit(exit_, 99)


def test_decoded_string_write_as_written_by_hand() -> None:
    """Three words down from an address: six and eight bytes fit `value`, ten do not."""
    head = struct.pack("<QQBBHIiI", 0x1000, 0x0605_0403_0201, 0, 1, 2, 3, -1, 0)
    short = DecodedExit(0, 1, Space.MMIO, Direction.WRITE, 0x1000, 2, 3, -1, bytes(range(1, 7)))
    eight = DecodedExit(0, 1, Space.MMIO, Direction.WRITE, 0x1000, 2, 4, -1, bytes(range(1, 9)))
    long = DecodedExit(0, 1, Space.MMIO, Direction.WRITE, 0x1000, 2, 5, -1, bytes(range(1, 11)))

    assert head == encode_exit(short)[32:]
    assert (eight, 0) == decode_exit(encode_exit(eight))
    assert 64 == len(encode_exit(eight))
    assert bytes(range(1, 11)) == encode_exit(long)[64:]
    assert bytes(8) == encode_exit(long)[40:48]


def test_raw_exit_as_written_by_hand() -> None:
    """Registers lie in the order of their numbers, segments es..gs then tr ldtr gdtr idtr."""
    segments = [Segment(0x100 * n, 0xFFFF, n, 0x93) for n in range(10)]
    state = VcpuState(
        gpr=list(range(0x50, 0x60)), rip=1, rflags=2, segments=segments[:6],
        tr=segments[6], ldtr=segments[7], gdtr=segments[8], idtr=segments[9], cpl=3,
        cr0=3, cr2=4, cr3=5, cr4=6, efer=7, xcr0=8, dr6=9, dr7=10,
    )  # fmt: skip
    by_hand = struct.pack("<IHHIIQQ", 440, 17, 0b1101, 0, 0, 1, 0)
    by_hand += struct.pack("<QQBBBBI16s", 0xFEE0_0000, 0, 1, 2, 3, 0, 0, b"\x89\x07")
    by_hand += struct.pack("<26Q", *range(0x50, 0x60), *range(1, 11))
    by_hand += b"".join(struct.pack("<QIHH", 0x100 * n, 0xFFFF, n, 0x93) for n in range(10))
    exit_ = RawExit(0, 1, state, b"\x89\x07", gpa=0xFEE0_0000, intent=Intent.WRITE, event_delivery=True)

    assert by_hand == encode_exit(exit_)


def test_supplements_as_written_by_hand() -> None:
    """A translation has 32 bytes; memory is padded to 8 with zeros that its length leaves out."""
    exit_ = RawExit(
        0, 1, VcpuState(), translations={(0x7000, Intent.WRITE): 0x9000}, memory=[(0x123, b"abc")]
    )
    by_hand = struct.pack("<HHIQQII", 1, 0, 32, 0x7000, 0x9000, 1, 0)
    by_hand += struct.pack("<HHIQ", 2, 0, 19, 0x123) + b"abc\0\0\0\0\0"

    assert by_hand == encode_exit(exit_)[440:]


READ = encode_exit(DecodedExit(0, 1, Space.MMIO, Direction.READ, 0x1000, 4))
WRITE = encode_exit(DecodedExit(0, 1, Space.PIO, Direction.WRITE, 0x80, 1, data=b"A"))
TWO = encode_exit(DecodedExit(0, 1, Space.MMIO, Direction.READ, 0, 8, 2))
LONG = encode_exit(DecodedExit(0, 1, Space.MMIO, Direction.WRITE, 0, 16, data=bytes(16)))
RAW = encode_exit(RawExit(0, 1, VcpuState()))
POSTED = encode_posted(PostedWrite(0, 1, 0, Access(Space.PIO, Direction.WRITE, 0x80, 1, 0x41)))


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (patch(READ, "space", 4), "exit_decoded.space", "0 MMIO, 1 PIO"),
        (patch(READ, "direction", 2), "exit_decoded.direction", "0 reads, 1 writes"),
        (patch(READ, "size", 3), "exit_decoded.size", "1, 2, 4, 8, 16, 32 or 64"),
        (patch(READ, "size", 0), "exit_decoded.size", "1, 2, 4, 8, 16, 32 or 64"),
        (patch(READ, "count", 0), "exit_decoded.count", "1..16368"),
        (patch(READ, "count", 16369), "exit_decoded.count", "1..16368"),
        (patch(READ, "space", 3), "exit_decoded.size", "an MSR has 8 bytes"),
        (patch(TWO, "space", 3), "exit_decoded.count", "one by one"),
        (patch(READ, "stride", 2), "exit_decoded.stride", "-1, 0 or 1"),
        (patch(READ, "stride", -2), "exit_decoded.stride", "-1, 0 or 1"),
        (patch(READ, "value", 1), "exit_decoded.value", "it holds 0 bytes here"),
        (patch(WRITE, "value", 0x100), "exit_decoded.value", "it holds 1 bytes here"),
        (patch(LONG, "value", 1), "exit_decoded.value", "it holds 0 bytes here"),
        (patch(WRITE, "address", 0x1_0000), "exit_decoded.address", "a PIO address has 16 bits"),
        (
            patch(patch(READ, "space", 2), "address", 1 << 28),
            "exit_decoded.address",
            "PCI_CONFIG address has 28",
        ),
        (
            patch(patch(READ, "space", 3), "address", 1 << 32),
            "exit_decoded.address",
            "MSR address has 32 bits",
        ),
        (patch(RAW, "gpa", 1), "exit_raw.gpa", "zero without flag GPA"),
        (patch(RAW, "gva", 1), "exit_raw.gva", "zero without flag GVA"),
        (patch(RAW, "intent", 1), "exit_raw.intent", "zero without flag INTENT"),
        (patch(patch(RAW, "intent", 3), "header.flags", 4), "exit_raw.intent", "0 read, 1 write, 2 execute"),
        (patch(RAW, "code_length", 16), "exit_raw.code_length", "at most 15"),
        (patch(RAW, "cpl", 4), "exit_raw.cpl", "0..3"),
        (patch(POSTED, "space", 9), "posted.space", "0 MMIO, 1 PIO"),
        (patch(POSTED, "address", 0x1_0000), "posted.address", "a PIO address has 16 bits"),
        (patch(POSTED, "size", 16), "posted.size", "1, 2, 4 or 8 bytes"),
        (patch(POSTED, "value", 0x100), "posted.value", "it has 1 bytes"),
    ],
)
def test_range_errors_name_the_field(data: bytes, name: str, reason: str) -> None:
    """A field outside its range is refused by name."""
    error = refusal(lambda: read(data))

    assert (ERROR["RANGE"], name) == (error.code, error.name)
    assert reason in error.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (resize(READ, 68), "needs 0 bytes behind its fixed 64"),
        (resize(WRITE, 65), "needs 0 bytes behind"),
        (resize(LONG, 79), "needs 16 bytes behind"),
        (resize(LONG, 81), "needs 16 bytes behind"),
        (resize(LONG, 64), "needs 16 bytes behind"),
    ],
)
def test_tail_of_a_decoded_exit_has_its_elements(data: bytes, reason: str) -> None:
    """A write brings exactly count * size bytes, a read none."""
    error = refusal(lambda: decode_exit(data))

    assert (ERROR["MALFORMED"], "header.size") == (error.code, error.name)
    assert reason in error.reason


@pytest.mark.parametrize(
    "data", [READ, RAW, POSTED, encode_exit(HaltExit(0, 1)), encode_exit(TickExit(0, 1))]
)
def test_sequences_begin_with_one(data: bytes) -> None:
    """Sequence 0 is no exit's."""
    error = refusal(lambda: read(patch(data, "exit.sequence", 0)))

    assert ERROR["SEQUENCE"] == error.code
    assert error.name.endswith(".exit.sequence")


def test_the_longest_decoded_exit_fits() -> None:
    """The bound on count keeps exit and completion within a message."""
    most = DecodedExit(0, 1, Space.MMIO, Direction.WRITE, 0, 1, 65472, 1, bytes(65472))

    assert len(encode_exit(most)) == MAX_MESSAGE
    assert (most, 0) == decode_exit(encode_exit(most))


def test_more_than_15_instruction_bytes_are_not_sent() -> None:
    """No x86 instruction is longer; the client learns it before the daemon closes."""
    with pytest.raises(ValueError, match="16 instruction bytes, at most 15"):
        encode_exit(RawExit(0, 1, VcpuState(), bytes(16)))


def test_bytes_behind_the_instruction_are_ignored() -> None:
    """A client may copy 16 bytes as the hardware gave them; `code_length` says what counts."""
    exit_, _ = decode_exit(patch(patch(RAW, "code_length", 1), "code", 0xCCCC_9090))

    assert isinstance(exit_, RawExit)
    assert exit_.code == b"\x90"


@pytest.mark.parametrize("name", ["MAP", "POSTED", "VALUES"])
def test_decode_exit_takes_exits_only(name: str) -> None:
    """Another message is refused by its type."""
    error = refusal(lambda: decode_exit(pack(name)))

    assert (ERROR["UNKNOWN_TYPE"], "header.type") == (error.code, error.name)
    assert f"{name} is no exit" == error.reason


@pytest.mark.parametrize(("kind", "type_"), [(HaltExit, 18), (TickExit, 19), (AcknowledgeExit, 20)])
def test_plain_exits_as_written_by_hand(
    kind: type[HaltExit | TickExit | AcknowledgeExit], type_: int
) -> None:
    """HLT, a tick and INTA are told by their type alone."""
    assert struct.pack("<IHHIIQQ", 32, type_, 0, 3, 0, 8, 6) == encode_exit(kind(3, 8), 6)
