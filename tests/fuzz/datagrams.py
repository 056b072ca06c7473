"""Datagrams of the exit protocol that are in order: every message, and some that mean more."""

from __future__ import annotations

from mmiod.protocol.exit import (
    Answer,
    Client,
    Reply,
    SourceExit,
    encode_completion,
    encode_exit,
    encode_posted,
    encode_source,
    pack,
    replies,
)
from mmiod.protocol.exit.codec import FORMS
from mmiod.protocol.exit.events import Claim
from mmiod.protocol.exit.exits import PostedWrite
from mmiod.values import (
    CS,
    READ,
    WRITE,
    Access,
    DecodedExit,
    Delta,
    Done,
    Exit,
    Fault,
    Forward,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedTranslation,
    RawExit,
    Refusal,
    Refused,
    Retry,
    Segment,
    Space,
    Unsupported,
    Values,
    VcpuState,
)

EVERYTHING = (1 << 10) - 1
"""All capabilities."""
VCPUS = 4


def flat64(**registers: int | list[int]) -> VcpuState:
    """Long mode without paging's tables: addresses are given by translations."""
    state = VcpuState(segments=[Segment(0, 0xFFFF_FFFF, 8, 0xC093) for _ in range(6)], cr0=1, efer=0x500)
    state.segments[CS].attributes = 0xA09B
    for name, value in registers.items():
        setattr(state, name, value)
    return state


def exits() -> list[Exit]:
    """Decoded and raw ones, as sequence 1 of vCPU 0."""
    page = {(0x5000, Intent.WRITE): 0x5000, (0x5000, Intent.READ): 0x5000}
    state = flat64(gpr=[3, 2, 0x200, 0, 0, 0, 0x5000, 0x5100] + [0] * 8)
    codes = ["8b06", "8807", "f3a4", "f3ab", "f06e", "ec", "f36e", "f00107", "8707", "0fb606", "a7", "90"]
    return [
        DecodedExit(0, 1, Space.PIO, READ, 0x200, 4),
        DecodedExit(0, 1, Space.PIO, WRITE, 0x200, 1, 9, 0, b"123456789"),
        DecodedExit(0, 1, Space.MMIO, READ, 0xFFC, 64, 3, 1),
        *(RawExit(0, 1, state, bytes.fromhex(code)) for code in codes),
        RawExit(0, 1, state, b"\x8b\x06", gpa=0x5000, gva=0x5000, intent=Intent.READ, translations=page),
        RawExit(0, 1, state, b"", memory=[(0x1000, b"\x8b\x06")]),
    ]


def to_daemon() -> list[bytes]:
    """What clients send."""
    client = Client("vm", VCPUS, optional=EVERYTHING, vendor="fuzz")
    requests = [
        client.map(1, 0x10_0000, 0x2000, offset=0x1000, read_only=True),
        client.map(2, 0, 0x1_0000, descriptor=False),
        client.unmap(1),
        client.remap(2, 0x20_0000),
        client.reset(),
        client.reset(2),
        client.pause(),
        client.save(),
        client.restore(100),
        client.resume(),
        client.query_claims(),
    ]
    posted = PostedWrite(0, 1, 0, Access(Space.PIO, WRITE, 0x208, 4, 1000))
    return [
        *(pack(form.layout.name) for form in FORMS.values() if form.layout.to_daemon),
        client.hello(),
        *(data for _, data in requests),
        *(encode_exit(exit_) for exit_ in exits()),
        encode_posted(posted),
        encode_source(SourceExit(0, 1, b"abcde", b"\x8b\x06", flat64()), 0),
    ]


def completions() -> list[Answer]:
    """One of each kind."""
    delta = Delta(0x1000, 2, {0: 1, 15: 2}, [(0x5000, b"abc")])
    return [
        Values(b"12345678"),
        Values(b"x" * 65),
        Done(delta),
        Fault(14, 2, 0x1000, delta),
        Fault(6),
        Retry(),
        NeedBytes(0x1000, 3),
        NeedMemory(0x1000, 8),
        NeedTranslation(0x1000, Intent.WRITE, 3),
        Unsupported(b"\x0f\x0b"),
        Refused(Refusal.MMIO_FETCH),
        Forward(),
        Reply(b"abcde", [(0x5000, b"abc")]),
    ]


def to_client() -> list[bytes]:
    """What the daemon sends."""
    claims = [Claim(0, 0, 1 << 64, 1, ""), Claim(1, 0x3F8, 8, 0, "uart0")]
    return [
        *(pack(form.layout.name) for form in FORMS.values() if not form.layout.to_daemon),
        *(
            encode_completion(one, vcpu=0, sequence=1, posted=0, interrupt=False, guest_ns=0, deadline_ns=1)
            for one in completions()
        ),
        replies.claims(7, claims)[0],
        replies.ack(3, 9),
        replies.request(4, 1, 33),
    ]
