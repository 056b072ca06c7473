"""The server's session alone: what it answers itself, what it hands on, what it refuses."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterator

import pytest
from attrs import define
from hypothesis import given, settings, strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import (
    Complaint,
    Event,
    MapMemory,
    OneWrite,
    Read,
    Reset,
    Session,
    SetIrqs,
    Shape,
    UnmapMemory,
    Write,
    read_reply,
)

SHAPE = Shape((0x1000, 0, 0x10000, 0, 16, 0, 0, 256, 0), (1, 4, 8, 1, 1))
VERSION, MAP, UNMAP, INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS, READ, WRITE = range(1, 11)
RESET, MULTI = 13, 15
NO_REPLY = 0x10


def message(command: int, payload: bytes = b"", *, flags: int = 0, number: int = 7) -> bytes:
    """One message of a client."""
    return struct.pack("<HHIII", number, command, 16 + len(payload), flags, 0) + payload


def agreed(shape: Shape = SHAPE) -> Session:
    """A session behind VERSION."""
    session = Session(shape)
    session.receive(message(VERSION, struct.pack("<HH", 0, 1)), [])
    assert session.take() is None
    session.outgoing.clear()
    return session


@define
class Answer:
    """A reply's parts."""

    flags: int
    error: int
    payload: bytes


def answers(session: Session) -> Iterator[Answer]:
    """What the session sends, taken apart."""
    data, session.outgoing = bytes(session.outgoing), bytearray()
    while data:
        number, _, size, flags, error = struct.unpack_from("<HHIII", data)
        assert number == 7
        yield Answer(flags, error, data[16:size])
        data = data[size:]


def ask(session: Session, command: int, payload: bytes = b"", *descriptors: int, flags: int = 0) -> Event:
    """Send one message that makes an event."""
    session.receive(message(command, payload, flags=flags), list(descriptors))
    event = session.take()
    assert event is not None
    return event


def refused(session: Session, command: int, payload: bytes = b"", *descriptors: int) -> tuple[int, str]:
    """Send one message that is refused: the errno and the field."""
    event = ask(session, command, payload, *descriptors)
    assert isinstance(event, Complaint), event
    [answer] = answers(session)
    assert (0x21, b"") == (answer.flags, answer.payload)
    assert answer.error == event.error.code
    assert list(descriptors) == session.unwanted
    session.unwanted.clear()
    return answer.error, event.error.name


# --- VERSION ----------------------------------------------------------------------------------


def version(payload: bytes, *, busy: bool = False) -> Answer:
    """The answer to a client's first message."""
    session = Session(SHAPE, busy=busy)
    session.receive(message(VERSION, payload), [])
    try:
        assert session.take() is None
    except ProtocolError:
        assert not session.negotiated
    [answer] = answers(session)
    return answer


@pytest.mark.parametrize(("theirs", "ours"), [(0, 0), (1, 1), (2, 1)])
def test_the_lower_minor_version_is_spoken(theirs: int, ours: int) -> None:
    """QEMU proposes 0.0 and refuses 0.1, rust-vmm 0.1, alioth 0.2."""
    assert struct.pack("<HH", 0, ours) == version(struct.pack("<HH", 0, theirs)).payload


def test_capabilities_are_those_that_both_name() -> None:
    """A reply is never longer than its request: QEMU has no more room for it."""
    proposed = {"capabilities": {"max_msg_fds": 16, "write_multiple": True, "pgsizes": 4096, "new": {}}}
    text = json.dumps(proposed).encode() + b"\0"
    answer = version(struct.pack("<HH", 0, 0) + text)
    agreed_on = json.loads(answer.payload[4:].removesuffix(b"\0"))
    assert {"capabilities": {"max_msg_fds": 16, "write_multiple": True}} == agreed_on
    assert len(answer.payload) <= 4 + len(text)


