"""Strategies for messages of the exit protocol, shared by the tests of this folder."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from attrs import evolve
from hypothesis import strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import (
    MAX_MESSAGE,
    Reply,
    SourceExit,
    encode_completion,
    encode_exit,
    encode_posted,
    encode_source,
    pack,
    replies,
)
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.codec import FORMS, Form, Leaf, leaves
from mmiod.protocol.exit.completions import Completed
from mmiod.protocol.exit.events import Claim
from mmiod.protocol.exit.exits import SPACE_BITS, PostedWrite
from mmiod.protocol.exit.supplements import Supplied
from mmiod.values import (
    Access,
    AcknowledgeExit,
    Completion,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Exit,
    ExtendedState,
    Fault,
    Forward,
    HaltExit,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedRegisters,
    NeedTranslation,
    RawExit,
    Refusal,
    Refused,
    RegisterSet,
    Retry,
    Segment,
    Space,
    TickExit,
    Unsupported,
    Values,
    VcpuState,
    VectorDelta,
)

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, (1 << 64) - 1)


def numbers(bits: int) -> st.SearchStrategy[int]:
    """A number of so many bits."""
    return st.integers(0, (1 << bits) - 1)


vcpus = st.integers(0, 3)
"""The sessions of these tests have four."""
sequences = st.integers(1, (1 << 64) - 1)
pages = st.integers(0, (1 << 52) - 1).map(lambda number: number << 12)
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=16)


# --- any message, by the table --------------------------------------------------------


def _field(leaf: Leaf, code: str) -> st.SearchStrategy[int | bytes | str]:
    if leaf.text:
        return st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=leaf.size)
    if leaf.octets:
        return st.binary(min_size=leaf.size, max_size=leaf.size)
    if code == "i":
        return st.integers(-(1 << 31), (1 << 31) - 1)
    return st.integers(0, (1 << 8 * leaf.size) - 1)


@st.composite
def fields_of(draw: st.DrawFn, form: Form) -> dict[str, int | bytes | str]:
    """A value for every field of a message, anything that fits its place."""
    codes = {leaf.name: "i" if leaf.name == "stride" else "" for leaf in form.leaves}
    return {leaf.name: draw(_field(leaf, codes[leaf.name])) for leaf in form.leaves}


forms = st.sampled_from(list(FORMS.values()))


# --- exits ---------------------------------------------------------------------------

segments = st.builds(Segment, u64, u32, u16, u16)


@st.composite
def vector_states(draw: st.DrawFn) -> ExtendedState:
    """Some register sets; what they do not hold is 0."""
    sets = RegisterSet(draw(st.integers(1, 15)) | 32 * draw(st.integers(0, 3)))
    state = ExtendedState(sets)
    parts = [(RegisterSet.SSE, 0, 128), (RegisterSet.AVX, 128, 128), (RegisterSet.AVX512, 256, 256)]
    for number in range(16):
        state.zmm[number] = sum(draw(numbers(bits)) << at for part, at, bits in parts if part in sets)
    if RegisterSet.AVX512 in sets:
        state.k = draw(st.lists(u64, min_size=8, max_size=8))
        state.zmm[16:] = draw(st.lists(numbers(512), min_size=16, max_size=16))
    if RegisterSet.X87 in sets:
        state.x87 = draw(st.binary(min_size=160, max_size=160))
    if RegisterSet.PASID in sets:
        state.pasid = draw(u64)
    if RegisterSet.DEBUG in sets:
        state.dr = draw(st.lists(u64, min_size=4, max_size=4))
    return state


states = st.builds(
    VcpuState,
    gpr=st.lists(u64, min_size=16, max_size=16),
    rip=u64,
    rflags=u64,
    segments=st.lists(segments, min_size=6, max_size=6),
    tr=segments,
    ldtr=segments,
    gdtr=segments,
    idtr=segments,
    cpl=st.integers(0, 3),
    extended=st.none() | vector_states(),
    **dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "efer", "xcr0", "dr6", "dr7"), u64),
)


@st.composite
def places(draw: st.DrawFn) -> tuple[Space, int]:
    """A space and an address in it."""
    space = draw(st.sampled_from(Space))
    return space, draw(st.integers(0, (1 << SPACE_BITS[space]) - 1))


@st.composite
def decoded_exits(draw: st.DrawFn) -> DecodedExit:
    """Reads and writes of one element and of many."""
    space, address = draw(places())
    direction = draw(st.sampled_from(Direction))
    msr = space is Space.MSR
    size = 8 if msr else draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
    count = 1 if msr else draw(st.integers(1, 9))
    written = size * count if direction is Direction.WRITE else 0
    data = draw(st.binary(min_size=written, max_size=written))
    stride = draw(st.integers(-1, 1))
    return DecodedExit(draw(vcpus), draw(sequences), space, direction, address, size, count, stride, data)


memory = st.lists(st.tuples(st.integers(0, (1 << 64) - 65), st.binary(min_size=1, max_size=64)), max_size=3)
raw_exits = st.builds(
    RawExit,
    vcpu=vcpus,
    sequence=sequences,
    state=states,
    code=st.binary(max_size=15),
    gpa=st.none() | u64,
    gva=st.none() | u64,
    intent=st.none() | st.sampled_from(Intent),
    event_delivery=st.booleans(),
    translations=st.dictionaries(st.tuples(pages, st.sampled_from(Intent)), pages, max_size=3),
    memory=memory,
)
exits: st.SearchStrategy[Exit] = st.one_of(
    decoded_exits(),
    raw_exits,
    st.builds(HaltExit, vcpus, sequences),
    st.builds(TickExit, vcpus, sequences),
    st.builds(AcknowledgeExit, vcpus, sequences),
)


# --- exits of sources ------------------------------------------------------------------

supplied = st.builds(
    Supplied,
    st.dictionaries(st.tuples(pages, st.sampled_from(Intent)), pages, max_size=2),
    memory,
    st.none() | vector_states(),
)


def _without_vectors(state: VcpuState) -> VcpuState:
    """Vectors have a supplement of their own."""
    state.extended = None
    return state


source_exits = st.builds(
    SourceExit,
    vcpus,
    sequences,
    st.binary(min_size=1, max_size=40),
    st.binary(max_size=15),
    st.none() | states.map(_without_vectors),
    supplied,
)


@st.composite
def posted_writes(draw: st.DrawFn) -> PostedWrite:
    """A posted write whose value fits its size."""
    space, address = draw(places())
    size = draw(st.sampled_from([1, 2, 4, 8]))
    access = Access(space, Direction.WRITE, address, size, draw(st.integers(0, (1 << 8 * size) - 1)))
    return PostedWrite(draw(vcpus), draw(sequences), draw(u64), access)


# --- completions ---------------------------------------------------------------------

changes = st.builds(
    VectorDelta,
    st.dictionaries(st.integers(0, 31), numbers(128), max_size=2),
    st.dictionaries(st.integers(0, 31), numbers(512), max_size=2),
    st.dictionaries(st.integers(0, 7), u64, max_size=1),
    st.just(b"") | st.binary(min_size=160, max_size=160),
).filter(lambda delta: delta != VectorDelta())
registers = st.dictionaries(st.integers(0, 15), u64, max_size=16)
loaded = st.dictionaries(st.integers(0, 5), segments, max_size=2)
deltas = st.builds(Delta, u64, u64, registers, memory, st.none() | changes, segments=loaded)
stepped = st.builds(evolve, deltas, debug=st.sampled_from([0, 1, 0xF, 1 << 14, 0x400F]), shadow=st.booleans())
completions: st.SearchStrategy[Completion] = st.one_of(
    st.builds(Values, st.binary(max_size=80)),
    st.builds(Done, stepped),
    st.builds(Fault, st.integers(0, 31), st.none() | u32, st.none() | u64, st.none() | deltas),
    st.just(Retry()),
    st.builds(NeedBytes, u64, st.integers(1, 15)),
    st.builds(NeedMemory, u64, st.integers(1, (1 << 32) - 1)),
    st.builds(NeedTranslation, u64, st.sampled_from(Intent), st.integers(0, 3)),
    st.builds(NeedRegisters, st.integers(1, 15).map(RegisterSet)),
    st.builds(Unsupported, st.binary(max_size=15)),
    st.builds(Refused, st.sampled_from(Refusal)),
    st.just(Forward()),
)
source_replies = st.builds(Reply, st.binary(min_size=1, max_size=40), memory, st.none() | changes)
completed = st.builds(Completed, vcpus, sequences, completions | source_replies, st.booleans(), u64, u64, u64)


def completed_bytes(done: Completed) -> bytes:
    """What the daemon sends for `done`."""
    return encode_completion(
        done.completion,
        vcpu=done.vcpu,
        sequence=done.sequence,
        posted=done.posted,
        interrupt=done.interrupt,
        guest_ns=done.guest_ns,
        deadline_ns=done.deadline_ns,
    )


# --- whole datagrams that are in order -------------------------------------------------

claims = st.builds(Claim, st.integers(0, 3), u64, st.integers(1, 1 << 64), st.integers(0, 4), texts)


def _requests() -> list[bytes]:
    client = Client("vm0", 4, vendor="test")
    requests = [
        client.map(1, 0x10_0000, 0x2000, offset=0x1000, read_only=True),
        client.unmap(1),
        client.remap(1, 0x20_0000),
        client.reset(),
        client.reset(2),
        client.pause(),
        client.resume(),
        client.query_claims(),
    ]
    laid_out = [
        pack("SAVE", serial=1),
        pack("RESTORE", serial=2, length=5),
        pack("SHARE", serial=3, slots=4, length=0x4000),
    ]
    return [client.hello(), client.eoi(3), *laid_out, *(data for _, data in requests)]


to_daemon: st.SearchStrategy[bytes] = st.one_of(
    st.builds(encode_exit, exits, u64),
    st.builds(encode_source, source_exits, u64),
    posted_writes().map(encode_posted),
    st.sampled_from(_requests()),
)
to_client: st.SearchStrategy[bytes] = st.one_of(
    completed.map(completed_bytes),
    st.lists(claims, max_size=3).map(lambda ranges: replies.claims(7, ranges)[0]),
    st.sampled_from(
        [
            replies.ack(3, 9),
            replies.intr(2, level=True),
            replies.set_level(4, level=False),
            replies.msi(0xFEE0_0000, 0x41),
            replies.request(2),
            replies.request(4, 1, 33),
            replies.resumed(2),
        ]
    ),
)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes] = to_daemon | to_client) -> bytes:
    """A datagram in order, with some of it cut off, added or overwritten."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["cut", "add", "octet", "word", "size"])):
            case "cut":
                del data[at:]
            case "add":
                data += draw(st.binary(min_size=1, max_size=16))
            case "octet" if data:
                data[at] = draw(u8)
            case "word" if len(data) >= at + 8:
                data[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x01" + bytes(7)]))
            case "size" if len(data) >= 4 and len(data) <= MAX_MESSAGE:
                data[:4] = struct.pack("<I", len(data))
            case _:
                pass
    return bytes(data)


def patch(data: bytes, name: str, value: int) -> bytes:
    """The datagram with one field, reserved ones too, overwritten; "header.x" is the header's."""
    if name.startswith("header."):
        at, size = {"header.size": (0, 4), "header.type": (4, 2), "header.flags": (6, 2)}[name]
    else:
        form = FORMS[int.from_bytes(data[4:6], "little")]
        at, size = next((leaf.offset, leaf.size) for leaf in leaves(form.layout) if leaf.name == name)
    return data[:at] + value.to_bytes(size, "little", signed=value < 0) + data[at + size :]


def resize(data: bytes, length: int) -> bytes:
    """The datagram cut or filled with zeros to `length` bytes, its size field right."""
    return patch(data[:length].ljust(length, b"\0"), "header.size", length)


def refusal(action: Callable[[], object]) -> ProtocolError:
    """The ProtocolError that `action` raises."""
    with pytest.raises(ProtocolError) as caught:
        action()
    return caught.value
