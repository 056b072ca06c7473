from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings

from mmiod.protocol.exit import NUMBERS, decode_completion, encode_completion, pack
from mmiod.protocol.exit.completions import Completed
from mmiod.values import Completion, Delta, Done, Fault, Intent, NeedTranslation, Unsupported, Values
from tests.protocol.messages import completed, completed_bytes, patch, refusal, resize

ERROR = NUMBERS["error"]


def sent(completion: Completion) -> bytes:
    """The bytes of a completion of vCPU 1's exit 2."""
    return encode_completion(
        completion, vcpu=1, sequence=2, posted=3, interrupt=True, guest_ns=4, deadline_ns=5
    )


COMMON = struct.pack("<IIQQQQ", 1, 1, 2, 3, 4, 5)


@given(completed)
@settings(max_examples=300)
def test_completions_survive_the_wire(done: Completed) -> None:
    """Every completion arrives as it was given, with its common fields."""
    assert done == decode_completion(completed_bytes(done))


def test_values_as_written_by_hand() -> None:
    """Up to 8 bytes travel in `value`, more behind; `length` counts them in either case."""
    short = struct.pack("<IHH", 64, 32, 0) + COMMON + struct.pack("<QII", 0x0403_0201, 4, 0)
    long = struct.pack("<IHH", 80, 32, 0) + COMMON + struct.pack("<QII", 0, 16, 0) + bytes(range(16))

    assert short == sent(Values(b"\x01\x02\x03\x04"))
    assert long == sent(Values(bytes(range(16))))


def test_done_as_written_by_hand() -> None:
    """`changed` has a bit per register; the memory to write follows as supplements."""
    gpr = [0] * 16
    gpr[0], gpr[15] = 0x1234, 0x5678
    by_hand = struct.pack("<IHH", 224, 33, 0) + COMMON
    by_hand += struct.pack("<16QQQII", *gpr, 0x7C05, 0x46, 0x8001, 0)
    by_hand += struct.pack("<HHIQ", 2, 0, 20, 0x500) + b"data\0\0\0\0"

    assert by_hand == sent(Done(Delta(0x7C05, 0x46, {0: 0x1234, 15: 0x5678}, [(0x500, b"data")])))


def test_debugging_as_written_by_hand() -> None:
    """DONE tells DR6's bits in place of padding, and the shadow of MOV SS by a flag."""
    by_hand = struct.pack("<IHH", 200, 33, 1) + COMMON
    by_hand += struct.pack("<16QQQII", *[0] * 16, 7, 2, 0, 0x4001)

    assert by_hand == sent(Done(Delta(7, 2, debug=0x4001, shadow=True)))


def test_fault_without_delta_as_written_by_hand() -> None:
    """A page fault that did nothing before: error code and CR2 by flags, no registers."""
    by_hand = struct.pack("<IHH", 216, 34, 3) + COMMON + bytes(144)
    by_hand += struct.pack("<IIIIQ", 0, 14, 2, 0, 0xDEAD_BEEF)

    assert by_hand == sent(Fault(14, 2, 0xDEAD_BEEF))


def test_error_code_zero_is_not_no_error_code() -> None:
    """#GP(0) pushes a zero; #UD pushes nothing."""
    faults = [Fault(13, 0), Fault(6)]

    assert faults == [decode_completion(sent(fault)).completion for fault in faults]


DONE = sent(Done(Delta(1, 2)))
FAULT = sent(Fault(14))
SHORT = sent(Values(b"ab"))
LONG = sent(Values(bytes(16)))


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (patch(DONE, "completion.interrupt", 2), "done.completion.interrupt", "0 or 1"),
        (patch(DONE, "changed", 0x10000), "done.changed", "there are 16 registers"),
        (patch(DONE, "gpr[3]", 1), "done.gpr[3]", "it has not changed"),
        (patch(FAULT, "vector", 32), "fault.vector", "exceptions are 0..31"),
        (patch(FAULT, "error_code", 1), "fault.error_code", "zero without its flag"),
        (patch(FAULT, "cr2", 1), "fault.cr2", "zero without its flag"),
        (patch(FAULT, "rip", 1), "fault.rip", "zero without flag DELTA"),
        (patch(FAULT, "changed", 1), "fault.rip", "zero without flag DELTA"),
        (patch(SHORT, "value", 0x1_0000), "values.value", "it holds 2 bytes here"),
        (patch(LONG, "value", 1), "values.value", "it holds 0 bytes here"),
        (patch(SHORT, "length", 65473), "values.length", "at most 65472"),
        (patch(DONE, "debug", 1 << 4), "done.debug", "bits 3:0 and 14"),
        (pack("NEED_BYTES", count=0), "need_bytes.count", "1..15"),
        (pack("NEED_BYTES", count=16), "need_bytes.count", "1..15"),
        (pack("NEED_MEMORY"), "need_memory.length", "at least 1"),
        (pack("NEED_TRANSLATION", intent=3), "need_translation.intent", "0 read, 1 write"),
        (pack("NEED_TRANSLATION", cpl=4), "need_translation.cpl", "0..3"),
        (pack("NEED_REGISTERS"), "need_registers.registers", "bits of register_set"),
        (pack("NEED_REGISTERS", registers=1 << 31), "need_registers.registers", "bits of register_set"),
        (pack("UNSUPPORTED", code_length=16), "unsupported.code_length", "at most 15"),
        (pack("REFUSED"), "refused.reason", "a number of enum refusal"),
        (pack("REFUSED", reason=4), "refused.reason", "a number of enum refusal"),
    ],
)
def test_range_errors_name_the_field(data: bytes, name: str, reason: str) -> None:
    """A client that trusts nobody finds a daemon's mistake by name."""
    error = refusal(lambda: decode_completion(data))

    assert (ERROR["RANGE"], name) == (error.code, error.name)
    assert reason in error.reason


@pytest.mark.parametrize(
    "data",
    [resize(SHORT, 65), resize(LONG, 79), resize(LONG, 81), resize(FAULT, 248), patch(LONG, "length", 15)],
)
def test_tail_is_what_the_fields_say(data: bytes) -> None:
    """VALUES brings its elements, a FAULT without DELTA nothing."""
    error = refusal(lambda: decode_completion(data))

    assert error.name in {"header.size", "supplement.length"}


def test_decode_completion_takes_completions_only() -> None:
    """Another message is refused by its type."""
    error = refusal(lambda: decode_completion(pack("ACK")))

    assert "ACK is no completion" == error.reason


def test_need_translation_as_written_by_hand() -> None:
    """The address, what it is wanted for, and the privilege."""
    assert COMMON + struct.pack("<QII", 0x7FFF, 1, 3) == sent(NeedTranslation(0x7FFF, Intent.WRITE, 3))[8:]


def test_unsupported_carries_its_bytes() -> None:
    """The bytes that mmiod looked at come back, and no more of them."""
    assert Unsupported(b"\x0f\x0b") == decode_completion(sent(Unsupported(b"\x0f\x0b"))).completion