@pytest.mark.parametrize(
    "payload",
    [
        b"\0\0",
        struct.pack("<HH", 1, 0),
        struct.pack("<HH", 0, 1) + b"{",
        struct.pack("<HH", 0, 1) + b"[]\0",
        struct.pack("<HH", 0, 1) + b'{"capabilities": 3}\0',
        struct.pack("<HH", 0, 1) + b"\xff\xfe\0",
        struct.pack("<HH", 0, 1) + b"[" * 4000,
        struct.pack("<HH", 0, 1) + b" " * 5000,
    ],
    ids=["short", "major", "cut", "no object", "a number", "no UTF-8", "deep", "long"],
)
def test_a_version_that_cannot_be_agreed(payload: bytes) -> None:
    """It is answered by an error, and the connection ends."""
    assert (0x21, errno.EINVAL) == ((answer := version(payload)).flags, answer.error)


def test_a_busy_function() -> None:
    """EBUSY comes as the answer to VERSION: QEMU tells its user at once."""
    assert errno.EBUSY == version(struct.pack("<HH", 0, 1), busy=True).error


def test_nothing_comes_before_version() -> None:
    """The connection ends."""
    session = Session(SHAPE)
    session.receive(message(INFO, bytes(16)), [])
    with pytest.raises(ProtocolError, match="begins with VERSION"):
        session.take()


# --- queries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "asked", "expected"),
    [
        (INFO, struct.pack("<IIII", 16, 0, 0, 0), struct.pack("<IIII", 16, 3, 9, 5)),
        (INFO, struct.pack("<IIII", 32, 0, 0, 0), struct.pack("<IIII", 16, 3, 9, 5)),
        *(
            (
                REGION_INFO,
                struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0),
                struct.pack("<IIIIQQ", 32, 3 if size else 0, index, 0, size, 0),
            )
            for index, size in enumerate(SHAPE.regions)
        ),
        *(
            (
                IRQ_INFO,
                struct.pack("<IIII", 16, 0, index, 0),
                struct.pack("<IIII", 16, flags, index, count),
            )
            for index, (flags, count) in enumerate(zip((7, 1, 1, 1, 1), SHAPE.irqs, strict=True))
        ),
        (IO_FDS, struct.pack("<IIII", 1296, 0, 2, 0), struct.pack("<IIII", 16, 0, 2, 0)),
    ],
)
def test_queries_are_answered_from_the_shape(command: int, asked: bytes, expected: bytes) -> None:
    """No event: the device is not asked.  Regions that are not there have size 0."""
    session = agreed()
    session.receive(message(command, asked), [])
    assert session.take() is None
    assert [Answer(1, 0, expected)] == list(answers(session))


@pytest.mark.parametrize(
    ("command", "payload", "field"),
    [
        (REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 9, 0, 0, 0), "region_info.index"),
        (IRQ_INFO, struct.pack("<IIII", 16, 0, 5, 0), "irq_info.index"),
        (IO_FDS, struct.pack("<IIII", 16, 0, 9, 0), "region_io_fds.index"),
        (INFO, bytes(15), "header.size"),
        (RESET, bytes(1), "header.size"),
        (MAP, bytes(31), "header.size"),
        (READ, bytes(15), "header.size"),
        (MULTI, bytes(7), "header.size"),
    ],
)
def test_what_no_client_asks(command: int, payload: bytes, field: str) -> None:
    """EINVAL, and the field that is wrong."""
    assert (errno.EINVAL, field) == refused(agreed(), command, payload)


@pytest.mark.parametrize("command", [VERSION, 0, 11, 12, 14, 17, 18, 0xFFFF])
def test_commands_that_are_not_served(command: int) -> None:
    """ENOTSUP: migration of what has none, DMA towards us, a second VERSION, what does not exist."""
    assert (errno.ENOTSUP, "header.command") == refused(agreed(), command, bytes(64))


@pytest.mark.parametrize("command", [VERSION, UNMAP, INFO, READ, WRITE, RESET, MULTI])
def test_descriptors_where_none_belong(command: int) -> None:
    """They are unwanted: the attachment closes them."""
    session = agreed()
    session.receive(message(command, bytes(64)), [3, 4])
    assert isinstance(session.take(), Complaint)
    assert [3, 4] == session.unwanted


# --- memory -----------------------------------------------------------------------------------


