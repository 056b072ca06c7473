"""Any structure of any source is an exit, an answer or one ProtocolError that names its field; nothing else.

The exit is one that the codec could have read, and whatever it comes to goes back in as many bytes
as came, or as the completion it is.  What the structure points to is asked for before the exit is
there, and nothing is touched beyond that.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import (
    Answer,
    Arrived,
    Reply,
    SourceExit,
    encode_completion,
    encode_exit,
    encode_source,
    read as read_datagram,
)
from mmiod.protocol.exit.exits import MAX_ELEMENTS, SPACE_BITS
from mmiod.protocol.exit.sourced import MAX_BODY
from mmiod.protocol.sources import SOURCES, Settled, read
from mmiod.values import (
    READ,
    Completion,
    DecodedExit,
    Delta,
    Done,
    Fault,
    Forward,
    RawExit,
    Refusal,
    Refused,
    Retry,
    Unsupported,
    Values,
)
from tests.fuzz.datagrams import flat64
from tests.fuzz.reader import Reader, written

LENGTHS: Final = (32, 88, 128, 136, 256, 384, 1024, 4096, 4104, 4112, 8192)
KINDS: Final[dict[int, tuple[int, tuple[int, ...]]]] = {
    1: (0x390, (0x7B, 0x7C, 0x80000001, 0x80000002)),
    2: (0x3C0, (0x7B, 0x7C, 0x400)),
    3: (88, (0x1E, 0x1F, 0x20, 0x30)),
    4: (0, (30, 31, 32, 48)),
    5: (8, (2, 6, 17, 29, 30)),
    6: (0, (0x80000000, 0x80000001, 0x80010000, 0x80010001)),
    7: (28, (0, 0x1000000, 0x2000000)),
    8: (0, (0, 1, 2)),
    9: (0, (0, 3, 4, 9, 15)),
}
"""Per source: where its structure says what it is, and what that may be (4 bytes)."""
ADDRESS_SLACK: Final = 4096
MAX_WRITES: Final = 128


@define
class Memory:
    """Guest memory, of which the first bytes of each page are told by the input."""

    reachable: bool
    asked: list[tuple[int, int]] = field(factory=list)

    def holds(self, gpa: int, length: int) -> bool:
        """All or nothing."""
        self.asked.append((gpa, length))
        return self.reachable

    def read(self, gpa: int, length: int) -> bytes:
        """What has been asked about."""
        assert (gpa, length) in self.asked
        return bytes(length)


def seeds() -> list[bytes]:
    """Each kind of each source in a structure of each length that has room, otherwise all zeros or ones."""
    return [
        written(number, 3, 0, bytes([fill]) * place + kind.to_bytes(4, "little"))
        + bytes([fill]) * (length - place - 4)
        for number, (place, kinds) in KINDS.items()
        for kind in kinds
        for length in LENGTHS
        for fill in (0, 1, 0xFF)
        if place + 4 <= length
    ]


def run(data: bytes) -> None:
    """Source, what comes along, how the exit ends; then the structure."""
    reader = Reader(data)
    number = sorted(SOURCES)[(reader.number() - 1) % len(SOURCES)]
    options = reader.number()
    end = reader.number()
    body = reader.rest()[:MAX_BODY]
    if not body:
        return
    arrived = SourceExit(0, 1, body, state=flat64() if options & 1 else None)
    memory = Memory(bool(options & 2))
    try:
        found = read(SOURCES[number], arrived, memory)
    except ProtocolError as error:
        assert error.name
        assert error.reason
        return
    assert arrived == SourceExit(0, 1, body, state=arrived.state), "what came was changed"
    if isinstance(found, Settled):
        _check_settled(found, body)
        return
    assert isinstance(found, DecodedExit | RawExit)
    _check_exit(found)
    answer = SOURCES[number].answer(arrived, found, _ended(found, end))
    _check_answer(answer, body)


def _check_settled(settled: Settled, body: bytes) -> None:
    assert len(settled.posted) <= MAX_WRITES
    for write in settled.posted:
        assert write.direction != READ
        assert write.size in {1, 2, 4, 8}
        assert 0 <= write.value < 1 << 8 * write.size
        assert 0 <= write.address < 1 << SPACE_BITS[write.space]
    _check_answer(settled.answer, body)


def _check_exit(exit_: DecodedExit | RawExit) -> None:
    if isinstance(exit_, RawExit):
        again = read_datagram(encode_exit(exit_))
        assert isinstance(again, Arrived)
        assert again.exit == exit_
        return
    assert 1 <= exit_.size <= 8
    assert 1 <= exit_.count <= MAX_ELEMENTS // exit_.size
    assert len(exit_.data) == (0 if exit_.direction == READ else exit_.size * exit_.count)
    assert 0 <= exit_.address < 1 << SPACE_BITS[exit_.space]


def _ended(exit_: DecodedExit | RawExit, end: int) -> Completion:
    """One of the ways in which such an exit ends."""
    delta = Delta(1, 2, dict.fromkeys(range(end % 17), end << 8 * 7), [(end, b"x")])
    if isinstance(exit_, DecodedExit):
        length = exit_.size * exit_.count if exit_.direction == READ else 0
        ways: tuple[Completion, ...] = (Values(bytes([end]) * length), Fault(13, 0), Forward(), Retry())
    else:
        refused = Refused(Refusal.EVENT_DELIVERY)
        ways = (Done(delta), Fault(14, end, end, delta), Fault(6), Unsupported(b"\x0f"), refused)
    return ways[end % len(ways)]


def _check_answer(answer: Answer, body: bytes) -> None:
    if isinstance(answer, Reply):
        assert len(body) == len(answer.body)
    encode_completion(answer, vcpu=0, sequence=1, posted=0, interrupt=False, guest_ns=0, deadline_ns=0)
    assert encode_source(SourceExit(0, 1, body), 0)
