"""Whatever a control client sends: a reply or an error to each call, in order, or its connection ends.

A frame that is no call ends the connection; nothing that is asked changes a device.
"""

from __future__ import annotations

import json
from typing import Final

import trio
from attrs import define, field

from mmiod.control.commands import COMMANDS, interface
from mmiod.control.meant import NAME
from mmiod.control.server import Client
from mmiod.control.service import Service
from mmiod.control.varlink import SERVICE, Call, Malformed, parse_call
from mmiod.machine.state import save
from tests.control.small_daemon import SmallDaemon
from tests.fuzz.reader import Reader, written


def _daemon() -> SmallDaemon:
    daemon = SmallDaemon()
    for address in (0x3F8, 0x3FD, 0x80, 0x99):
        daemon.access("vm0", address)
    return daemon


DAEMON: Final = _daemon()
SERVED: Final = Service.of(interface(DAEMON))


def seeds() -> list[bytes]:
    """Each command, well called and not."""
    names = [f"{NAME}.{row[0]}" for row in COMMANDS] + [f"{SERVICE}.GetInfo", f"{NAME}.None", "x", ""]
    parameters: list[object] = [
        {},
        {"vm": "vm0"},
        {"vm": "ghost"},
        {"vm": "vm0", "device": "uart0", "pattern": "l*"},
        {"filter": "device == uart0 and value > 0x10", "start": "oldest"},
        {"vm": 1},
        {"x": None},
    ]
    calls: list[object] = [{"method": name, "parameters": one} for name in names for one in parameters]
    calls += [{"method": f"{NAME}.Watch", "more": True, "parameters": one} for one in parameters]
    calls += [{"method": f"{NAME}.GetMap", "oneway": True}, {"method": 7}, [], 1, None]
    described = {"method": f"{SERVICE}.GetInterfaceDescription", "parameters": {"interface": NAME}}
    return [written(4, json.dumps(call).encode() + b"\0") for call in [*calls, described]]


@define(eq=False)
class Wire:
    """A client that sends all at once, in pieces, and reads all."""

    data: bytes
    piece: int
    sent: bytearray = field(factory=bytearray)

    async def receive_some(self, most: int) -> bytes:
        """The next piece; empty at the end."""
        await trio.lowlevel.checkpoint()
        taken, self.data = self.data[: min(self.piece, most)], self.data[min(self.piece, most) :]
        return taken

    async def send_all(self, data: bytes) -> None:
        """Keep what the daemon says."""
        await trio.lowlevel.checkpoint()
        self.sent += data


def run(data: bytes) -> None:
    """The first byte is the size of the pieces in which the rest arrives."""
    reader = Reader(data)
    wire = Wire(b"", 1 << (reader.number() % 13))
    wire.data = reader.rest()
    sent = wire.data
    before = _devices()
    ended = trio.run(_serve, wire)
    _check(sent, bytes(wire.sent), malformed=ended)
    assert before == _devices()


def _devices() -> list[object]:
    """All state but the clock, which moves when it is looked at."""
    return [json.loads(save(machine))["devices"] for machine in DAEMON.machines.values()]


async def _serve(wire: Wire) -> bool:
    """Whether the connection ended for something malformed."""
    try:
        await Client(wire, SERVED).serve()  # type: ignore[arg-type]
    except Malformed:
        return True
    return False


def _check(sent: bytes, received: bytes, *, malformed: bool) -> None:
    *frames, rest = received.split(b"\0")
    assert not rest
    replies = [json.loads(frame) for frame in frames]
    for call in _calls(sent):
        if call is None:
            assert malformed
            break
        if call.oneway:
            continue
        if not replies:  # a stream without traffic, ended by what came behind it or by the end
            assert call.more
            return
        reply = replies.pop(0)
        assert set(reply) <= {"parameters", "error", "continues"}, reply
        assert isinstance(reply["parameters"], dict)
        if reply.get("continues"):
            return
    assert not replies


def _calls(sent: bytes) -> list[Call | None]:
    """The calls in a stream of bytes; None for the one that ends it."""
    calls: list[Call | None] = []
    for frame in sent.split(b"\0")[:-1]:
        try:
            calls.append(parse_call(frame))
        except Malformed:
            return [*calls, None]
    return calls