def test_mapping_with_and_without_a_descriptor() -> None:
    """The descriptor is the event's; without the write flag memory is read-only."""
    session = agreed()
    event = ask(session, MAP, struct.pack("<IIQQQ", 32, 3, 0x1000, 0x10_0000, 0x2000), 5)
    assert isinstance(event, MapMemory)
    assert (0x10_0000, 0x2000, 0x1000, False, 5) == (
        event.address,
        event.length,
        event.offset,
        event.read_only,
        event.descriptor,
    )
    event = ask(session, MAP, struct.pack("<IIQQQ", 32, 1, 0, 0xC_0000, 0x2_0000))
    assert isinstance(event, MapMemory)
    assert (True, None) == (event.read_only, event.descriptor)
    assert not session.unwanted


@pytest.mark.parametrize(
    ("payload", "descriptors", "field"),
    [
        ((32, 3, 0, 0x1000, 0), 1, "dma_map.size"),
        ((32, 3, 0, 0x1000, (1 << 64) - 0x1000 + 1), 1, "dma_map.size"),
        ((31, 3, 0, 0x1000, 0x1000), 1, "dma_map.argsz"),
        ((32, 0x10, 0, 0x1000, 0x1000), 1, "dma_map.flags"),
        ((32, 3, 1 << 63, 0x1000, 0x1000), 1, "dma_map.offset"),
        ((32, 3, 0, 0x1000, 0x1000), 2, "DMA_MAP descriptors"),
    ],
)
def test_maps_that_make_no_sense(payload: tuple[int, ...], descriptors: int, field: str) -> None:
    """They are refused by name, with their descriptors."""
    given_ = range(10, 10 + descriptors)
    assert (errno.EINVAL, field) == refused(agreed(), MAP, struct.pack("<IIQQQ", *payload), *given_)


def test_unmapping_a_range_or_everything() -> None:
    """The reply repeats the request."""
    payload = struct.pack("<IIQQ", 24, 0, 0x1000, 0x2000)
    event = ask(agreed(), UNMAP, payload)
    assert isinstance(event, UnmapMemory)
    assert (0x1000, 0x2000, payload) == (event.address, event.length, event.echo)
    event = ask(agreed(), UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))
    assert isinstance(event, UnmapMemory)
    assert (0, 1 << 64) == (event.address, event.length)


# --- interrupts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "data", "descriptors", "expected"),
    [
        (1, b"", [5], (5,)),
        (1, b"", [], (None,)),
        (4, b"", [5, 6, 7, 8], (5, 6, 7, 8)),
        (3, b"", [], (None, None, None)),
        (3, struct.pack("<3i", 0, -1, 1), [5, 6], (5, None, 6)),
        (2, struct.pack("<2i", -1, -1), [], (None, None)),
    ],
)
def test_eventfds_in_every_dialect(
    count: int, data: bytes, descriptors: list[int], expected: tuple[int | None, ...]
) -> None:
    """All, none, or by alioth's list of int32."""
    session = agreed()
    payload = struct.pack("<IIIII", 20, 0x24, 2, 0, count) + data
    event = ask(session, SET_IRQS, payload, *descriptors)
    assert isinstance(event, SetIrqs)
    assert expected == event.descriptors
    assert not session.unwanted


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "data", "descriptors", "field"),
    [
        (0x24, 5, 0, 1, b"", 1, "set_irqs.index"),
        (0x24, 2, 7, 2, b"", 2, "set_irqs.count"),
        (0x24, 2, 0xFFFFFFFF, 0xFFFFFFFF, b"", 0, "set_irqs.count"),
        (0x24, 2, 0, 3, b"", 2, "set_irqs descriptors"),
        (0x24, 2, 0, 2, struct.pack("<2i", 0, -1), 2, "set_irqs descriptors"),
        (0x24, 2, 0, 2, b"123", 2, "set_irqs data"),
        (0x21, 2, 0, 1, b"", 1, "set_irqs descriptors"),
        (0x22, 2, 0, 2, b"\1", 0, "set_irqs data"),
        (0x20, 2, 0, 1, b"", 0, "set_irqs.flags"),
        (0x23, 2, 0, 1, b"", 0, "set_irqs.flags"),
        (0x31, 2, 0, 1, b"", 0, "set_irqs.flags"),
        (0x01, 2, 0, 1, b"", 0, "set_irqs.flags"),
        (0x24, 2, 0, 1, b"", 65, "SET_IRQS descriptors"),
    ],
)
def test_interrupts_that_make_no_sense(
    flags: int, index: int, start: int, count: int, data: bytes, descriptors: int, field: str
) -> None:
    """They are refused by name, with their descriptors."""
    payload = struct.pack("<IIIII", 20, flags, index, start, count) + data
    given_ = range(10, 10 + descriptors)
    assert (errno.EINVAL, field) == refused(agreed(), SET_IRQS, payload, *given_)


# --- accesses ---------------------------------------------------------------------------------


def test_accesses_are_handed_on() -> None:
    """And answered with what the device says."""
    session = agreed()
    event = ask(session, READ, struct.pack("<QII", 0xFFC, 0, 4))
    assert isinstance(event, Read)
    session.answer(event.request, read_reply(event.region, event.offset, b"1234"))
    assert [Answer(1, 0, struct.pack("<QII", 0xFFC, 0, 4) + b"1234")] == list(answers(session))
    event = ask(session, WRITE, struct.pack("<QII", 4, 7, 2) + b"\6\0")
    assert isinstance(event, Write)
    assert (OneWrite(7, 4, b"\6\0"),) == event.writes
    session.answer(event.request, event.reply)
    assert [Answer(1, 0, struct.pack("<QII", 4, 7, 2))] == list(answers(session))
    assert isinstance(ask(session, RESET), Reset)


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [(0, 0xFFD, 4), (0, (1 << 64) - 2, 4), (1, 0, 4), (8, 0, 1), (0, 0, 0)],
)
def test_accesses_outside_of_a_region(region: int, offset: int, count: int) -> None:
    """Reads are answered with ones, as long as asked; writes are dropped; people are told."""
    session = agreed()
    head = struct.pack("<QII", offset, region, count)
    session.receive(message(READ, head), [])
    assert isinstance(session.take(), Complaint)
    assert [Answer(1, 0, head + b"\xff" * count)] == list(answers(session))
    event = ask(session, WRITE, head + bytes(count))
    assert isinstance(event, Write)
    assert ((), head) == (event.writes, event.reply)
    assert isinstance(session.take(), Complaint)
    assert session.take() is None


@pytest.mark.parametrize("region", [9, 0xDEADBEEF])
def test_accesses_of_a_region_that_cannot_be(region: int) -> None:
    """No guest brings that about, so a read is an error to any client; a write is dropped."""
    head = struct.pack("<QII", 0, region, 4)
    assert (errno.EINVAL, "region_read.region") == refused(agreed(), READ, head)
    session = agreed()
    event = ask(session, WRITE, head + bytes(4))
    assert isinstance(event, Write)
    assert ((), head) == (event.writes, event.reply)
    assert isinstance(session.take(), Complaint)


def test_too_much_at_once() -> None:
    """What was never offered is an error: no megabytes of ones for 32 bytes."""
    assert (errno.EINVAL, "region_read.count") == refused(
        agreed(), READ, struct.pack("<QII", 0, 0, (1 << 20) + 1)
    )


@pytest.mark.parametrize("came", [0, 3, 5])
def test_a_write_whose_data_is_not_there(came: int) -> None:
    """The count must be that of the bytes."""
    payload = struct.pack("<QII", 0, 0, 4) + bytes(came)
    assert (errno.EINVAL, "region_write.count") == refused(agreed(), WRITE, payload)


def test_many_writes() -> None:
    """Each has up to eight bytes; they keep their order."""
    parts = struct.pack("<QIIQ", 4, 0, 2, 0x11223344) + struct.pack("<QIIQ", 8, 2, 8, 0x1122334455667788)
    event = ask(agreed(), MULTI, struct.pack("<Q", 2) + parts, flags=NO_REPLY)
    assert isinstance(event, Write)
    assert event.request.quiet
    assert (
        OneWrite(0, 4, b"\x44\x33"),
        OneWrite(2, 8, bytes.fromhex("8877665544332211")),
    ) == event.writes


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack("<Q", 2) + bytes(24),
        struct.pack("<Q", 1) + bytes(25),
        struct.pack("<Q", 1 << 63) + bytes(24),
        struct.pack("<Q", 1) + struct.pack("<QIIQ", 0, 0, 9, 0),
        struct.pack("<Q", 1) + struct.pack("<QIIQ", 0, 0, 0, 0),
    ],
)
def test_many_writes_that_make_no_sense(payload: bytes) -> None:
    """All are refused together: none is done."""
    assert (errno.EINVAL, "write_multi.count") == refused(agreed(), MULTI, payload)


def test_who_wants_no_reply_gets_none() -> None:
    """No error either: QEMU would take it for the answer to something else."""
    session = agreed()
    for command, payload in ((99, b""), (READ, bytes(3)), (READ, struct.pack("<QII", 0, 9, 4))):
        assert isinstance(ask(session, command, payload, flags=NO_REPLY), Complaint)
    event = ask(session, RESET, flags=NO_REPLY)
    assert isinstance(event, Reset)
    session.answer(event.request)
    session.fail(event.request, errno.EIO)
    assert not session.outgoing


@pytest.mark.parametrize("kind", [1, 2, 15])
def test_what_is_no_command(kind: int) -> None:
    """A reply to nothing, or a type that does not exist: the connection ends."""
    session = agreed()
    session.receive(message(READ, bytes(16), flags=kind), [])
    with pytest.raises(ProtocolError, match="asked"):
        session.take()


def test_order_is_that_of_arrival() -> None:
    """An answer that comes late holds everything up that came behind it."""
    session = agreed()
    chunk = message(READ, struct.pack("<QII", 0, 0, 4)) + message(INFO, struct.pack("<IIII", 16, 0, 0, 0))
    session.receive(chunk, [])
    event = session.take()
    assert isinstance(event, Read)
    assert not session.outgoing
    session.answer(event.request, read_reply(0, 0, b"1234"))
    assert session.take() is None
    assert [20, 16] == [len(answer.payload) for answer in answers(session)]


# --- any bytes --------------------------------------------------------------------------------

COMMANDS = st.sampled_from(
    [VERSION, MAP, UNMAP, INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS, READ, WRITE, 13, 15, 16]
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 16, 24, 32, 0x24, 0x1000, (1 << 32) - 1]) | st.integers(
    0, (1 << 32) - 1
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, int]:
    """A message that is nearly in order, and how many descriptors come with it."""
    words = draw(st.lists(NUMBERS, max_size=14))
    payload = struct.pack(f"<{len(words)}I", *words) + draw(st.binary(max_size=4))
    flags = draw(st.sampled_from([0, 0, 0, NO_REPLY, NO_REPLY, 1]))
    return message(draw(COMMANDS), payload, flags=flags), draw(st.sampled_from([0, 0, 0, 1, 2, 4, 65]))


@settings(max_examples=300)
@given(st.lists(messages(), max_size=8))
def test_whatever_comes_has_one_answer_and_keeps_no_descriptor(stream: list[tuple[bytes, int]]) -> None:
    """Each message that wants a reply gets one; each descriptor is an event's or unwanted."""
    session = agreed()
    numbers = iter(range(1000))
    sent: list[int] = []
    held: list[int] = []
    for data, count in stream:
        descriptors = [next(numbers) for _ in range(count)]
        sent += descriptors
        wants = not struct.unpack_from("<I", data, 8)[0] & NO_REPLY
        try:
            session.receive(data, descriptors)
            while (event := session.take()) is not None:
                held += settle(session, event)
        except ProtocolError:
            break
        assert wants == len(list(answers(session)))
    session.close()
    assert sorted(sent) == sorted(held + session.unwanted)


def settle(session: Session, event: Event) -> list[int]:
    """Answer an event as an attachment would; the descriptors that it took over."""
    match event:
        case Read():
            session.answer(event.request, read_reply(event.region, event.offset, bytes(event.size)))
        case Write():
            session.answer(event.request, event.reply)
        case UnmapMemory():
            session.answer(event.request, event.echo)
        case MapMemory():
            session.answer(event.request)
            return [] if event.descriptor is None else [event.descriptor]
        case SetIrqs():
            session.answer(event.request)
            return [given_ for given_ in event.descriptors or () if given_ is not None]
        case Reset():
            session.answer(event.request)
    return []
